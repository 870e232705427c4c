#!/usr/bin/env bash
# Trains compressors for the 135M on a processor, and measures them on sessions and texts that they were not trained on:
# learn_cpu.sh TEXTS TRAIN DATA. TEXTS is a folder of texts and of questions in the form of SQuAD, TRAIN a folder of sessions,
# DATA a folder with transcripts/ and probes.jsonl of other sessions. Each training has SECONDS_EACH (7,200); what is cut goes
# on by the same command. Results: out/learn/
set -euo pipefail
texts=$(realpath "${1:?give a folder of texts}") train=$(realpath "${2:?give a folder of sessions}")
data=$(realpath "${3:?give a folder with transcripts/ and probes.jsonl}")
cd "$(dirname "$0")/.."
out=${OUT:-out/learn} python=${PYTHON:-.venv/bin/python} model=${MODEL:-smollm2-135m}
mkdir -p "$out"
bounded() {
  timeout --signal=INT --kill-after=120 "${SECONDS_EACH:-7200}" "$python" -m holdfast train "$@" --model "$model" ||
    [ $? -eq 124 ] || [ $? -eq 130 ]
}
common=(--set dropout=0 --set schedule=cosine --set save_every=50 --set steps="${STEPS:-1500}")
bounded icae "$texts" -o "$out/icae-16-4" "${common[@]}" --set memory=4 --set ratio=4 --set reconstruct=1 --set batch=16 \
  --set rate=1e-3 --set warmup=50 --set judge_every=100 --judge 64 --set keep=0
bounded icae "$texts" -o "$out/icae-32-8" "${common[@]}" --set memory=8 --set ratio=4 --set reconstruct=0.5 --set batch=8 \
  --set rate=1e-3 --set warmup=50 --set judge_every=100 --judge 64 --set keep=0
bounded restore "$train" -o "$out/restore" "${common[@]}" --set memory=8 --set window=1024 --set later=192 --set past=64 \
  --set ratios=16+32 --set rank=32 --set batch=2 --set rate=5e-4 --set warmup=10
bounded anchors "$train" -o "$out/anchors" "${common[@]}" --set chunk=512 --set window=1024 --set later=192 --set past=64 \
  --set ratios=8+16 --set rank=32 --set batch=2 --set rate=5e-4 --set warmup=10
for credit in 1 0; do
  bounded icae "$train" -o "$out/steps-credit-$credit" "${common[@]}" --set task=steps --set memory=64 --set ratio=4 \
    --set window=1024 --set credit="$credit" --set batch=1 --set rate=5e-4
  "$python" benchmarks/learn_measure.py credit --weights "$out/steps-credit-$credit" --data "$data/transcripts" \
    --limit 60 --window 1024
done
"$python" benchmarks/learn_measure.py bleu --weights "$out/icae-16-4" --data "$texts" --limit 100
"$python" benchmarks/learn_measure.py bleu --weights "$out/icae-16-4" --data "$data/transcripts" --limit 100
"$python" -m holdfast eval run --data "$data" --window 1200 --model "$model" --no-answers --no-later --ratio 16 --ratio 32 \
  --latent informed --latent surrogate:otherwise=informed --latent merge:mass=true --latent truncate \
  --latent "restore:weights=$out/restore" --latent "anchors:weights=$out/anchors" --latent "icae:weights=$out/icae-16-4" \
  --out "$out/rows.jsonl"
"$python" -m holdfast eval score "$out/rows.jsonl" --against surrogate:otherwise=informed

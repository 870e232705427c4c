#!/usr/bin/env bash
# One H200, 15 minutes: ICAE 1,024 -> 256 as the thesis has it, then anchors by the full context's next words.
# learn_gpu.sh DATA [MODEL]. DATA is a folder of texts and sessions. STEPS=2 DEVICE=cpu BATCH=1 tries the recipe anywhere.
# Each run is bounded (ICAE 9 minutes, anchors 5); what is cut goes on by the same command. Results: out/learn-gpu/
set -euo pipefail
data=$(realpath "${1:?give a folder of texts and sessions}") model=${2:-smollm2-135m}
cd "$(dirname "$0")/.."
out=${OUT:-out/learn-gpu} device=${DEVICE:-cuda} python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
bounded() { timeout --signal=INT --kill-after=60 "$1" "${@:2}" || [ $? -eq 124 ] || [ $? -eq 130 ]; }
bounded "${ICAE_SECONDS:-540}" "$python" -m holdfast train icae "$data" -o "$out/icae" --model "$model" --device "$device" \
  --set memory="${MEMORY:-256}" --set ratio=4 --set reconstruct=0.5 --set steps="${STEPS:-6000}" --set batch="${BATCH:-32}" \
  --set rate=1e-4 --set warmup=300 --set clip=2 --set save_every=250 --set judge_every="${JUDGE:-500}" --judge 32
bounded "${ANCHOR_SECONDS:-300}" "$python" -m holdfast train anchors "$data" -o "$out/anchors" --model "$model" \
  --device "$device" --set chunk=512 --set window="${WINDOW:-1024}" --set later=256 --set ratios=4+8+16 \
  --set steps="${STEPS:-2000}" --set batch="${BATCH:-16}" --set rate=1e-4 --set warmup=100 --set save_every=250
"$python" benchmarks/learn_measure.py bleu --weights "$out/icae" --data "$data" --model "$model" --limit "${LIMIT:-100}"

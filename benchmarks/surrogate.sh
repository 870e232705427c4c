#!/usr/bin/env bash
# Trains the surrogate of a model and measures it beside the full method on other sessions:
# surrogate.sh TRAIN TEXTS DATA [MODEL]. TRAIN is a folder of sessions, TEXTS a .jsonl file with the field text, DATA a
# folder with transcripts/ and probes.jsonl of sessions that were not trained on. Results: out/surrogate-MODEL.jsonl
set -euo pipefail
train=$(realpath "${1:?give a folder of sessions}") texts=$(realpath "${2:?give a .jsonl file of texts}")
data=$(realpath "${3:?give a folder with transcripts/ and probes.jsonl}") model=${4:-qwen2.5-coder-0.5b}
cd "$(dirname "$0")/.."
mkdir -p out
weights=out/surrogate-$model.safetensors rows=out/surrogate-$model.jsonl
[ -f "$weights" ] || .venv/bin/holdfast calibrate "$train"/* --texts "$texts" --learn surrogate --model "$model" \
  --limit "${WINDOWS:-130}" --seed 1 -o "$weights"
.venv/bin/holdfast eval run --data "$data" --window "${WINDOW:-1200}" --model "$model" --no-answers --no-later \
  --latent informed --latent "surrogate:weights=$weights" --latent merge:mass=true \
  --latent "merge:base=surrogate(weights=$weights),mass=true" --latent kvzip --latent truncate \
  --ratio 8 --ratio 16 --out "$rows"
.venv/bin/holdfast eval score "$rows" --against informed

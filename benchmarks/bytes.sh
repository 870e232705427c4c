#!/usr/bin/env bash
# What a file of so many bytes retains: slots and bits stacked. Needs a folder with transcripts/ and probes.jsonl.
#   benchmarks/bytes.sh DATA [MODEL] [WINDOWS]
set -euo pipefail
data=${1:?give a folder with transcripts/ and probes.jsonl} model=${2:-qwen2.5-coder-0.5b} windows=${3:-40}
rows=out/bytes-$model.jsonl
mkdir -p out
base=surrogate:otherwise=informed
holdfast eval run --data "$data" --model "$model" --window 1200 --windows "$windows" --no-answers --no-later \
    --latent "$base" --latent "$base,storage=int4" --latent "$base,storage=coded,step=4" \
    --latent "$base,storage=coded,step=8" --ratio 2 --ratio 4 --ratio 8 --out "$rows"
holdfast eval score "$rows"
holdfast eval report "$rows" --out out/bytes

#!/usr/bin/env bash
# What the gate finds and whether it is right: gate.sh TRANSCRIPTS PROBES [LIMIT], in windows of WINDOW tokens
# (default 2048). Prints scores without and with repair, then the gate's precision and recall on the probes.
set -euo pipefail
transcripts=$(realpath "${1:?give a session or a folder of them}") probes=$(realpath "${2:?give a file of probes}")
limit=${3:-100}
cd "$(dirname "$0")/.."
rows=out/gate.jsonl
mkdir -p out
.venv/bin/holdfast eval run --transcripts "$transcripts" --probes "$probes" --limit "$limit" --no-answers \
  --window "${WINDOW:-2048}" --latent informed+gate:repair=false --latent informed+gate --latent informed+gate:allow_over=0.1 \
  --ratio 8 --ratio 16 --ratio 32 --out "$rows"
.venv/bin/holdfast eval score "$rows"
.venv/bin/python benchmarks/gate_called.py "$rows"

#!/usr/bin/env bash
# What survives on real sessions: sessions.sh TRANSCRIPTS PROBES, in windows of WINDOW tokens (default 2048).
set -euo pipefail
transcripts=$(realpath "${1:?give a folder of transcripts}") probes=$(realpath "${2:?give a file of probes}")
cd "$(dirname "$0")/.."
rows=out/sessions.jsonl
mkdir -p out
.venv/bin/holdfast eval run --transcripts "$transcripts" --probes "$probes" \
  --latent truncate --latent kvzip --latent informed --ratio 2 --ratio 4 --ratio 8 --ratio 16 --window "${WINDOW:-2048}" --out "$rows"
.venv/bin/holdfast eval run --transcripts "$transcripts" --probes "$probes" --latent kvzip_per_head \
  --ratio 8 --window "${WINDOW:-2048}" --out "$rows"
.venv/bin/holdfast eval score "$rows" --by-transcript
.venv/bin/holdfast eval score "$rows"
.venv/bin/holdfast eval report "$rows" -o out/sessions.html --force

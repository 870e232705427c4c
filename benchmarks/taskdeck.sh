#!/usr/bin/env bash
# What survives on the recorded session, in windows of WINDOW tokens (default 2048) around all its probes.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=out/taskdeck.jsonl
mkdir -p out
.venv/bin/holdfast eval run --transcripts examples/taskdeck/session.json --probes examples/taskdeck/probes.jsonl \
  --latent truncate --latent kvzip --latent informed --ratio 2 --ratio 4 --ratio 8 --ratio 16 --window "${WINDOW:-2048}" --out "$rows"
.venv/bin/holdfast eval score "$rows"
.venv/bin/holdfast eval report "$rows" -o out/taskdeck.html --force

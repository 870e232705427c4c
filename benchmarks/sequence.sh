#!/usr/bin/env bash
# The seed's sequence: as many turns as fit the window, each compacted on its own against the running compact memory, then asked.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=out/sequence.jsonl probes=out/sequence-probes.jsonl
mkdir -p out
grep -E '"evidence_turn": (3|5|11),' examples/taskdeck/probes.jsonl > "$probes"
.venv/bin/holdfast eval run --transcripts examples/taskdeck/session.json --probes "$probes" --window "${WINDOW:-2048}" \
  --by-turn --latent truncate --latent kvzip --latent "virtual_tokens:steps=${STEPS:-60}" \
  --latent virtual_tokens_distilled --ratio 1.5 --ratio 2 --out "$rows"
.venv/bin/holdfast eval score "$rows"

#!/usr/bin/env bash
# Every method at five ratios, and every choice that it leaves: methods.sh TRANSCRIPTS PROBES [LIMIT] in windows of
# WINDOW tokens (default 1024). kvpress beside them: benchmarks/kvpress/run_kvpress.py with the same options.
set -euo pipefail
transcripts=$(realpath "${1:?give a session or a folder of them}") probes=$(realpath "${2:?give a file of probes}")
limit=${3:-12}
cd "$(dirname "$0")/.."
rows=out/methods.jsonl
mkdir -p out
run() {
  .venv/bin/holdfast eval run --transcripts "$transcripts" --probes "$probes" --limit "$limit" --no-answers \
    --window "${WINDOW:-1024}" --out "$rows" "$@"
}
methods=(informed kvzip kvzip:reach=256 snapkv expected_attention h2o keydiff knorm streaming random)
methods+=(attention_match merge pool hybrid truncate informed:storage=int8)
run "${methods[@]/#/--latent=}" --ratio 2 --ratio 4 --ratio 8 --ratio 16 --ratio 32
choices=(informed:allocation=head informed:allocation=layer informed:allocation=pyramid informed:cap=3)
choices+=("attention_match:base=informed(allocation=head)" snapkv:allocation=global expected_attention:allocation=global)
choices+=(informed:queries=repeat+later kvzip:queries=own kvzip:queries=study kvzip:queries=random)
run "${choices[@]/#/--latent=}" --ratio 8 --ratio 16
.venv/bin/holdfast eval score "$rows"
.venv/bin/holdfast eval report "$rows" -o out/methods.html --force

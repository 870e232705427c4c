#!/usr/bin/env bash
# The seed's single-turn sweep on three turns of different content (a file of rules, a request, code): every ratio
# of the seed, then every ablation at 3.2x, with kvzip and truncation beside them. STEPS sets the tuning (default 100).
set -euo pipefail
cd "$(dirname "$0")/.."
steps="steps=${STEPS:-100}"
rows=out/seed.jsonl probes=out/seed-probes.jsonl
mkdir -p out
grep -E '"evidence_turn": (5|31|38),' examples/taskdeck/probes.jsonl > "$probes"
run() {
  .venv/bin/holdfast eval run --transcripts examples/taskdeck/session.json --probes "$probes" --span turn --out "$rows" "$@"
}
run --latent truncate --latent kvzip --latent "virtual_tokens:$steps" --latent virtual_tokens_distilled \
  --ratio 1.6 --ratio 2.4 --ratio 3.2 --ratio 4.8
for ablation in final_layer kv pre_rope uniform consecutive hybrid hybrid_perplexity; do
  run --latent "virtual_tokens_$ablation:$steps" --ratio 3.2
done
run --latent "virtual_tokens_consecutive:$steps" --latent "virtual_tokens_uniform:$steps" --ratio 1.6 --ratio 4.8
.venv/bin/holdfast eval score "$rows"
.venv/bin/holdfast eval report "$rows" -o out/seed.html --force
.venv/bin/python benchmarks/attention_weights.py --steps "${STEPS:-100}"

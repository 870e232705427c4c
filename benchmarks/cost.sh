#!/usr/bin/env bash
# What recorded sessions cost under each strategy: cost.sh FILES…, one table each. PRICES is the model whose prices are
# taken, STRATEGIES the rows, TTL the life of the cache, TRIGGER the tokens at which a session is compacted.
set -euo pipefail
holdfast=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/holdfast
both=${METHODS:-truncate tiered retrieve:scorer=bm25}
rows=none,cache
for method in $both; do rows+=",$method,cache+$method,plan+$method"; done
for file in "${@:?give recorded sessions}"; do
  "$holdfast" cost "$file" --prices "${PRICES:-claude-sonnet-4-5}" --strategies "${STRATEGIES:-$rows}" \
    --ttl "${TTL:-5m}" --trigger "${TRIGGER:-12000}" || echo "$file: left out"
done

#!/usr/bin/env bash
# A virtual environment with Holdfast and kvpress 0.5.5 in FOLDER (default .venv-kvpress).
# kvpress asks for transformers < 5.3; run_kvpress.py gives it back what newer versions took away, hence --no-deps.
set -euo pipefail
folder=$(realpath -m "${1:-$(dirname "$0")/../../.venv-kvpress}")
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" --constraint constraints.txt --editable . \
  'cachetools>=5.5.2,<6' 'datasets>=2.21' 'fire>=0.6,<0.7' 'pandas>=2.2.2,<3' 'requests>=2.32.3,<3'
"${pip[@]}" --no-deps kvpress==0.5.5
"$folder/bin/python" -c 'import kvpress, torch; print("ready: kvpress beside torch", torch.__version__)'

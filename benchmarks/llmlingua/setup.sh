#!/usr/bin/env bash
# A virtual environment with Holdfast and llmlingua 0.2.2 in FOLDER (default .venv-llmlingua).
set -euo pipefail
folder=$(realpath -m "${1:-$(dirname "$0")/../../.venv-llmlingua}")
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" --constraint constraints.txt --editable . 'nltk>=3.9' 'tiktoken>=0.9'
"${pip[@]}" --no-deps llmlingua==0.2.2
"$folder/bin/python" -c 'import llmlingua, transformers; print("ready: llmlingua beside transformers", transformers.__version__)'

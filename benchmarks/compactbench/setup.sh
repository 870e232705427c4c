#!/usr/bin/env bash
# A virtual environment with Holdfast and compactbench 0.1.0 in FOLDER (default .venv-compactbench), and its public
# suites, which its wheel lacks, in FOLDER/benchmarks.
set -euo pipefail
folder=$(realpath -m "${1:-$(dirname "$0")/../../.venv-compactbench}")
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . compactbench==0.1.0
git clone --quiet --depth 1 https://github.com/compactbench/compactbench "$folder/source"
mv "$folder/source/benchmarks/public" "$folder/benchmarks"
rm -rf "$folder/source"
echo "ready: $folder/bin/python benchmarks/compactbench/run_compactbench.py $folder/benchmarks/starter"

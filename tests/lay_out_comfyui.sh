#!/usr/bin/env bash
# lay_out_comfyui.sh CHECKOUT [TORCH] : gives a ComfyUI checkout a .venv of its own to be tested with, on a CPU.
# CHECKOUT is a folder with main.py, for example ~/ComfyUI (0.3.64) or ~/ComfyUI-0.33 (0.33.0).
set -euo pipefail
cd "${1:?Name a ComfyUI checkout}"
torch=${2:-2.14.1}
[ -f main.py ] || { echo "$PWD has no main.py: it is no ComfyUI checkout." >&2; exit 2; }
[ -d .venv ] || python3 -m venv .venv
.venv/bin/pip install -q "torch==$torch"
# torchvision and torchaudio without their own idea of torch.
.venv/bin/pip install -q --no-deps "torchvision==${TORCHVISION:-0.29.*}" torchaudio
grep -vE '^(torch|torchvision|torchaudio)$' requirements.txt > .venv/requirements.txt
.venv/bin/pip install -q -r .venv/requirements.txt requests
echo "$PWD is ready: $(.venv/bin/python -c 'import comfyui_version; print(comfyui_version.__version__)')"

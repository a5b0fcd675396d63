"""Packs the face detector's weights out of the facenet-pytorch wheel (MIT licence): its own layout, float16.

pip download --no-deps facenet-pytorch==2.6.0
unzip facenet_pytorch-2.6.0-py3-none-any.whl 'facenet_pytorch/data/*'
python -m recipes.faces facenet_pytorch/data
"""

import re
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from op4ksr_core.paths import FACES

NETWORKS = {"first": "pnet", "second": "rnet", "third": "onet"}


def renamed(key: str) -> str | None:
    """conv1.weight -> 1.weight, prelu1.weight -> 1.slope, dense6_1.bias -> face.bias; None for the landmarks."""
    kind, number, part = re.fullmatch(r"(conv|prelu|dense)([\d_]+)\.(weight|bias)", key).groups()
    if "_" in number:
        output = {"1": "face", "2": "box"}.get(number[-1])
        return output and f"{output}.{part}"
    return f"{number}.slope" if kind == "prelu" else f"{number}.{part}"


def main() -> None:
    folder, state = Path(sys.argv[1]), {}
    for name, file in NETWORKS.items():
        for key, value in torch.load(folder / f"{file}.pt", weights_only=True).items():
            if own := renamed(key):
                state[f"{name}.{own}"] = value.half().contiguous()
    FACES.parent.mkdir(exist_ok=True)
    save_file(state, FACES, metadata={"format": "pt"})


if __name__ == "__main__":
    main()

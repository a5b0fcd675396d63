"""What `denoise` takes out of held-out photographs: PSNR before and after, means, for noise and JPEG.

PYTHONPATH=. python benchmarks/denoise.py FOLDER [--every 4] [--json docs/results/denoise.json]
"""

import argparse
import io
import statistics
from math import isfinite
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.provenance import write_report
from op4ksr_core.model.denoise import denoise
from op4ksr_core.picture.convert import as_tensor
from recipes.denoiser import halved
from recipes.embedded.pictures import HELD_OUT

NOISES, QUALITIES = (5, 15, 25), (90, 60, 30)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def spoiled(photo: Image.Image) -> dict[str, Tensor]:
    """The photograph as it is, with white noise of a deviation in 1/255, and as JPEG."""
    x = as_tensor(photo)
    made = {"as it is": x}
    for sigma in NOISES:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(sigma))
        made[f"noise {sigma}/255"] = ((x + sigma / 255 * noise).clamp(0, 1) * 255).round() / 255
    for quality in QUALITIES:
        memory = io.BytesIO()
        photo.save(memory, "jpeg", quality=quality)
        made[f"JPEG {quality}"] = as_tensor(Image.open(memory).convert("RGB"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of photographs; those of recipes/embedded/held_out.txt are taken")
    parser.add_argument("--every", type=int, default=4, help="take every so many (default 4)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = [f for f in sorted(arguments.folder.glob("*.jpg")) if f.stem in HELD_OUT][:: arguments.every]
    rows: dict[str, list[tuple[float, float]]] = {}
    for file in files:
        photo = halved(file)
        x = as_tensor(photo)
        for name, y in spoiled(photo).items():
            rows.setdefault(name, []).append((psnr(y, x), psnr(denoise(y[None], 1.0)[0], x)))
    figures: dict = {"photographs": len(files), "rows": {}}
    for name, values in rows.items():
        before, after = (statistics.fmean(column) for column in zip(*values, strict=True))
        # the clean picture differs from itself by nothing, and JSON holds no infinity
        figures["rows"][name] = {"before": round(before, 2) if isfinite(before) else None, "after": round(after, 2)}
        print(f"{name}: {before:.2f} -> {after:.2f} dB")
    if arguments.json:
        write_report(arguments.json, figures)


if __name__ == "__main__":
    main()

"""What theta 10,000, and no transformer at all, do to the bundled model's picture of any size.

    python benchmarks/transformer_at_any_size.py PICTURE... [--side 4096] [--degradation camera]

Each picture is cut to at most SIDE px, degraded to a quarter of its side in one of the two ways of the model's
training (recipes/embedded/pictures.py: LIGHT, seven crops in ten, or CAMERA), and restored as usual, under theta
10,000 and without the transformer (velocity 0), with and without the detail network. Prints the means, in how many
pictures the change is worse, and Wilcoxon's p.
`latent` is the squared error of the restored latent against the truth's, in dB below that of the enlarged picture.
"""

import argparse
import random
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from unittest.mock import patch

import torch
from scipy.stats import wilcoxon

from op4ksr_core import PRESETS, Upscaler
from op4ksr_core.evaluate.measures import gmsd, psnr
from op4ksr_core.evaluate.sharpness import hf_correlation, hf_energy_db
from op4ksr_core.geometry import Size
from op4ksr_core.model.precision import half_is_fast
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.settings import RopeSettings

sys.path.insert(0, str(Path(__file__).parent.parent))
from recipes.embedded.pictures import CAMERA, LIGHT, degraded  # noqa: E402

DEGRADATIONS = {"light": LIGHT, "camera": CAMERA}

USUAL, FLUX, OFF = ROWS = ("as usual", "theta 10,000", "no transformer")
BETTER = {"latent": 1, "PSNR": 1, "GMSD": -1, "HF energy": 1, "HF correlation": 1}
"""1 where more is better; detail, in dB, is below 0 here."""

Found = dict[tuple[str, float], list[dict[str, float]]]
"""Figures of every picture by row and strength of the detail network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--degradation", choices=DEGRADATIONS, default="light")
    arguments = parser.parse_args()
    degradation = DEGRADATIONS[arguments.degradation]
    dtype = torch.bfloat16 if half_is_fast(torch.device("cpu")) else torch.float32
    upscaler = Upscaler.from_embedded(dtype=dtype, check_memory=False)
    found: Found = {(row, compensation): [] for compensation in (0.0, 1.0) for row in ROWS}
    for number, path in enumerate(arguments.pictures):
        hr = read_picture(path).rgb
        height, width = (min(arguments.side, side) // 64 * 64 for side in hr.shape[-2:])
        hr = hr[..., :height, :width].contiguous()
        measure(upscaler, hr, degraded(hr, random.Random(number), degradation), found)
        print(f"{path.name}, {width}x{height}: done", file=sys.stderr, flush=True)
    print(f"{len(arguments.pictures)} pictures, degradation {arguments.degradation}, in {dtype}: means;")
    print("in brackets in how many it is worse, Wilcoxon's p\n")
    print("| | | " + " | ".join(BETTER) + " |\n|---|---|" + "---|" * len(BETTER))
    for row, compensation in found:
        behind = "with the detail network" if compensation else "without it"
        cells = [cell(found, row, compensation, name) for name in BETTER]
        print(f"| {behind} | {row} | " + " | ".join(cells) + " |")


@torch.inference_mode()
def measure(upscaler: Upscaler, hr: torch.Tensor, lr: torch.Tensor, found: Found) -> None:
    """Adds the figures of one picture to every row."""
    usual, size = PRESETS["embedded"], Size(*hr.shape[-2:])
    truth, before = (upscaler.host.encode(x, usual, lambda *_: None) for x in (hr, resize(lr, size).clamp(0, 1)))
    for row in ROWS:
        theta = RopeSettings(theta=10_000.0) if row == FLUX else usual.rope
        wanted = [replace(usual, rope=theta, compensation=compensation) for compensation in (0.0, 1.0)]
        transform = (lambda z, *_: z) if row == OFF else upscaler.host.transform
        with patch.object(upscaler.host, "transform", transform):
            for made in upscaler.variants(lr, wanted, target=size):
                gain = 10 * torch.log10((before - truth).square().mean() / (made.after - truth).square().mean())
                values = {"latent": float(gain), "PSNR": psnr(made.picture, hr), "GMSD": gmsd(made.picture, hr)}
                values |= {
                    "HF energy": hf_energy_db(made.picture, hr),
                    "HF correlation": hf_correlation(made.picture, hr),
                }
                found[row, made.settings.compensation].append(values)


def cell(found: Found, row: str, compensation: float, name: str) -> str:
    ours, usual = ([one[name] for one in found[which, compensation]] for which in (row, USUAL))
    if row == USUAL:
        return f"{mean(ours):.4f}"
    worse = sum(BETTER[name] * (a - b) < 0 for a, b in zip(ours, usual, strict=True))
    return f"{mean(ours):.4f} ({worse}/{len(ours)}, p {wilcoxon(ours, usual).pvalue:.2g})"


if __name__ == "__main__":
    main()

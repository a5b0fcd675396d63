"""The bundled model at theta 100 and at 10,000 on large pictures, many times the tokens that it was trained on.

    python benchmarks/theta_at_full_size.py PICTURE... [--side 4096]

Each picture is cut to at most SIDE px, degraded to a quarter of its side as in the model's training, and restored under
both thetas, with and without the detail network. Prints the means, in how many pictures 10,000 is worse than 100, and
Wilcoxon's p.
`latent` is the squared error of the restored latent against the truth's, in dB below that of the enlarged picture.
"""

import argparse
import random
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from scipy.stats import wilcoxon

from op4ksr_core import PRESETS, Upscaler
from op4ksr_core.evaluate.measures import gmsd, psnr
from op4ksr_core.evaluate.sharpness import detail, right
from op4ksr_core.geometry import Size
from op4ksr_core.model.precision import half_is_fast
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.settings import RopeSettings

sys.path.insert(0, str(Path(__file__).parent.parent))
from recipes.embedded.pictures import degraded  # noqa: E402

THETAS = (100.0, 10_000.0)
BETTER = {"latent": 1, "PSNR": 1, "GMSD": -1, "detail": 1, "right": 1}
"""1 where more is better; detail, in dB, is below 0 here."""


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--side", type=int, default=4096)
    arguments = parser.parse_args()
    usual = PRESETS["embedded"]
    dtype = torch.bfloat16 if half_is_fast(torch.device("cpu")) else torch.float32
    upscaler = Upscaler.from_embedded(usual, dtype=dtype, check_memory=False)
    wanted = [
        replace(usual, rope=RopeSettings(theta=theta), compensation=compensation)
        for compensation in (0.0, 1.0)
        for theta in THETAS
    ]
    found: dict[tuple[float, float], list[dict[str, float]]] = {}
    for number, path in enumerate(arguments.pictures):
        hr = read_picture(path).rgb
        height, width = (min(arguments.side, side) // 64 * 64 for side in hr.shape[-2:])
        hr = hr[..., :height, :width].contiguous()
        lr = degraded(hr, random.Random(number))
        size = Size(height, width)
        truth, before = (upscaler.host.encode(x, usual, lambda *_: None) for x in (hr, resize(lr, size).clamp(0, 1)))
        for one in upscaler.variants(lr, wanted, target=size):
            made = one.picture
            gain = 10 * torch.log10((before - truth).square().mean() / (one.after - truth).square().mean())
            values = {"latent": float(gain), "PSNR": psnr(made, hr), "GMSD": gmsd(made, hr)}
            values |= {"detail": detail(made, hr), "right": right(made, hr)}
            assert one.settings.rope is not None
            found.setdefault((one.settings.compensation, one.settings.rope.theta), []).append(values)
        print(f"{path.name}, {size}: done", file=sys.stderr, flush=True)
    print(
        f"{len(arguments.pictures)} pictures in {dtype}, means; in brackets in how many 10,000 is worse, Wilcoxon's p\n"
    )
    print("| | theta | " + " | ".join(BETTER) + " |\n|---|---|" + "---|" * len(BETTER))
    for compensation in (0.0, 1.0):
        rows = [found[compensation, theta] for theta in THETAS]
        for theta, values in zip(THETAS, rows, strict=True):
            cells = []
            for name, sign in BETTER.items():
                ours, others = ([one[name] for one in row] for row in (values, rows[0]))
                text = f"{mean(ours):.4f}"
                if theta != THETAS[0]:
                    worse = sum(sign * (a - b) < 0 for a, b in zip(ours, others, strict=True))
                    text += f" ({worse}/{len(ours)}, p {wilcoxon(ours, others).pvalue:.2g})"
                cells.append(text)
            behind = "with the detail network" if compensation else "without it"
            print(f"| {behind} | {theta:,.0f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

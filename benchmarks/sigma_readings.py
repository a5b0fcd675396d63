"""Both readings of the paper's t_mid on the bundled model: sigma 0.3, which it was trained at, and sigma 0.7.

    PYTHONPATH=. python benchmarks/sigma_readings.py PAIRS [--sigmas 0.1 0.3 0.5 0.7] [--json docs/results/sigma.json]

PAIRS has lr/ and hr/. Prints medians over the pairs, without the compensation, which would cover the difference, and
the mid-timestep that OMGSR's estimator finds for the pairs' latents. --json keeps them for docs/method.md.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import median

from torch import Tensor

from benchmarks.provenance import write_report
from op4ksr_core import PRESETS, Upscaler
from op4ksr_core.evaluate.measures import psnr
from op4ksr_core.evaluate.sharpness import hf_correlation, hf_energy_db
from op4ksr_core.geometry import Size
from op4ksr_core.model.flow import estimate_sigma
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize


def closed_form_sigma(z_hr: Tensor, z_lr: Tensor) -> float:
    """r / (1 + r) with r = RMS(z_LR - z_HR) / RMS(z_HR): where the state's SNR equals the LR latent's."""
    r = float(((z_lr - z_hr).float().pow(2).mean() / z_hr.float().pow(2).mean()).sqrt())
    return r / (1 + r)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.7])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = replace(PRESETS["embedded"], compensation=0.0)
    upscaler = Upscaler.from_embedded(settings, check_memory=False)
    files = zip(*(sorted((arguments.pairs / side).iterdir()) for side in ("lr", "hr")), strict=True)
    rows: dict[float, list[tuple[float, float, float]]] = {sigma: [] for sigma in arguments.sigmas}
    latents = []
    for low, high in files:
        lr, hr = read_picture(low).rgb, read_picture(high).rgb
        size = Size(*hr.shape[-2:])
        variants = [replace(settings, sigma=sigma) for sigma in arguments.sigmas]
        for found in upscaler.variants(lr, variants, target=size):
            made = found.picture
            rows[found.settings.sigma].append((psnr(made, hr), hf_energy_db(made, hr), hf_correlation(made, hr)))
        encoded = [upscaler.host.encode(x, settings, lambda *_: None) for x in (hr, resize(lr, size).clamp(0, 1))]
        latents.append((encoded[0], encoded[1]))
    figures = report(rows, latents)
    print(f"{figures['pairs']} pairs, medians, compensation 0")
    for sigma, row in figures["rows"].items():
        print(f"sigma {sigma}: " + ", ".join(f"{name} {value}" for name, value in row.items()))
    print(f"OMGSR's estimator: sigma {figures['estimated']}; r / (1 + r), median: {figures['closed_form']}")
    if arguments.json:
        write_report(arguments.json, figures)


def report(rows: dict[float, list[tuple[float, float, float]]], latents: list[tuple[Tensor, Tensor]]) -> dict:
    """What --json writes: medians by sigma, and the sigma that fits the pairs' latents (truth, enlarged)."""
    names = ("psnr", "hf_energy_db", "hf_correlation")
    medians = {
        f"{sigma:g}": {
            name: round(median(column), 4) for name, column in zip(names, zip(*values, strict=True), strict=True)
        }
        for sigma, values in rows.items()
    }
    closed = median(closed_form_sigma(*pair) for pair in latents)
    estimated = round(float(estimate_sigma(latents)), 4)
    return {"pairs": len(latents), "rows": medians, "estimated": estimated, "closed_form": round(closed, 4)}


if __name__ == "__main__":
    main()

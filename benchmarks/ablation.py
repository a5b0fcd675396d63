"""The paper's ablation at small scale: one prior, four one-step fine-tunes of equal budget and seeds.

    python benchmarks/ablation.py PRIOR PICTURES --out FOLDER [--seeds 3] [--at 40 120] [--uhd DIR] [--sweep]

Base has theta 10,000 and no L_AP; RFR has theta 100; L_AP has the loss; both have both. Everything else is equal. PRIOR
is a model folder, PICTURES a folder to train on. Each model restores the pairs (lr/, hr/) and, where given, degraded
crops of large pictures, after each of the steps of --at. With --sweep the variants are, instead, thetas and sigmas
without L_AP. Finished trainings and evaluations are kept, so that a stopped run goes on. Prints Markdown tables, mean
and deviation over the seeds, and writes FOLDER/results.json and FOLDER/spectra.png.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from metrics import NAMES, all_metrics, lattice_decibels
from PIL import Image, ImageDraw
from torch import Tensor

from op4ksr_core.diagnostics.latent_view import check_latent, phase_bias
from op4ksr_core.geometry import Size
from op4ksr_core.lattice.autocorrelation import autocorrelation_loss
from op4ksr_core.lattice.inspector import inspect
from op4ksr_core.picture.charts import INK, font
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import RopeSettings, UpscaleSettings
from op4ksr_core.train.checkpoint import folder_of
from op4ksr_core.train.degradation import EMBEDDED, degrade
from op4ksr_core.train.settings import PRESETS, TrainSettings
from op4ksr_core.train.trainer import Trainer
from op4ksr_core.weights.sources import Sources


@dataclass(frozen=True)
class Variant:
    """What one fine-tune has of its own."""

    theta: float
    sigma: float = 0.3
    periodic: bool = False


ABLATION = {
    "base": Variant(10_000),
    "+ RFR": Variant(100),
    "+ L_AP": Variant(10_000, periodic=True),
    "both": Variant(100, periodic=True),
}
SWEEP = {f"theta {theta}": Variant(theta) for theta in (10, 30, 100, 300, 1000, 10_000)} | {
    f"theta 100, sigma {sigma}": Variant(100, sigma) for sigma in (0.1, 0.5, 0.7)
}
COLUMNS = (*NAMES, "score", "lattice_32_db", "lattice_16_db", "l_ap", "latent_bias")
Pair = tuple[Tensor, Tensor]


def settings_of(variant: Variant, seed: int, arguments: argparse.Namespace) -> TrainSettings:
    preset = PRESETS["embedded"]
    return replace(
        preset,
        sigma=variant.sigma,
        rope=RopeSettings(variant.theta),
        losses=replace(preset.losses, periodicity=arguments.l_ap if variant.periodic else 0.0),
        rank=64,
        alpha=64,
        fidelity=0.0,
        normalise_periodicity=arguments.normalise,
        steps=max(arguments.at),
        batch=arguments.batch,
        per_device=arguments.batch,
        crop=arguments.crop,
        learning_rate=arguments.learning_rate,
        seed=seed,
    )


def train(variant: Variant, run: Path, seed: int, arguments: argparse.Namespace) -> None:
    """One fine-tune in its folder, new or gone on with."""
    sources = Sources.find(arguments.prior)
    every = math.gcd(*arguments.at)
    settings = settings_of(variant, seed, arguments)
    trainer = Trainer(settings, sources, [arguments.pictures], run, save_every=every, picture_every=max(arguments.at))
    try:
        trainer.run()
    finally:
        trainer.close()


def slug(name: str) -> str:
    return name.replace(" ", "").replace(",", "-").strip("+")


def photo_pairs(folder: Path) -> Iterator[Pair]:
    """(LR, HR) pictures (1, 3, H, W) of a folder with lr/ and hr/."""
    for low, high in zip(*(sorted((folder / side).glob("*")) for side in ("lr", "hr")), strict=True):
        yield read_picture(low).rgb, read_picture(high).rgb


def crop_pairs(folder: Path, side: int = 512) -> Iterator[Pair]:
    """The middle of each large picture, and the same degraded by its own number."""
    for number, path in enumerate(sorted(folder.glob("*.jp*g"))):
        whole = read_picture(path).rgb
        top, left = ((length - side) // 2 for length in whole.shape[-2:])
        high = whole[..., top : top + side, left : left + side]
        yield degrade(high[0], torch.Generator().manual_seed(number), EMBEDDED)[None], high


def measure(upscaler: Upscaler, pairs: Iterator[Pair]) -> dict[str, float]:
    """Means over the pairs."""
    rows = []
    for low, high in pairs:
        size = Size(*high.shape[-2:])
        [variant] = upscaler.variants(low, [upscaler.settings], long_side=max(size.height, size.width))
        picture = variant.picture
        row = all_metrics(picture, high) | {"score": inspect(picture[0]).score}
        row |= {f"lattice_{period}_db": lattice_decibels(picture, period) for period in (16, 32)}
        row["l_ap"] = float(autocorrelation_loss(picture, high)) * 1e6
        row["latent_bias"] = phase_bias(check_latent(variant.after)).relative
        rows.append(row)
    return {name: float(np.mean([row[name] for row in rows])) for name in COLUMNS}


def evaluated(name: str, upscaler: Upscaler, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By set of pairs; kept in a file, so that it is done once."""
    path = arguments.out / f"{name}.json"
    if not path.exists():
        sets = {"pairs": photo_pairs(arguments.pairs)} | ({"crops": crop_pairs(arguments.uhd)} if arguments.uhd else {})
        path.write_text(json.dumps({kind: measure(upscaler, pairs) for kind, pairs in sets.items()}))
    return json.loads(path.read_text())


def upscaler_of(arguments: argparse.Namespace, variant: Variant, adapters: Path | None) -> Upscaler:
    settings = UpscaleSettings(sigma=variant.sigma, fidelity=0.0, rope=RopeSettings(variant.theta))
    return Upscaler.from_pretrained(arguments.prior, adapters=[adapters] if adapters else [], settings=settings)


def power_spectrum(picture: Tensor) -> Image.Image:
    """The inspector's spectrum up to 1/16 cycle per px, as grey."""
    ratio = inspect(picture[0]).spectrum
    rows, columns = ratio.shape[0] // 16, ratio.shape[1] // 8
    right = torch.cat([ratio[-rows:, :columns], ratio[:rows, :columns]])
    both = torch.cat([right[:, 1:].flip(0, 1), right], 1).clamp_min(0.1).log10() / 3
    grey = (255 * (1 - both.clamp(0, 1))).byte().numpy()
    return Image.fromarray(grey).resize((256, 256), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    shared = Path(__file__).parent.parent.parent / "shared" / "data"
    parser.add_argument("--pairs", type=Path, default=shared / "realsr")
    parser.add_argument("--uhd", type=Path)
    for name, default in (("seeds", 3), ("first-seed", 0), ("batch", 1), ("crop", 384)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, value in (("l-ap", 1000.0), ("learning-rate", 3e-4)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--at", type=int, nargs="+", default=[40, 120], help="steps after which to evaluate")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the variants whose name has this in it")
    parser.add_argument("--sweep", action="store_true", help="thetas and sigmas in place of the four variants")
    parser.add_argument("--normalise", action="store_true", help="L_AP over the truth's variance")
    arguments = parser.parse_args()
    if max(arguments.at) // math.gcd(*arguments.at) > 3:
        raise SystemExit(f"--at {arguments.at} needs more than the three checkpoints that a training keeps.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    variants = SWEEP if arguments.sweep else ABLATION
    variants = {name: variant for name, variant in variants.items() if arguments.only in name}
    results: dict[str, list[dict]] = {}
    for name in variants if arguments.sweep else {"base"} & variants.keys():
        untuned = evaluated(f"untuned-{slug(name)}", upscaler_of(arguments, variants[name], None), arguments)
        results[f"prior at {name}" if arguments.sweep else "prior"] = [untuned]
    sample = resize(read_picture(sorted((arguments.pairs / "lr").glob("*"))[0]).rgb, Size(256, 256))
    drawn = {}
    for seed in range(arguments.first_seed, arguments.seeds):  # a whole set of variants before the next seed
        for name, variant in variants.items():
            run = arguments.out / f"{slug(name)}-{seed}"
            if not folder_of(run, max(arguments.at)).exists():
                train(variant, run, seed, arguments)
            for step in sorted(arguments.at):
                upscaler = upscaler_of(arguments, variant, folder_of(run, step))
                row = evaluated(f"{slug(name)}-{seed}-{step}", upscaler, arguments)
                results.setdefault(f"{name}, {step} steps", []).append(row)
            if seed == arguments.first_seed:
                drawn[name] = power_spectrum(upscaler(sample, scale=4))
            print(f"{name}, seed {seed}: {row['pairs']}", flush=True)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    tables(results)
    sheet = Image.new("RGB", (len(drawn) * 264 + 8, 296), "white")
    for n, (name, picture) in enumerate(drawn.items()):
        ImageDraw.Draw(sheet).text((8 + 264 * n, 8), name, fill=INK, font=font(15))
        sheet.paste(picture, (8 + 264 * n, 32))
    sheet.save(arguments.out / "spectra.png")


def tables(results: dict[str, list[dict]]) -> None:
    """Mean and deviation over the seeds, a table per set of pairs."""
    for kind in next(iter(results.values()))[0]:
        print(f"\n{kind}\n\n| variant | {' | '.join(COLUMNS)} |\n" + "|---" * (len(COLUMNS) + 1) + "|")
        for variant, runs in results.items():
            cells = []
            for name in COLUMNS:
                values = [run[kind][name] for run in runs]
                spread = f" ({np.std(values, ddof=1):.2g})" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.4g}{spread}")
            print(f"| {variant} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

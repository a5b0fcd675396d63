"""The paper's ablation at small scale: one prior, four one-step fine-tunes of equal budget and seeds.

    python benchmarks/ablation.py PRIOR PICTURES --out FOLDER [--seeds 3] [--steps 150] [--pairs DIR] [--uhd DIR]

Base has theta 10,000 and no L_AP; RFR has theta 100; L_AP has the loss; both have both. Everything else is equal. PRIOR
is a model folder, PICTURES a folder to train on. Each model restores the pairs (lr/, hr/) and, where given, degraded
crops of large pictures. Finished trainings and evaluations are kept, so that a stopped run goes on. Prints two
Markdown tables, mean and deviation over the seeds, and writes FOLDER/results.json and FOLDER/spectra.png.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from metrics import HIGHER_IS_BETTER, all_metrics, lattice_decibels
from PIL import Image, ImageDraw
from torch import Tensor

from op4ksr_core.charts import INK, font
from op4ksr_core.geometry import Size
from op4ksr_core.images import read_picture
from op4ksr_core.latent_view import check_latent, phase_bias
from op4ksr_core.losses.autocorrelation import autocorrelation_loss
from op4ksr_core.periodicity import inspect
from op4ksr_core.pipeline import Sources, Upscaler
from op4ksr_core.presets import UpscaleSettings
from op4ksr_core.resample import resize
from op4ksr_core.rope import RopeSettings
from op4ksr_core.training.checkpoint import checkpoints
from op4ksr_core.training.degradation import EMBEDDED, degrade
from op4ksr_core.training.settings import PRESETS, TrainSettings
from op4ksr_core.training.trainer import Trainer

VARIANTS = {"base": (10_000.0, False), "+ RFR": (100.0, False), "+ L_AP": (10_000.0, True), "both": (100.0, True)}
COLUMNS = (*HIGHER_IS_BETTER, "score", "lattice_32_db", "lattice_16_db", "l_ap", "latent_bias")
Pair = tuple[Tensor, Tensor]


def settings_of(variant: str, seed: int, arguments: argparse.Namespace) -> TrainSettings:
    theta, periodic = VARIANTS[variant]
    preset = PRESETS["embedded"]
    losses = replace(preset.losses, periodicity=arguments.l_ap if periodic else 0.0)
    return replace(
        preset,
        sigma=arguments.sigma,
        rope=RopeSettings(theta),
        losses=losses,
        rank=64,
        alpha=64,
        fidelity=0.0,
        normalise_periodicity=arguments.normalise,
        steps=arguments.steps,
        batch=arguments.batch,
        per_device=arguments.batch,
        crop=arguments.crop,
        learning_rate=arguments.learning_rate,
        seed=seed,
    )


def trained(variant: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The adapters of one fine-tune, trained where they are not there yet."""
    run = arguments.out / f"{variant.replace(' ', '').strip('+')}-{seed}"
    settings = settings_of(variant, seed, arguments)
    sources = Sources.find(arguments.prior)
    trainer = Trainer(settings, sources, [arguments.pictures], run, save_every=50, picture_every=50)
    try:
        trainer.run()
    finally:
        trainer.close()
    return checkpoints(run)[-1]


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


def upscaler_of(arguments: argparse.Namespace, variant: str, adapters: Path | None) -> Upscaler:
    settings = UpscaleSettings(sigma=arguments.sigma, fidelity=0.0, rope=RopeSettings(VARIANTS[variant][0]))
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
    for name, default in (("seeds", 3), ("first-seed", 0), ("steps", 150), ("batch", 4), ("crop", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, value in (("sigma", 0.3), ("l-ap", 1000.0), ("learning-rate", 3e-4)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--normalise", action="store_true", help="L_AP over the truth's variance")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    untuned = evaluated("prior", upscaler_of(arguments, "base", None), arguments)
    results: dict[str, list[dict]] = {"prior, not tuned": [untuned]}
    sample = resize(read_picture(sorted((arguments.pairs / "lr").glob("*"))[0]).rgb, Size(256, 256))
    drawn = {}
    for seed in range(arguments.first_seed, arguments.seeds):  # a whole set of variants before the next seed
        for variant in VARIANTS:
            upscaler = upscaler_of(arguments, variant, trained(variant, seed, arguments))
            results.setdefault(variant, []).append(evaluated(f"{variant.strip('+ ')}-{seed}", upscaler, arguments))
            if seed == arguments.first_seed:
                drawn[variant] = power_spectrum(upscaler(sample, scale=4))
            print(f"{variant}, seed {seed}: {results[variant][-1]['pairs']}", flush=True)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    tables(results)
    sheet = Image.new("RGB", (len(drawn) * 264 + 8, 296), "white")
    for n, (variant, picture) in enumerate(drawn.items()):
        ImageDraw.Draw(sheet).text((8 + 264 * n, 8), variant, fill=INK, font=font(15))
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

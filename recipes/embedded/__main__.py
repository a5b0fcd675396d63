"""python -m recipes.embedded STAGE --run runs/embedded --photos FOLDER [--teacher FILE.param] [--minutes N]

Stages in order:
  bundled         the bundled model's weights, to go on from (vae_start.pt, transformer_start.pt, detail_start.pt; with
                  --keep-encoder also vae_best.pt, latents.pt and together_best.pt, in place of vae and transformer)
  vae             the F16 autoencoder; its encoder is frozen from then on
  transformer     one step at sigma 0.3, theta 100, from the enlarged small picture's latent to the truth's
  together        the transformer and the decoder, on the picture
  pairs           crops with the teacher's pictures, kept
  crops           the same, restored by the stages before
  detail          the detail network behind them, from a sharp teacher; with --teach 0 from the truth
  texture         a small GAN: --start the latter; not in what is shipped (it lost right detail)
  export          the averaged weights as float16 safetensors, into --to
--start names the weights that a stage begins with. average mixes two networks' weights: --start A --with B --share S.
grow gives a network more channels and blocks: --start A --to B. scale makes its detail stronger: --start A --luma 1.75.
level takes away the lattice that it draws on noise, and export-detail writes one: --start A --to B.

`all` runs vae to detail in one process, from the bundled weights if they are unpacked, each with its share of
--minutes, then scales and levels the detail network into shipped.pt. After `bundled --keep-encoder` it begins with
together.

Every stage resumes from its checkpoint in --run, also after a kill; --minutes is its whole budget, of processor time on
a CPU, of time on a GPU.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from op4ksr_core.model.attention import trainable_kernels
from op4ksr_core.train.losses.detail import CHROMA_SHIPPED, LUMA_SHIPPED

from . import autoencoder, crops, detail, export, levelling, transformer
from .crop_pool import CropPool, HeldOut, enlarged

STAGES = (
    "bundled", "vae", "transformer", "together", "pairs", "crops", "detail", "texture", "all", "average",
    "scale", "grow", "level",
    "export", "export-detail",
)  # fmt: skip

SHARES = {"vae": 20, "transformer": 10, "together": 60, "detail": 90}
"""Of the minutes of `all`: those of the stages that it runs."""

MODELS: dict[str, Callable[..., None]] = {
    "vae": autoencoder.train,
    "transformer": transformer.train_transformer,
    "together": transformer.train_together,
}

FIDELITIES = (0.0, 0.15, 0.3)
"""Of the crops that the detail network learns from: so it can stand behind any of them."""


def main() -> None:
    """Runs one stage, or all that are trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"), help="folder of the checkpoints")
    parser.add_argument("--photos", type=Path, nargs="+", help="folders of the training photographs")
    parser.add_argument("--teacher", type=Path, help="the teacher's .param file, its .bin beside it")
    parser.add_argument("--minutes", type=float, default=30, help="for the whole stage")
    parser.add_argument("--rate", type=float, help="the stage's learning rate, in place of its own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--teach", type=float, default=1.0, help="detail: how much of the target is the teacher's")
    parser.add_argument("--start", type=Path, help="weights to begin with, or to average, scale or export")
    parser.add_argument("--with", type=Path, dest="other", help="average: the other weights")
    parser.add_argument("--share", type=float, default=0.5, help="average: of the other weights")
    parser.add_argument("--keep-encoder", action="store_true", help="bundled: for going on after its encoder")
    parser.add_argument("--luma", type=float, default=LUMA_SHIPPED, help="scale: factor of the detail")
    parser.add_argument("--chroma", type=float, default=CHROMA_SHIPPED, help="scale: factor of the detail's colour")
    parser.add_argument("--count", type=int, help="pairs: how many crops")
    parser.add_argument("--seed", type=int, default=0, help="pairs: of the crops")
    parser.add_argument("--to", type=Path, help="what export and average write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.stage == "bundled":
        export.unpack(args.run, args.keep_encoder)
    elif args.stage == "average":
        detail.average(args.start, args.other, args.share, args.to)
    elif args.stage == "scale":
        detail.scale(args.start, args.to, args.luma, args.chroma)
    elif args.stage == "level":
        levelling.level(args.start, args.to, levelling.without_detail())
    elif args.stage == "grow":
        detail.grow(args.start, args.to)
    elif args.stage == "export":
        export.export_model(args.run, args.photos, args.to)
    elif args.stage == "export-detail":
        export.export_detail(args.start, args.to)
    else:
        with trainable_kernels():
            train(args, torch.device(args.device))


def train(args: Any, device: torch.device) -> None:
    """The stages that look at pictures."""
    if args.stage == "crops":
        restorer = transformer.pipeline(args.run, device, FIDELITIES)
        pairs = crops.Kept.load(args.run / "pairs.pt", device)
        crops.restored_crops(pairs, restorer).save(args.run / "crops.pt")
        return
    held_out = HeldOut.load(args.photos, device)
    changes = {"rate": args.rate} if args.rate else {}
    if args.stage in ("all", "pairs", *MODELS):
        workers = 0 if device.type == "cpu" else os.cpu_count() or 1
        pool = CropPool.load(args.photos, device, workers)
        if args.stage == "all":
            train_all(args, pool, held_out)
        elif args.stage == "pairs":
            count = args.count or crops.COUNTS[device.type]
            crops.taught_pairs(pool, args.teacher, count, args.seed).save(args.run / "pairs.pt")
        else:
            MODELS[args.stage](args.run, pool, held_out, args.minutes, args.start, **changes)
    else:
        source = crops.Kept.load(args.run / "crops.pt", device)
        figures = detail.figures_of(held_out, transformer.pipeline(args.run, device))
        if args.stage == "detail":
            changes |= {"teach": args.teach}
            detail.train_faithful(args.run, "detail", args.minutes, args.start, source, figures, device, **changes)
        else:
            detail.train_textured(args.run, "texture", args.minutes, args.start, source, figures, device, **changes)


def train_all(args: Any, pool: CropPool, held_out: HeldOut) -> None:
    """From pictures to the detail network that is shipped."""
    run, device = args.run, pool.patches.device
    encoded = (run / "together_best.pt").exists()
    stages = [name for name in SHARES if not encoded or name not in ("vae", "transformer")]
    minutes = {name: args.minutes * SHARES[name] / sum(SHARES[stage] for stage in stages) for name in stages}

    def begun(name: str) -> Path | None:
        return path if (path := run / f"{name}_start.pt").exists() else None

    if not encoded:
        autoencoder.train(run, pool, held_out, minutes["vae"], begun("vae"))
        transformer.train_transformer(run, pool, held_out, minutes["transformer"], begun("transformer"))
    start = run / "together_best.pt" if encoded else None
    transformer.train_together(run, pool, held_out, minutes["together"], start)
    pairs = crops.taught_pairs(pool, args.teacher, crops.COUNTS[device.type], args.seed)
    source = crops.restored_crops(pairs, transformer.pipeline(run, device, FIDELITIES))
    restorer = transformer.pipeline(run, device)
    figures = detail.figures_of(held_out, restorer)
    detail.train_faithful(run, "detail", minutes["detail"], begun("detail"), source, figures, device)
    detail.scale(run / "detail_best.pt", run / "scaled.pt", LUMA_SHIPPED, CHROMA_SHIPPED)

    def enlarge(small: Tensor) -> Tensor:
        small = small.to(device)
        return restorer(small, enlarged(small)).cpu()

    levelling.level(run / "scaled.pt", run / "shipped.pt", enlarge)


if __name__ == "__main__":
    main()

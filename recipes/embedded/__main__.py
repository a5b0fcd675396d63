"""python -m recipes.embedded STAGE --run runs/embedded --photos FOLDER [--teacher FILE.param] [--minutes N]

Stages in order:
  bundled         instead of vae: the bundled model's weights, to go on from (vae_best.pt, transformer_start.pt,
                  together_best.pt, detail_start.pt)
  vae             the F16 autoencoder; its encoder is frozen from then on
  pairs           degraded crops, kept
  latents         the encoder's latents of those, kept
  transformer     one step at sigma 0.3, theta 100, from the enlarged small picture's latent to the truth's
  together        the transformer and the decoder, on the picture (without-droplets prepares a decoder for it that was
                  trained under plain group norms)
  crops           crops restored by the stages before (or by the bundled model: --behind bundled), kept
  detail, texture the detail network behind them: faithful, then textured
  export          the averaged weights as float16 safetensors, into --to
detail-start and texture-start train the detail network before there is a decoder, behind a stand-in; --start names the
weights that texture, texture-start or detail begin with. average mixes two networks: --start A --with B --share S.
scale makes a network's detail stronger: --start A --luma 1.75 --chroma 1.

Every stage resumes from its checkpoint in --run, also after a kill; --minutes is its whole budget of processor time.
"""

import argparse
from pathlib import Path

import torch

from . import autoencoder, crops, detail, export, transformer
from .pictures import Pictures

STAGES = (
    "vae", "bundled", "pairs", "latents", "transformer", "without-droplets", "together", "detail-start",
    "texture-start", "crops", "detail", "texture", "average", "scale", "export", "export-detail",
)  # fmt: skip


def main() -> None:
    """Runs one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"), help="folder of the checkpoints")
    parser.add_argument("--photos", type=Path, help="folder of the training photographs")
    parser.add_argument("--teacher", type=Path, help="the teacher's .param file, its .bin beside it")
    parser.add_argument("--minutes", type=float, default=30, help="processor minutes for the whole stage")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", type=Path, help="weights to begin with, or to average or export")
    parser.add_argument("--with", type=Path, dest="other", help="average: the other weights")
    parser.add_argument("--share", type=float, default=0.5, help="average: of the other weights, 0 to 1")
    parser.add_argument(
        "--behind", choices=("run", "bundled"), default="run", help="whose pictures crops and detail see"
    )
    parser.add_argument("--luma", type=float, default=1.75, help="scale: factor of the detail's brightness")
    parser.add_argument("--chroma", type=float, default=1.0, help="scale: factor of the detail's colour")
    parser.add_argument("--count", type=int, default=1200, help="crops")
    parser.add_argument("--to", type=Path, help="what export and average write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    run, photos, teacher, minutes = args.run, args.photos, args.teacher, args.minutes
    if args.stage == "vae":
        autoencoder.train(run, photos, minutes)
    elif args.stage == "bundled":
        export.unpack(run)
    elif args.stage == "transformer":
        transformer.train_transformer(run, photos, minutes, args.start)
    elif args.stage == "latents":
        transformer.keep_latents(run, photos)
    elif args.stage == "pairs":
        pictures = Pictures.load(photos)
        for name, side in transformer.SIZES.items():
            crops.keep_pairs(run / f"{name}.pt", pictures, args.count * 256**2 // side**2, side)
    elif args.stage == "without-droplets":
        transformer.without_droplets(run, photos)
    elif args.stage == "together":
        transformer.train_together(run, photos, minutes, args.start)
    elif args.stage == "average":
        detail.average(args.start, args.other, args.share, args.to)
    elif args.stage == "scale":
        detail.scale(args.start, args.to, args.luma, args.chroma)
    elif args.stage == "export":
        export.export_model(run, photos, args.to)
    elif args.stage == "export-detail":
        export.export_detail(args.start, args.to)
    elif args.stage == "crops":
        restorer = crops.bundled() if args.behind == "bundled" else transformer.pipeline(run, photos)
        crops.restore_crops(run / "crops.pt", Pictures.load(photos), teacher, restorer, args.count, seed=0)
    else:
        train = detail.train_faithful if args.stage.startswith("detail") else detail.train_textured
        if args.stage.endswith("-start"):
            source = crops.live(Pictures.load(photos), teacher, detail.stand_in)
            restorer = detail.enlarged
        else:
            source = crops.kept(run / "crops.pt")
            restorer = crops.bundled() if args.behind == "bundled" else transformer.pipeline(run, photos)
        train(run, args.stage, minutes, args.start, source, detail.held_out_figures(photos, restorer))


if __name__ == "__main__":
    main()

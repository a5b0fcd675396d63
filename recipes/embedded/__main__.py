"""python -m recipes.embedded STAGE --run runs/embedded --photos FOLDER [--teacher FILE.param] [--minutes N]

Stages in order: vae, transformer, decoder, detail, texture; then export. Each resumes from its checkpoint.
"""

import argparse
from pathlib import Path

import torch

from . import autoencoder, detail


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["vae", "detail-start", "texture-start"])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"), help="folder of the checkpoints")
    parser.add_argument("--photos", type=Path, required=True, help="folder of the training photographs")
    parser.add_argument("--teacher", type=Path, help="the teacher's .param file, its .bin beside it")
    parser.add_argument("--minutes", type=float, default=30, help="processor minutes for the whole stage")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.stage == "vae":
        autoencoder.train(args.run, args.photos, args.minutes)
    elif args.stage == "detail-start":
        detail.train_faithful(args.run, args.photos, args.teacher, args.minutes, None, "detail-start")
    elif args.stage == "texture-start":
        start = args.run / "detail-start_best.pt"
        detail.train_textured(args.run, args.photos, args.teacher, args.minutes, start, None, "texture-start")


if __name__ == "__main__":
    main()

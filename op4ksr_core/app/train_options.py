"""The options of `op4ksr train`: one per setting, named as it is."""

import argparse
from dataclasses import fields

from ..train.settings import PRESETS, LossWeights, TrainSettings


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """One option per setting, named as it is."""
    parser.add_argument("inputs", nargs="*", metavar="DATA", help="folders, pictures, or text files of paths")
    parser.add_argument("-o", "--output", metavar="RUN", help="folder of the run; one that is there is gone on with")
    parser.add_argument("--preset", default="embedded", help=f"settings to start from: {', '.join(PRESETS)}")
    parser.add_argument("--print-settings", action="store_true", help="print the settings as JSON and stop")
    parser.add_argument(
        "--plan", type=float, nargs="?", const=0.0, metavar="GB", help="print the memory plan (for a card) and stop"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this long; run again to go on")
    parser.add_argument("--stop-after", type=int, metavar="STEP", help="stop at this step; run again to go on")
    parser.add_argument("--workers", type=int, default=0, help="processes that read pictures (default 0: none)")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints (default 100)")
    parser.add_argument("--picture-every", type=int, default=100, help="steps between logged pictures (default 100)")
    parser.add_argument("--shard", action="store_true", help="share the transformer out over the processes (FSDP)")
    parser.add_argument("--processes", type=int, metavar="N", help="what --plan counts with (default: those launched)")
    parser.add_argument("--device", choices=("cpu",), help="cpu: do not use a GPU")
    group = parser.add_argument_group("settings (the preset's where not given)")
    for field in fields(TrainSettings):
        if field.name in ("rope", "losses"):
            continue
        name = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            group.add_argument(name, action=argparse.BooleanOptionalAction, default=None)
        else:
            group.add_argument(name, type=type(field.default))
    group.add_argument("--theta", type=float)
    group.add_argument("--scheme")
    for field in fields(LossWeights):
        group.add_argument(f"--loss-{field.name}", type=float, help=f"weight of the {field.name} loss")

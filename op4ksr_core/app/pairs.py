"""`op4ksr pairs`: a sheet of training pairs, or of the steps that a degradation takes."""

import argparse

from ..declared import check_choice
from ..files import at_home, check_targets, write_atomically
from ..train.data import PairDataset, pair_sheet, step_sheet
from ..train.degradation.presets import DEGRADATIONS
from ..train.listing import list_pictures, usable_pictures
from ..train.presets import PRESETS
from .argument_types import SEED, whole
from .console import say
from .options import add_inputs


def add_options(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="PNG to write")
    parser.add_argument("--crop", type=whole(8, 32768), default=256, help="HR px (default 256)")
    parser.add_argument("--count", type=whole(1, 1000), default=8, help="pairs (default 8)")
    parser.add_argument(
        "--preset", default="embedded", help="of `train`, whose degradation is shown (default embedded)"
    )
    parser.add_argument("--degradation", help=f"in place of the preset's: {', '.join(DEGRADATIONS)}")
    parser.add_argument("--scale", type=whole(1, 16), help="LR is 1/scale of the crop (default: the degradation's)")
    parser.add_argument("--steps", action="store_true", help="a row per picture: each step of its degradation")
    parser.add_argument("--seed", type=SEED, default=0, help="of the crops and degradations")


def run(arguments: argparse.Namespace) -> int:
    """A sheet of LR above HR: what a training would see."""
    preset = PRESETS[check_choice("preset", arguments.preset, tuple(PRESETS))]
    name, usual_scale = preset.degradation, preset.scale
    if arguments.degradation is not None:
        name = check_choice("degradation", arguments.degradation, tuple(DEGRADATIONS))
        usual_scale = DEGRADATIONS[name].scale
    scale = arguments.scale or usual_scale
    found = usable_pictures(list_pictures(arguments.inputs, scale=scale), arguments.crop, scale)
    paths = found.large
    data = PairDataset(paths, arguments.crop, scale, name, arguments.seed, arguments.count, small=found.small)
    path = at_home(arguments.output)
    check_targets([path], paths)
    sheet = (step_sheet if arguments.steps else pair_sheet)(data, arguments.count)
    write_atomically(path, lambda file: sheet.save(file, "png"))
    say(f"{min(arguments.count, len(data))} pairs of {len(paths)} pictures, degradation {name}: {path}")
    return 0

"""`op4ksr demo`: enlarges the bundled photo to 4096 px, with a before/after strip."""

import argparse

from ..geometry import LongSide
from ..paths import DEMO_PHOTO
from . import upscale
from .options import add_method_options, add_model_options

run = upscale.run


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", default="output", help="output folder (default: output)")
    add_model_options(parser)
    add_method_options(parser)
    upscale.add_output_options(parser)
    parser.set_defaults(inputs=[str(DEMO_PHOTO)], engine="here", usual_target=LongSide(4096), strip=True)

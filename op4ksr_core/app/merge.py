"""`op4ksr merge`: a model folder with adapters merged into its weights."""

import argparse

import torch

from ..errors import SettingError
from ..weights.convert import merge
from ..weights.unet_sources import UNetSources
from .console import say
from .options import DTYPES, add_sources, find_sources


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write; must not be there yet")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights written (default: as stored)")
    add_sources(parser)


def run(arguments: argparse.Namespace) -> int:
    """A model with its adapters in its weights."""
    sources = find_sources(arguments)
    if isinstance(sources, UNetSources):
        raise SettingError(f"merge is for FLUX folders; {arguments.model} is Stable Diffusion's.")
    merge(sources, arguments.output, getattr(torch, arguments.dtype) if arguments.dtype else None)
    say(f"{arguments.output}: merged")
    return 0

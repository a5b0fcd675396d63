"""`op4ksr convert`: an adapter in another form."""

import argparse

from ..weights.convert import convert
from .console import say


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="PEFT folders, single file, or FLUX LoRA with kohya's key names")
    parser.add_argument("-o", "--output", required=True, help="what to write; must not be there yet")
    parser.add_argument("--to", required=True, help="folder, file or kohya")


def run(arguments: argparse.Namespace) -> int:
    """An adapter in another form."""
    convert(arguments.adapter, arguments.output, arguments.to)
    say(f"{arguments.adapter} -> {arguments.output} ({arguments.to})")
    return 0

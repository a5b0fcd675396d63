"""`op4ksr embed-prompt`: makes prompt.safetensors with FLUX's text encoders."""

import argparse

from ..settings import POSITIVE_PROMPT
from ..weights.prompt import embed_prompt
from .console import say
from .numbers import whole


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="diffusers FLUX folder with its two tokenizers and text encoders")
    parser.add_argument("-o", "--output", required=True, help="safetensors file to write")
    parser.add_argument("--text", help="prompt (default: the fixed one of the method)")
    parser.add_argument("--tokens", type=whole(1, 4096), default=512, help="T5 tokens (default 512)")


def run(arguments: argparse.Namespace) -> int:
    """Writes a prompt file."""
    text = POSITIVE_PROMPT if arguments.text is None else arguments.text
    say(str(embed_prompt(arguments.folder, arguments.output, text, arguments.tokens)))
    return 0

"""`op4ksr embed-prompt`: makes prompt.safetensors with FLUX's text encoders."""

import argparse

from ..errors import SettingError
from ..files import at_home
from ..settings import NEGATIVE_PROMPT, POSITIVE_PROMPT
from ..weights.prompt import embed_captions, embed_prompt
from .argument_types import whole
from .console import say


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="diffusers FLUX folder with its two tokenizers and text encoders")
    parser.add_argument("-o", "--output", help="safetensors file to write")
    parser.add_argument(
        "--captions",
        metavar="DATA",
        help="for each NAME.txt below a folder, or each row of a table with the columns path and caption, write "
        "NAME.prompt.safetensors beside it (Stable Diffusion's text encoder)",
    )
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--text", help="prompt (default: the fixed one of the method)")
    text.add_argument("--negative", action="store_true", help="OSEDiff's negative prompt, for `train --negative FILE`")
    parser.add_argument("--tokens", type=whole(1, 4096), default=512, help="T5 tokens (default 512)")


def run(arguments: argparse.Namespace) -> int:
    """Writes a prompt file, or one for each caption."""
    if arguments.captions:
        say(f"{embed_captions(arguments.folder, at_home(arguments.captions))} captions embedded")
        return 0
    if not arguments.output:
        raise SettingError("Name the file to write with -o, or a folder of captions with --captions.")
    usual = NEGATIVE_PROMPT if arguments.negative else POSITIVE_PROMPT
    text = usual if arguments.text is None else arguments.text
    say(str(embed_prompt(arguments.folder, arguments.output, text, arguments.tokens)))
    return 0

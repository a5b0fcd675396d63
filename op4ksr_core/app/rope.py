"""`op4ksr rope`: what RoPE bases do to token positions, as numbers and a picture."""

import argparse

from ..diagnostics import rope_phases
from ..diagnostics.rope_report import draw_analyses
from ..files import at_home, check_targets, json_text, write_atomically
from ..geometry import Size
from ..picture.convert import as_picture
from ..settings import RopeSettings
from .argument_types import whole
from .console import say


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--theta", type=float, nargs="+", default=[100, 10000], help="bases (default 100 10000)")
    parser.add_argument("--scheme", default="plain", help="plain (default), yarn, resonance-yarn")
    parser.add_argument("--size", default="4096x4096", metavar="WxH", help="picture size in px (default 4096x4096)")
    parser.add_argument(
        "--token-px", type=whole(1, 1024), default=32, help="px a token covers: 32 behind F16 (default), 16 F8"
    )
    parser.add_argument(
        "--base-tokens", type=whole(1, 10**6), default=64, help="trained tokens a side, for yarn (default 64)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write the picture there, as PNG")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of sentences")


def run(arguments: argparse.Namespace) -> int:
    """Sentences or JSON on standard output, the picture where -o says. Raises Op4ksrError."""
    size = Size.parse(arguments.size)
    settings = [RopeSettings(theta, arguments.scheme, base_tokens=arguments.base_tokens) for theta in arguments.theta]
    analyses = [rope_phases.analyse(one, size, arguments.token_px) for one in settings]
    if arguments.output:
        path = at_home(arguments.output)
        check_targets([path])
        picture = as_picture(draw_analyses(analyses))
        write_atomically(path, lambda file: picture.save(file, "png"))
    if arguments.json:
        say(json_text([one.as_dict() for one in analyses]).rstrip())
    else:
        say("\n".join(rope_phases.compare(analyses)))
    return 0

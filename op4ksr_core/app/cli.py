"""The command line: `op4ksr COMMAND`. Each command is a module here with `add_options(parser)` and `run(arguments)`."""

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from .. import __version__
from ..errors import Op4ksrError
from ..files import printable
from ..optional import require
from .console import PlainFormatter, complain, exit_code, stopped_by_signals

COMMANDS = {
    "upscale": "enlarge pictures, folders and globs",
    "demo": "enlarge the bundled photo to 4096 px, with a before/after strip",
    "info": "model, versions, device and memory plan",
    "inspect": "find a lattice in pictures, measure it, remove it",
    "evaluate": "judge results against their ground truth: tables, tests, page",
    "curate": "choose training pictures by their scores",
    "benchmark": "make the paper's benchmarks, check them, run them",
    "rope": "what RoPE bases do to token positions: numbers and a picture",
    "sweep": "one picture under several thetas and sigmas, judged and compared",
    "latents": "latents before and after the transformer, as colours and numbers",
    "train": "make adapters: LoRA on the encoder and the transformer",
    "pairs": "a sheet of training pairs, LR above HR",
    "unpack": "a WebDataset or Hugging Face dataset as pictures and captions",
    "convert": "an adapter in another form",
    "merge": "a model folder with adapters merged into its weights",
    "embed-prompt": "make prompt.safetensors with FLUX's text encoders",
}
"""Commands and their help, in order."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0: all well; 1: some picture failed; 2: nothing could start; 128 + n: stopped by signal n."""
    words = sys.argv[1:] if argv is None else list(argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text, or a terminal know no UTF-8
    try:
        with stopped_by_signals():
            arguments = make_parser(words).parse_args(words)
            logging.basicConfig(format="%(message)s", level=logging.WARNING)
            logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters of its warnings is raised here
            for handler in logging.getLogger().handlers:
                handler.setFormatter(PlainFormatter("%(message)s"))
            level = logging.DEBUG if arguments.debug else logging.INFO if arguments.verbose else logging.WARNING
            logging.getLogger("op4ksr").setLevel(level)
            return arguments.run(arguments)
    except Op4ksrError as error:
        complain(printable(f"op4ksr: {error}"))
        return 2
    except SystemExit as stop:  # of the parser
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt as stop:
        complain("op4ksr: stopped.")
        return exit_code(stop)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except Exception as error:
        if "--debug" in words:
            raise
        complain(printable(f"op4ksr: unexpected {type(error).__name__}: {error} (--debug shows where)"))
        return 2
    finally:
        _flush()


def _flush() -> None:
    """What is left goes out now: a reader that is gone would be told of at the interpreter's end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors hold nothing that a terminal obeys."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def make_parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """All commands, and the options of the one that `argv` names."""
    text = "One-step, patch-free 4K upscaling (OP4KSR)."
    parser = Parser(prog="op4ksr", allow_abbrev=False, description=text)
    parser.add_argument("--version", action="version", version=f"op4ksr {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    asked = next((word for word in argv if not word.startswith("-")), "")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        if name == asked:
            module = _module(name)
            module.add_options(command)
            command.add_argument("-v", "--verbose", action="store_true", help="also print the memory plan")
            command.add_argument("--debug", action="store_true", help="show where an unexpected error came from")
            command.set_defaults(run=module.run)
    return parser


def _module(name: str) -> ModuleType:
    """A command's module, and no other: torch is imported here, and some commands take seconds of imports more."""
    if name == "curate":
        require("curate")  # its libraries are an extra
    return importlib.import_module(f".{name.replace('-', '_')}", __package__)

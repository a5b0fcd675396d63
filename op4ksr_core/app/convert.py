"""`op4ksr convert`: an adapter in another form, and OSEDiff's and TVT's pickles as safetensors."""

import argparse

from ..errors import SettingError
from ..weights.convert import PICKLES, convert, convert_pickle, write_ce_unet
from .console import say


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "adapter",
        help="PEFT folders, single file, or FLUX LoRA with kohya's key names; osediff.pkl, model_TVT.pkl, "
        "vae.ckpt; or, for TVT's CE-UNet, Stable Diffusion 2.1-base's folder",
    )
    parser.add_argument("-o", "--output", required=True, help="what to write; must not be there yet")
    parser.add_argument("--to", help="folder, file, kohya or ce-unet; of a pickle not wanted")


def run(arguments: argparse.Namespace) -> int:
    """An adapter in another form; a pickle, which nothing else here reads, as safetensors."""
    if arguments.adapter.lower().endswith(PICKLES):
        said = convert_pickle(arguments.adapter, arguments.output)
        say(f"{arguments.adapter} -> {arguments.output} ({said})")
        return 0
    if arguments.to is None:
        raise SettingError("Say which form the result is to have: --to folder, file, kohya or ce-unet.")
    if arguments.to == "ce-unet":
        write_ce_unet(arguments.adapter, arguments.output)
    else:
        convert(arguments.adapter, arguments.output, arguments.to)
    say(f"{arguments.adapter} -> {arguments.output} ({arguments.to})")
    return 0

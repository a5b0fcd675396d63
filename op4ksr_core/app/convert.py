"""`op4ksr convert`: an adapter in another form, OSEDiff's and TVT's pickles as safetensors, and curation's judges."""

import argparse

from ..curate.converters import FORMS, convert_judge
from ..errors import SettingError
from ..weights.convert import PICKLES, convert, convert_pickle, write_ce_unet
from .console import say


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "adapter",
        help="PEFT folders, single file, or FLUX LoRA with kohya's key names; osediff.pkl, model_TVT.pkl, "
        "vae.ckpt; for TVT's CE-UNet, Stable Diffusion 2.1-base's folder; for stage 2 of `op4ksr curate` "
        "MM-RealSR's de_net.pth or LAION's sac+logos+ava1-l14-linearMSE.pth",
    )
    parser.add_argument("-o", "--output", required=True, help="what to write; must not be there yet")
    parser.add_argument(
        "--to", help="folder, file, kohya, ce-unet, degradation or aesthetic; not for the other pickles"
    )


def run(arguments: argparse.Namespace) -> int:
    """An adapter in another form, a public pickle as safetensors, or a judge of curation."""
    if arguments.to in FORMS:
        said = convert_judge(arguments.adapter, arguments.output, arguments.to)
        say(f"{arguments.adapter} -> {arguments.output} ({said})")
        return 0
    if arguments.adapter.lower().endswith(PICKLES):
        said = convert_pickle(arguments.adapter, arguments.output)
        say(f"{arguments.adapter} -> {arguments.output} ({said})")
        return 0
    if arguments.to is None:
        raise SettingError(
            "Say which form the result is to have: --to folder, file, kohya, ce-unet, degradation or aesthetic."
        )
    if arguments.to == "ce-unet":
        write_ce_unet(arguments.adapter, arguments.output)
    else:
        convert(arguments.adapter, arguments.output, arguments.to)
    say(f"{arguments.adapter} -> {arguments.output} ({arguments.to})")
    return 0

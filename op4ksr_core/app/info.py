"""`op4ksr info`: model, versions, device and memory plan."""

import argparse
import platform

import torch

from .. import __version__
from ..geometry import Size
from ..pipeline import restoration
from ..pipeline.restoration import Request
from .console import say
from .options import add_method_options, add_model_options, make_upscaler, target_of, upscale_settings


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="1024x1024", metavar="WxH", help="input size to plan for (default 1024x1024)")
    add_model_options(parser)
    add_method_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints model, versions, device and memory plan."""
    import diffusers

    settings = upscale_settings(arguments)
    upscaler = make_upscaler(arguments, settings)
    frame = target_of(arguments).frame(Size.parse(arguments.size))
    plan = restoration.plan(upscaler.host, Request(frame, [settings]))
    footprint = upscaler.host.footprint
    name = torch.cuda.get_device_name(upscaler.device) if upscaler.device.type == "cuda" else platform.processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__}
    say(f"op4ksr {__version__}, " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    say(f"device {upscaler.device} {name or platform.machine()}, {str(upscaler.dtype).removeprefix('torch.')}")
    say(f"model {arguments.model}: {footprint.parameters / 1e6:.1f} M parameters, VAE factor {upscaler.latent_factor}")
    say(f"settings {settings}")
    say(str(plan.size))
    if plan.memory:
        say(str(plan.memory))
    return 0

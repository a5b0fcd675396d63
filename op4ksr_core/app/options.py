"""Options that several commands share, and what they stand for."""

import argparse
import logging
from dataclasses import fields, replace

import torch

from ..errors import SettingError
from ..model.precision import half_is_fast
from ..paths import EMBEDDED
from ..pipeline.upscaler import Upscaler
from ..settings import (
    ATTENTIONS,
    COLOUR_FIXES,
    HEADS,
    MAX_STEPS,
    PASSES,
    PRESETS,
    SCHEMES,
    WINDOW_WEIGHTS,
    Execution,
    RopeSettings,
    UpscaleSettings,
    find_preset,
    with_strength,
)
from ..weights.sources import Sources
from ..weights.unet_sources import UNetSources, is_unet_folder
from .numbers import SEED, WORKERS, number, whole

log = logging.getLogger("op4ksr")

DTYPES = ("float32", "bfloat16", "float16")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="picture, folder (searched through) or glob")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, help="scale factor, above 0 and at most 16 (default 4)")
    size.add_argument("--long-side", type=int, help="long side of the output in px")
    model = add_sources(parser)
    model.add_argument("--preset", help=f"settings to start from: {', '.join(PRESETS)}")
    model.add_argument("--dtype", choices=DTYPES, help="default bfloat16 on CUDA and CPUs that have it, else float32")
    model.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    model.add_argument(
        "--fp8", action="store_true", help="transformer weights in 8 bits: half the memory, small errors"
    )
    model.add_argument("--compile", action="store_true", help="torch.compile: minutes once, then faster on a GPU")
    model.add_argument(
        "--attention",
        choices=ATTENTIONS,
        default="auto",
        help="the transformer's attention kernel (default: PyTorch's choice)",
    )
    model.add_argument(
        "--plain-layers", action="store_true", help="diffusers' own layers: slower, more memory, the same picture"
    )
    model.add_argument("--no-memory-check", action="store_true", help="start even if the estimate does not fit")


def add_sources(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="embedded", help="embedded (default), or a diffusers folder")
    for name, text in (
        ("transformer", "transformer folder or file, instead of the model folder's"),
        ("vae", "VAE folder or file, instead of the model folder's"),
        ("prompt", "prompt embeddings, instead of the model folder's prompt.safetensors"),
    ):
        model.add_argument(f"--{name}", help=text)
    model.add_argument("--dino", help="DINOv2 folder of transformers, in place of a prompt (F2IDiff-SR)")
    model.add_argument("--vae-factor", type=int, choices=(8, 16), help="compression, where the VAE's config is silent")
    model.add_argument(
        "--vae-pass",
        choices=("auto", *PASSES),
        default="auto",
        help="VAE in one pass, in strips of rows, or so that they take the least memory and twice the time; the same "
        "picture (default: by the memory plan)",
    )
    model.add_argument("--head", choices=HEADS, default="centered", help="F16 decoder head")
    model.add_argument("--adapter", action="append", default=[], help="PEFT adapter folder or single file; repeatable")
    model.add_argument(
        "--adapter-scale", type=number(-100, 100), default=1.0, help="strength of the adapters (default 1)"
    )
    return model


def add_method_options(parser: argparse.ArgumentParser, swept: bool = False) -> None:
    method = parser.add_argument_group("method")
    if not swept:
        method.add_argument("--theta", type=float, help="RoPE base, above 1 (OP4KSR 100, FLUX 10000)")
        method.add_argument("--sigma", type=float, help="mid-timestep, in (0, 1]")
    method.add_argument("--scheme", help=f"RoPE scheme: {', '.join(SCHEMES)}")
    method.add_argument("--steps", type=whole(1, MAX_STEPS), help="transformer evaluations (OP4KSR: 1)")
    method.add_argument("--guidance", type=float, help="distilled guidance of FLUX-dev models")
    method.add_argument("--noise", type=float, help="noise added at the start, 0 (OP4KSR) to 1 (image-to-image)")
    method.add_argument("--seed", type=SEED, help="of the noise (default 0)")
    method.add_argument("--posterior-seed", type=SEED, help="samples the encoder's posterior (default: takes its mode)")
    method.add_argument("--colour", "--color", help=f"colour fix: {', '.join(COLOUR_FIXES)}")
    method.add_argument("--fidelity", type=float, help="how far the input's own band is kept, 0 to 1")
    method.add_argument("--compensation", type=float, help="fine detail that 16x compression loses, 0 (none) to 2")
    method.add_argument("--strength", type=float, help="0 keeps the picture, 1 is the preset (default), 2 is most")
    method.add_argument("--timestep", type=int, help="of a Stable Diffusion UNet, 0 to 999 (OSEDiff 999, TVT 1)")
    method.add_argument("--window-overlap", type=int, help="px that windows share, 0 for half a window (default)")
    method.add_argument("--window-weights", help=f"where windows overlap: {', '.join(WINDOW_WEIGHTS)}")
    method.add_argument("--window", type=int, help="px of the windows that the transformer sees, 0 for all (default)")


def add_measures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metrics", default="local", help="comma list, local (no download, the default) or all")
    parser.add_argument(
        "--tile", type=whole(16, 32768), default=512, help="px of the tiles that deep metrics see (default 512)"
    )
    parser.add_argument("--stride", type=whole(0, 32768), default=0, help="px from tile to tile (default: the tile)")
    parser.add_argument("--aggregate", default="mean", help="of the tiles: mean (default), median, min")
    parser.add_argument("--workers", type=WORKERS, default=1, help="processes that share the pictures (default 1)")
    parser.add_argument(
        "--page-side", type=whole(0, 32768), default=512, help="px of a picture on the page (default 512; 0: none)"
    )


def upscale_settings(arguments: argparse.Namespace) -> UpscaleSettings:
    """The preset with every option that was given put over it."""
    preset = find_preset(arguments.preset if arguments.preset is not None else _usual_preset(arguments.model))
    given = {k: v for k, v in vars(arguments).items() if v is not None}
    changes = {k: given[k] for k in ("theta", "scheme") if k in given}
    rope = replace(preset.rope or RopeSettings(), **changes) if preset.rope or changes else None
    names = {one.name for one in fields(UpscaleSettings)} & given.keys()
    settings = replace(preset, rope=rope, **{name: given[name] for name in names})
    return with_strength(settings, given["strength"]) if "strength" in given else settings


def _usual_preset(model: str) -> str:
    if model == "embedded":
        return "embedded"
    return "osediff" if is_unet_folder(model) else "op4ksr"


def find_device(name: str | None) -> torch.device | None:
    """The device of that name; None without one. Raises SettingError where there is none here."""
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(1, device=device) if device.type != "meta" else None
    except Exception as error:  # each backend that is not there fails in its own way
        raise SettingError(
            f"The device {name!r} cannot be used here. Use cpu, or cuda where there is a GPU."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise SettingError(f"The device {name!r} is not supported; use cpu or cuda.")
    return device


def _fast_half(device: torch.device | None) -> torch.dtype | None:
    """bfloat16 on a CPU that has it; None, the device's own default, elsewhere."""
    on_cpu = device.type == "cpu" if device else not torch.cuda.is_available()
    if not on_cpu or not half_is_fast(torch.device("cpu")):
        return None
    log.info("bfloat16: this CPU has it. Within 1/255 of float32 on average; --dtype float32 is exact")
    return torch.bfloat16


def find_sources(arguments: argparse.Namespace, conditioned: bool = True) -> Sources | UNetSources:
    """The model that the options name; not `conditioned`, a Stable Diffusion folder needs no prompt. Raises
    WeightsError."""
    if is_unet_folder(arguments.model):
        return UNetSources.find(
            arguments.model,
            unet=arguments.transformer,
            vae=arguments.vae,
            prompt=arguments.prompt,
            features=arguments.dino,
            adapters=arguments.adapter,
            adapter_scale=arguments.adapter_scale,
            conditioned=conditioned,
        )
    if arguments.dino:
        raise SettingError(f"--dino is for a Stable Diffusion folder; {arguments.model} has no unet.")
    return Sources.find(
        EMBEDDED if arguments.model == "embedded" else arguments.model,
        transformer=arguments.transformer,
        vae=arguments.vae,
        prompt=arguments.prompt,
        f16=None if arguments.vae_factor is None else arguments.vae_factor == 16,
        head=arguments.head,
        adapters=arguments.adapter,
        adapter_scale=arguments.adapter_scale,
    )


def make_upscaler(arguments: argparse.Namespace, settings: UpscaleSettings) -> Upscaler:
    """The upscaler that the options name."""
    device = find_device(arguments.device)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else _fast_half(device)
    check = not arguments.no_memory_check
    sources = find_sources(arguments)
    execution = Execution(
        fp8=arguments.fp8,
        compiled=arguments.compile,
        attention=arguments.attention,
        vae_pass=None if arguments.vae_pass == "auto" else arguments.vae_pass,
        lean=not arguments.plain_layers,
    )
    return Upscaler(sources, settings, device, dtype, check, execution)

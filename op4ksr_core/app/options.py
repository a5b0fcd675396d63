"""Options that several commands share, and what they stand for."""

import argparse
import json
import logging
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..declared import add_option, add_options, declarations, find_setting, from_values, given_options
from ..errors import SettingError
from ..files import at_home
from ..geometry import Box, LongSide, Megapixels, Scale, ShortSide, Size, Target
from ..model.precision import half_is_fast
from ..paths import EMBEDDED
from ..pipeline.upscaler import Upscaler
from ..settings import (
    HEADS,
    PRESETS,
    Execution,
    RopeSettings,
    UpscaleSettings,
    find_preset,
    with_strength,
    with_window,
)
from ..weights.model_facts import facts_of
from ..weights.sources import Sources
from ..weights.unet_sources import UNetSources, is_unet_folder
from ..weights.usual_settings import Facts, choose, contradictions
from ..wishes import Wishes, with_wishes
from .argument_types import WORKERS, number, whole

log = logging.getLogger("op4ksr")

T = TypeVar("T")

DTYPES = ("float32", "bfloat16", "float16")


def add_inputs(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "inputs", nargs="+" if required else "*", metavar="INPUT", help="picture, folder (searched through) or glob"
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    size = parser.add_mutually_exclusive_group()
    add_target(size, "scale", Scale)
    add_target(size, "long-side", LongSide)
    model = add_sources(parser)
    model.add_argument("--preset", help=f"settings to start from: {', '.join(PRESETS)}")
    model.add_argument("--dtype", choices=DTYPES, help="default bfloat16 on CUDA and CPUs that have it, else float32")
    model.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    add_options(model, Execution, leave_out=("vae_pass",))
    model.add_argument("--no-memory-check", action="store_true", help="start even if the estimate does not fit")


def add_target(parser: argparse.ArgumentParser | argparse._ArgumentGroup, name: str, kind: type) -> None:
    """The option of a target with one number."""
    [one] = declarations(kind)
    parser.add_argument(f"--{name}", type=one.parse, metavar=one.unit or None, help=one.option_help)


TARGETS = {"scale": Scale, "long_side": LongSide, "short_side": ShortSide, "megapixels": Megapixels}


def target_of(arguments: argparse.Namespace, usual: Target = Scale()) -> Target:
    """The size that the options ask for. Raises SettingError."""
    given = {name: value for name, value in vars(arguments).items() if name in TARGETS and value is not None}
    exact = getattr(arguments, "exact", None)
    if exact is not None:
        given["exact"] = exact
    if len(given) > 1:
        options = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
        raise SettingError(f"Give one of the options of size; got {options}.")
    fit = given_options(arguments, Box)
    if exact is not None:
        return Box(Size.parse(exact), **fit)
    if fit.get("fit", "fit") != "fit":
        raise SettingError(f"--fit {fit['fit']} needs an exact size: give --exact WxH.")
    for name, value in given.items():
        return TARGETS[name](value)
    return usual


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
    add_option(model, find_setting(Execution, "vae_pass"))
    model.add_argument("--head", choices=HEADS, default="auto", help="F16 decoder head; auto measures")
    model.add_argument("--adapter", action="append", default=[], help="PEFT adapter folder or single file; repeatable")
    model.add_argument(
        "--compensation-weights",
        metavar="FILE",
        help="detail network in place of the bundled one, as `train --stage compensation` writes it",
    )
    model.add_argument(
        "--adapter-scale", type=number(-100, 100), default=1.0, help="strength of the adapters (default 1)"
    )
    return model


def add_method_options(parser: argparse.ArgumentParser, swept: bool = False) -> None:
    method = parser.add_argument_group("method")
    swept_by_it = ("theta", "sigma") if swept else ()
    add_options(method, RopeSettings, leave_out=swept_by_it)
    add_options(method, UpscaleSettings, leave_out=swept_by_it)
    add_options(method, Wishes)
    method.add_argument("--strength", type=float, help="0 keeps the picture, 1 is the preset (default), 2 is most")
    method.add_argument(
        "--settings",
        metavar="FILE",
        help="JSON as upscale --print-settings writes it; overrides the preset, and options override it",
    )


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
    """The preset, the settings file over it, and over both every option that was given. Raises SettingError.

    Wishes (content, creativity, resemblance), of options or the file, come between preset and file. Without --preset
    it is the models' own, and the log says why; what an adapter was not trained for is a warning.
    """
    preset, settings, facts = _start(arguments)
    values = {} if arguments.settings is None else read_values(arguments.settings)
    settings = _wished(arguments, values, preset, settings)
    if arguments.settings is not None:
        settings = settings_from(arguments.settings, values, settings)
    rope = given_options(arguments, RopeSettings)
    if rope:
        settings = replace(settings, rope=replace(settings.rope or RopeSettings(), **rope))
    given = given_options(arguments, UpscaleSettings)
    if "window" in given and "window_overlap" not in given:
        settings = with_window(settings, given["window"])
    settings = replace(settings, **given)
    for sentence in contradictions(facts, settings):
        log.warning("%s", sentence)
    return settings if arguments.strength is None else with_strength(settings, arguments.strength)


def _start(arguments: argparse.Namespace) -> tuple[str, UpscaleSettings, Facts]:
    """The preset's name, the settings to start from, and what is known of the models where they or an adapter tell."""
    chosen = None if arguments.preset is None else find_preset(arguments.preset)
    if chosen is not None and not arguments.adapter:
        return arguments.preset, chosen, Facts()
    parts = (arguments.transformer, arguments.vae, arguments.dino, *arguments.adapter)
    if arguments.model == "embedded" and not any(parts):
        return "embedded", find_preset("embedded"), Facts(bundled=True)
    facts = facts_of(find_sources(arguments))
    if chosen is not None:
        return arguments.preset, chosen, facts
    choice = choose(facts)
    log.warning("%s", choice.reason)  # a notice that is seen without --verbose
    return choice.preset, choice.settings, facts


def _wished(arguments: argparse.Namespace, values: Any, preset: str, settings: UpscaleSettings) -> UpscaleSettings:
    """The settings as wished for, in options or the file, of whose `values` the wishes are taken."""
    named = values if isinstance(values, dict) else {}
    in_file = {one.name: named.pop(one.name) for one in declarations(Wishes) if one.name in named}
    wishes = from_values(Wishes, in_file | given_options(arguments, Wishes))
    given = {*named, *given_options(arguments, UpscaleSettings)}
    if arguments.strength is not None or "fidelity" in given or "compensation" in given:
        given.add("strength")
    settings, told = with_wishes(settings, wishes, preset, given)
    for sentence in told:
        log.warning("%s", sentence)  # a notice that is seen without --verbose
    return settings


def read_values(path: str) -> Any:
    """What a JSON file of settings holds. Raises SettingError, which names the file."""
    try:
        return json.loads(at_home(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"The settings file {path} cannot be read as JSON: {error}") from error


def settings_from(path: str, values: Any, base: T) -> T:
    """Settings of the type of `base` from what a file held; what is left out is as there. Raises SettingError, which
    names the file."""
    try:
        return from_values(type(base), values, base)
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error


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
    """bfloat16 on a CPU where it is faster; None, the device's own default, elsewhere."""
    on_cpu = device.type == "cpu" if device else not torch.cuda.is_available()
    if not on_cpu or not half_is_fast(torch.device("cpu")):
        return None
    log.info("bfloat16: faster on this CPU. Within 1/255 of float32 on average; --dtype float32 is exact")
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
            compensation=arguments.compensation_weights,
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
        compensation=arguments.compensation_weights,
    )


def make_upscaler(arguments: argparse.Namespace, settings: UpscaleSettings) -> Upscaler:
    """The upscaler that the options name."""
    device = find_device(arguments.device)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else _fast_half(device)
    check = not arguments.no_memory_check
    sources = find_sources(arguments)
    execution = Execution(**given_options(arguments, Execution))
    return Upscaler(sources, settings, device, dtype, check, execution)

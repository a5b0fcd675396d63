"""OSEDiff's and TVT's public files -> safetensors with plain names, and those as adapters.

The public files are pickles, read with torch's `weights_only`, which runs no code. Ours have keys
`unet.<module>.lora_A.weight` and `.lora_B.weight`, `unet.<layer>.weight` and `.bias` for layers that replace the
base's, the same with `vae.`, and in the metadata what the pickle says: family, base, ranks, alpha.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..files import at_home
from .adapters import MAX_RANK, Adapter, checked_adapter
from .files import find_weights, listing

FORMAT = "op4ksr-unet-adapter"
BASE = "stabilityai/stable-diffusion-2-1-base"
PEFT_ALPHA = 8
"""What the public codes leave `lora_alpha` at, so that a LoRA of rank 4 counts twice."""

PICKLED = ".pkl"
"""Ending of the public files."""

SAFE_TORCH = (2, 6)
"""The first torch whose `weights_only` cannot be made to run code (CVE-2025-32434)."""

_LISTS = {
    "unet": ("unet_lora_encoder_modules", "unet_lora_decoder_modules", "unet_lora_others_modules"),
    "vae": ("vae_lora_encoder_modules",),
}
_LORA = re.compile(r"(.+)\.lora_([AB])\.\w+\.weight")


@dataclass(frozen=True)
class UNetAdapter:
    """Of each part (`unet`, `vae`) its LoRA and the layers that are replaced whole; what it is for."""

    origin: str
    family: str
    base: str
    lora: dict[str, Adapter] = field(default_factory=dict)
    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def read_pickle(path: str | Path) -> dict[str, Any]:
    """A dictionary that torch saved: numbers, text, lists and tensors. Raises WeightsError by what else is in it, and
    where torch is too old to read a pickle safely."""
    path = at_home(path)
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise WeightsError(
            f"torch {torch.__version__} can be made to run code by a pickle like {path.name} (CVE-2025-32434): install "
            "torch 2.6 or newer."
        )
    if not path.is_file():
        raise WeightsError(f"There is no file {path}.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign or cut file can fail in any way
        why = re.search(r"(?:Unsupported (?:global|class|operand)|GLOBAL)[^\n]*", str(error))
        raise WeightsError(
            f"{path} cannot be read as plain weights ({why[0] if why else ' '.join(str(error).split())[:200]}). It is "
            "cut short, or holds more than tensors, numbers and names: that is refused, for it could run any code."
        ) from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds {type(found).__name__}, not a dictionary of weights.")
    return found


def from_pickle(path: str | Path) -> UNetAdapter:
    """An OSEDiff (`osediff.pkl`) or TVT (`model_TVT.pkl`) file. Raises WeightsError where it is neither."""
    held = read_pickle(path)
    if "state_dict_unet" not in held:
        raise WeightsError(f"{path} is no OSEDiff or TVT file: it lacks state_dict_unet; it has {listing(held)}.")
    lora, layers = {}, {}
    for part, lists in _LISTS.items():
        state = held.get(f"state_dict_{part}")
        if state is None:
            continue
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise WeightsError(f"{path}: state_dict_{part} must hold tensors by name.")
        modules = [name for key in lists for name in held.get(key, [])]
        pairs, whole = _split(state)
        found = {key.rsplit(".lora_", 1)[0] for key in pairs}
        strange = sorted(set(modules) - found) + sorted(found - set(modules))
        if strange:
            raise WeightsError(
                f"{path}: the lists of the {part}'s LoRA modules and its tensors differ in {listing(strange)}."
            )
        config = {"r": held.get(f"rank_{part}"), "lora_alpha": PEFT_ALPHA, "target_modules": modules}
        lora[part], layers[part] = checked_adapter(f"{path} ({part})", config, pairs), whole
    if "unet" not in lora:
        raise WeightsError(f"{path} has no LoRA for the UNet.")
    family = "osediff" if "vae" in lora else "tvt"
    return UNetAdapter(str(path), family, BASE, lora, layers)


def _split(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """LoRA pairs without their adapter's name, and whole layers without `base_layer`."""
    pairs, whole = {}, {}
    for key, value in state.items():
        found = _LORA.fullmatch(key)
        if found:
            pairs[f"{found[1]}.lora_{found[2]}.weight"] = value.float().contiguous()
        else:
            whole[key.replace(".base_layer.", ".")] = value.float().contiguous()
    return pairs, whole


def save_unet_adapter(
    path: str | Path, adapter: UNetAdapter, trained_for: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Writes what `find_unet_adapter` reads. `trained_for`: `TrainedFor.as_metadata`."""
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {}
    metadata = {"format": FORMAT, "family": adapter.family, "base_model": adapter.base, **trained_for}
    for part, one in adapter.lora.items():
        state |= {f"{part}.{key}": value.contiguous() for key, value in one.state.items()}
        metadata |= {
            f"{part}.rank": str(one.config["r"]),
            f"{part}.alpha": str(one.config.get("lora_alpha", PEFT_ALPHA)),
        }
    for part, layers in adapter.layers.items():
        state |= {f"{part}.{key}": value.contiguous() for key, value in layers.items()}
    save_file(state, path, metadata=metadata)


def is_unet_adapter(path: str | Path) -> bool:
    """Whether a file has our form of OSEDiff's and TVT's weights, or may be one of the public pickles."""
    path = at_home(path)
    if path.suffix == PICKLED:
        return path.is_file()
    return path.is_file() and path.suffix == ".safetensors" and find_weights(path).metadata().get("format") == FORMAT


def find_unet_adapter(path: str | Path) -> UNetAdapter:
    """What `save_unet_adapter` wrote, or a public pickle. Raises WeightsError where ranks and header differ, a half is
    missing, or a pickle holds more than weights."""
    if at_home(path).suffix == PICKLED:
        return from_pickle(path)
    files = find_weights(path)
    metadata, state = files.metadata(), files.tensors()
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is no adapter of OSEDiff or TVT: name osediff.pkl, model_TVT.pkl, or what `op4ksr convert` makes "
            "of them."
        )
    family, lora, layers = metadata.get("family", ""), {}, {}
    for part in ("unet", "vae"):
        own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        pairs = {key: value for key, value in own.items() if ".lora_" in key}
        layers[part] = {key: value for key, value in own.items() if ".lora_" not in key}
        if pairs:
            config = {
                "r": _whole(path, metadata, f"{part}.rank"),
                "lora_alpha": _whole(path, metadata, f"{part}.alpha"),
            }
            modules = sorted({key.rsplit(".lora_", 1)[0] for key in pairs})
            lora[part] = checked_adapter(f"{path} ({part})", config | {"target_modules": modules}, pairs)
    wanted = {"osediff": ("unet", "vae")}.get(family, ("unet",))
    missing = [part for part in wanted if part not in lora]
    if missing:
        raise WeightsError(f"{path} lacks the {' and the '.join(missing)}'s half of {family or 'an adapter'}.")
    strange = sorted(key for key in state if not key.startswith(("unet.", "vae.")))
    if strange:
        raise WeightsError(f"{path} has keys of neither unet nor vae: {listing(strange)}.")
    return UNetAdapter(str(path), family, metadata.get("base_model", ""), lora, layers)


def _whole(path: str | Path, metadata: dict[str, str], name: str) -> int:
    text = metadata.get(name, "")
    if not text.isdecimal() or not 1 <= int(text) <= MAX_RANK:
        raise WeightsError(f"{path}: {name} in its header must be a whole number from 1 to {MAX_RANK}, got {text!r}.")
    return int(text)


def replace_layers(model: Any, layers: dict[str, Tensor], origin: str) -> None:
    """Puts whole layers in the place of the model's own, in place. Raises WeightsError where one does not fit."""
    own = model.state_dict()
    wrong = [key for key, value in layers.items() if key not in own or own[key].shape != value.shape]
    if wrong:
        raise WeightsError(f"{origin} is for another base; it has no place for {listing(wrong)}.")
    model.load_state_dict(own | {key: value.to(own[key].dtype) for key, value in layers.items()})


def vae_of_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """TVT's `vae.ckpt` (Lightning; keys `vaeDe4.*`) as tensors by diffusers' names. Raises WeightsError."""
    held = read_pickle(path)
    state = held.get("state_dict", held)
    prefix = "vaeDe4."
    own = {
        k.removeprefix(prefix): v.contiguous()
        for k, v in state.items()
        if k.startswith(prefix) and isinstance(v, Tensor)
    }
    if not own:
        raise WeightsError(
            f"{path} is no VAE-D4 of TVT: no key begins with {prefix}; it has {listing(map(str, state))}."
        )
    return own


def plain_metadata(adapter: UNetAdapter) -> str:
    """What an adapter is, in a line."""
    ranks = {part: one.config["r"] for part, one in adapter.lora.items()}
    return f"{adapter.family}, base {adapter.base}, ranks {json.dumps(ranks)}"

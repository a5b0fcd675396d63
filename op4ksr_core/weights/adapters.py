"""Adapters (LoRA): found in any public form, checked once, and merged into a model. Nodes and command line read them
here."""

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..files import at_home
from . import lora_keys
from .files import WeightFiles, check_keys, find_weights, is_number, listing, read_json

log = logging.getLogger("op4ksr")

ADAPTER_FOLDERS = {"transformer": "flux_adapter", "vae": "vae_encoder_adapter"}
"""OMGSR's two PEFT folders."""

MAX_RANK = 4096

PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""PEFT's `init_lora_weights` under which training leaves the base weights as they are."""

_MERGE_FIRST = "Merge it into its base with peft (merge_and_unload) and load the merged model."
_PEFT_PREFIX = "base_model.model."
_SINGLE_FILE_PREFIXES = {"transformer": "transformer.", "vae": "vae_encoder."}


@dataclass(frozen=True)
class Adapter:
    """One LoRA: its PEFT settings and its tensors, keyed `<module>.lora_A.weight` and `...lora_B.weight`."""

    origin: str
    config: dict
    state: dict[str, Tensor]

    def modules(self) -> list[str]:
        """The layers that it changes, by their names in diffusers."""
        return sorted({key.rsplit(".lora_", 1)[0] for key in self.state})

    def alpha_of(self, module: str) -> float:
        """A module's alpha: its pairs count B A alpha / rank. PEFT's rules: the first of `alpha_pattern`'s expressions
        that a name ends with, else `lora_alpha`; under rsLoRA times the square root of the rank."""
        patterns: dict[str, float] = self.config.get("alpha_pattern") or {}
        own = next((a for p, a in patterns.items() if re.fullmatch(rf"(.*\.)?({p})", module)), None)
        alpha = float(self.config.get("lora_alpha", 8) if own is None else own)
        rank = self.state[f"{module}.lora_A.weight"].shape[0]
        return alpha * math.sqrt(rank) if self.config.get("use_rslora") else alpha


def find_adapters(path: str | Path) -> dict[str, Adapter]:
    """The adapters at `path`, by part (`transformer`, `vae`).

    A folder has OMGSR's layout: `flux_adapter` and `vae_encoder_adapter`, either or both. A single file (`op4ksr`
    format) holds keys `transformer.*` and `vae_encoder.*` and, in its metadata, the PEFT settings of each part as JSON
    under the same names. Other single files are FLUX LoRAs with kohya's, BFL's or diffusers' key names (`lora_keys`).
    Raises WeightsError.
    """
    path = at_home(path)
    found = _folder_adapters(path) if path.is_dir() else _file_adapters(find_weights(path))
    if not found:
        names = " or ".join(ADAPTER_FOLDERS.values())
        raise WeightsError(f"{path} holds no adapter: wanted a folder {names}, or one file with both.")
    return found


def _folder_adapters(path: Path) -> dict[str, Adapter]:
    found = {}
    for part, name in ADAPTER_FOLDERS.items():
        folder = path / name
        if folder.is_dir():
            files = find_weights(folder / "adapter_model.safetensors")
            config = read_json(folder / "adapter_config.json")
            state = {key.removeprefix(_PEFT_PREFIX): value for key, value in files.tensors().items()}
            found[part] = checked_adapter(str(folder), config, state)
    return found


def _file_adapters(files: WeightFiles) -> dict[str, Adapter]:
    state, metadata, found = files.tensors(), files.metadata(), {}
    names = {part: prefix.rstrip(".") for part, prefix in _SINGLE_FILE_PREFIXES.items()}
    if not any(name in metadata for name in names.values()):
        return _foreign_adapters(files)
    stray = [key for key in state if not key.startswith(tuple(_SINGLE_FILE_PREFIXES.values()))]
    if stray:
        raise WeightsError(
            f"{files.origin} is no OP4KSR adapter file: keys begin neither transformer. nor vae_encoder.: "
            f"{listing(stray)}."
        )
    for part, prefix in _SINGLE_FILE_PREFIXES.items():
        tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if tensors:
            config = _settings_of(files.origin, metadata, names[part])
            found[part] = checked_adapter(f"{files.origin} ({names[part]})", config, tensors)
    return found


def _settings_of(origin: Path, metadata: dict[str, str], name: str) -> Any:
    if name not in metadata:
        raise WeightsError(f"{origin} lacks the PEFT settings of its {name} part in its metadata.")
    try:
        return json.loads(metadata[name])
    except ValueError as error:
        raise WeightsError(f"{origin}: the PEFT settings of its {name} part are no JSON ({error}).") from error


_DIFFUSERS_SETTINGS = "lora_adapter_metadata"


def _foreign_adapters(files: WeightFiles) -> dict[str, Adapter]:
    """A single file in another program's key names. One without alphas counts as if they were the ranks, as all those
    programs do."""
    origin, metadata = str(files.origin), files.metadata()
    _check_form(origin, {}, files.files)
    pairs, left_out = lora_keys.pairs_of(origin, files.tensors())
    if left_out:
        log.warning("%s: %d tensors are of a text encoder. They are left out: the prompt is fixed.", origin, left_out)
    found = {}
    for part, modules in pairs.items():
        has_alpha = any("alpha" in pair for pair in modules.values())
        name = f"{lora_keys.SETTINGS}{part}"
        if name in metadata:
            config = _settings_of(files.origin, metadata, name)
        elif _DIFFUSERS_SETTINGS in metadata and part == "transformer":
            said = _settings_of(files.origin, metadata, _DIFFUSERS_SETTINGS)
            config = {key.removeprefix("transformer."): value for key, value in said.items()}
        elif part == "vae" and not has_alpha:  # only we write such files, with their settings
            raise WeightsError(f"{origin} lacks the PEFT settings of its vae_encoder part in its metadata.")
        else:
            config = lora_keys.settings_of(modules)
            if not has_alpha:
                log.warning("%s names no alpha: it is taken to be the rank, %d.", origin, config["r"])
        state = {f"{key}.{side}.weight": pair[side] for key, pair in modules.items() for side in ("lora_A", "lora_B")}
        found[part] = checked_adapter(f"{origin} ({part})", config, state)
    return found


def checked_adapter(origin: str, config: Any, state: dict[str, Tensor]) -> Adapter:
    """An adapter whose settings and tensors can be used. Raises WeightsError by the name of what cannot.

    A plain LoRA on unchanged base weights; finite tensors in pairs of one rank, at most MAX_RANK; lora_alpha a finite
    number; r, where it is given, the rank of the tensors that rank_pattern does not name: else the strength alpha / r
    would be a guess.
    """
    if not isinstance(config, dict):
        raise WeightsError(f"{origin}: the PEFT settings must be an object in braces, not {type(config).__name__}.")
    _check_form(origin, config, state)
    if not state:
        raise WeightsError(f"{origin} holds no tensors.")
    alpha, rank = config.get("lora_alpha", 8), config.get("r")
    if not is_number(alpha) or not math.isfinite(alpha):
        raise WeightsError(f"{origin}: lora_alpha must be a finite number, got {alpha!r}.")
    if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK):
        raise WeightsError(f"{origin}: r must be a whole number from 1 to {MAX_RANK}, got {rank!r}.")
    for name in ("rank_pattern", "alpha_pattern"):
        _check_pattern(origin, name, config.get(name))
    for key, value in state.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{origin}: {key} holds values that are not finite numbers. The adapter is damaged.")
        own = value.shape[0 if "lora_A" in key else 1] if value.ndim > 1 else 0
        if not 0 < own <= MAX_RANK:
            raise WeightsError(f"{origin}: {key} has the shape {list(value.shape)}, a rank of {own}.")
        if rank is not None and own != rank and not config.get("rank_pattern"):
            raise WeightsError(
                f"{origin}: {key} has rank {own}, its settings say r = {rank}, so its strength lora_alpha / r is "
                f"not known. Set r to {own} in the settings if it was trained with that."
            )
    lone = sorted(key for key in state if _other_half(key) not in state)
    if lone:
        raise WeightsError(f"{origin}: half of a pair is missing beside {listing(lone)}. The adapter is cut short.")
    return Adapter(origin, config, state)


def _other_half(key: str) -> str:
    side, other = ("lora_A", "lora_B") if ".lora_A." in key else ("lora_B", "lora_A")
    return key.replace(f".{side}.", f".{other}.")


def _check_pattern(origin: str, name: str, pattern: Any) -> None:
    if pattern is None:
        return
    if not isinstance(pattern, dict) or not all(map(is_number, pattern.values())):
        raise WeightsError(f"{origin}: {name} must give numbers by module, got {pattern!r}.")
    for expression in pattern:
        try:
            re.compile(expression)
        except re.error as error:
            raise WeightsError(f"{origin}: {name} names {expression!r}, which is no regular expression.") from error


def _check_form(origin: str, config: dict, keys: Any) -> None:
    """Raises WeightsError on every adapter that is no plain LoRA on unchanged base weights, by its name."""
    kind = str(config.get("peft_type") or "LORA").rpartition(".")[2]
    form = lora_keys.other_form(keys) or (None if kind == "LORA" else kind)
    if config.get("use_dora"):
        form = "DoRA"
    if form:
        raise WeightsError(f"{origin} is a {form} adapter; only plain LoRA is read. {_MERGE_FIRST}")
    start = config.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise WeightsError(
            f"{origin} was trained with init_lora_weights = {start!r}, which changes the base weights too, so it does "
            "not fit the public ones. Save it as a plain LoRA (peft: path_initial_model_for_weight_conversion)."
        )
    if config.get("modules_to_save"):
        raise WeightsError(
            f"{origin} replaces whole layers (modules_to_save = {config['modules_to_save']}); only LoRA is read. "
            f"{_MERGE_FIRST}"
        )
    if config.get("bias") not in (None, "none") or config.get("lora_bias"):
        raise WeightsError(f"{origin} was trained with biases (bias, lora_bias); only LoRA is read. {_MERGE_FIRST}")


def save_adapters(
    path: str | Path, adapters: dict[str, Adapter], trained_for: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Writes the single file that `find_adapters` reads. `trained_for`: `TrainedFor.as_metadata`."""
    from safetensors.torch import save_file

    state, metadata = {}, {"format": "op4ksr-adapter", **trained_for}
    for part, adapter in adapters.items():
        prefix = _SINGLE_FILE_PREFIXES[part]
        state.update({prefix + key: value.contiguous() for key, value in adapter.state.items()})
        metadata[prefix.rstrip(".")] = json.dumps(adapter.config)
    save_file(state, path, metadata=metadata)


def save_adapter_folders(
    folder: str | Path, adapters: dict[str, Adapter], trained_for: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Writes `flux_adapter` and `vae_encoder_adapter` below `folder`, as PEFT saves them, with the metadata
    `trained_for` (`TrainedFor.as_metadata`)."""
    from safetensors.torch import save_file

    for part, adapter in adapters.items():
        place = Path(folder) / ADAPTER_FOLDERS[part]
        place.mkdir(parents=True, exist_ok=True)
        state = {_PEFT_PREFIX + key: value.contiguous() for key, value in adapter.state.items()}
        save_file(state, place / "adapter_model.safetensors", metadata={"format": "pt", **trained_for})
        (place / "adapter_config.json").write_text(json.dumps(adapter.config, indent=2) + "\n")


def merge_adapter(model: Any, adapter: Adapter, scale: float = 1.0) -> Any:
    """Adds a LoRA, times `scale`, into the weights of `model` in place, by peft.

    For the `vae` part give the VAE's encoder. Raises WeightsError where the adapter's modules or
    shapes are not the model's, before anything is changed.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    _check_adapter(model, adapter)
    settings = {k: v for k, v in adapter.config.items() if k in LoraConfig.__dataclass_fields__}
    try:
        config = LoraConfig(**settings | {"inference_mode": True, "init_lora_weights": True})
        inject_adapter_in_model(config, model, state_dict=adapter.state)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise WeightsError(f"{adapter.origin}: peft does not take these settings ({error}).") from error
    outcome: Any = set_peft_model_state_dict(model, adapter.state)
    if outcome.unexpected_keys or any("lora_" in key for key in outcome.missing_keys):
        lost = [*outcome.unexpected_keys, *(key for key in outcome.missing_keys if "lora_" in key)]
        raise WeightsError(f"{adapter.origin}: peft could not place {listing(lost)}.")
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]:
        layer.scale_layer(scale)
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    return model.requires_grad_(False)


def _check_adapter(model: Any, adapter: Adapter) -> None:
    """Every LoRA pair belongs to a module of the model, with its in and out widths."""
    modules = dict(model.named_modules())
    expected: dict[str, tuple[int, ...]] = {}
    for key, value in adapter.state.items():
        name, _, side = key.removesuffix(".weight").rpartition(".")
        weight = getattr(modules.get(name), "weight", None)
        if weight is None or side not in ("lora_A", "lora_B"):
            continue
        rank = value.shape[0 if side == "lora_A" else 1]
        kernel = tuple(weight.shape[2:]) if side == "lora_A" else (1,) * (weight.ndim - 2)
        expected[key] = (rank, weight.shape[1], *kernel) if side == "lora_A" else (weight.shape[0], rank, *kernel)
    found = {key: tuple(value.shape) for key, value in adapter.state.items()}
    check_keys(f"The adapter {adapter.origin} is for another model; it", expected, found)

"""Safetensors files on disk: finding them, reading their headers, strict loading. No diffusers here.

safetensors itself reads one file at a time; what knows of shards and their index (huggingface_hub, diffusers,
transformers) loads into a model of its own, and the nodes need neither.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import SettingError, WeightsError
from ..files import at_home, read_text

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LISTED = 12


@dataclass(frozen=True)
class WeightFiles:
    """One set of weights: which file holds each key, and the folder's config.json if there is one."""

    origin: Path
    files: dict[str, Path]
    config: dict | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, from the headers alone; scales of 8-bit weights are not counted."""
        walk = ((part, key) for part, key in self._walk() if not is_scale(key))
        return {key: tuple(part.get_slice(key).get_shape()) for part, key in walk}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, on the CPU; scaled 8-bit weights as bfloat16, times their scales. Raises WeightsError."""
        return without_scales(self.origin, {key: part.get_tensor(key) for part, key in self._walk()})

    def metadata(self) -> dict[str, str]:
        """The files' own metadata, merged."""
        merged: dict[str, str] = {}
        for path in sorted(set(self.files.values())):
            with _open(path) as part:
                merged |= part.metadata() or {}
        return merged

    def parameter_count(self) -> int:
        return sum(int(torch.Size(shape).numel()) for shape in self.shapes().values())

    def _walk(self) -> Iterable[tuple[safe_open, str]]:
        for path in sorted(set(self.files.values())):
            with _open(path) as part:
                held = set(part.keys())
                wanted = [key for key, file in self.files.items() if file == path]
                missing = sorted(set(wanted) - held)
                if missing:
                    raise WeightsError(f"{path} lacks tensors that its index names: {listing(missing)}.")
                for key in wanted:
                    yield part, key


_SCALES = (".scale_weight", ".weight_scale")
_OTHER_SCALES = (".scale_input", ".input_scale", ".comfy_quant")
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def is_scale(key: str) -> bool:
    """Whether a tensor belongs to a scaled 8-bit weight: its scale, its input's, or a mark of the format."""
    return key.endswith(_SCALES + _OTHER_SCALES) or key.rpartition(".")[2] == "scaled_fp8"


def without_scales(origin: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scaled fp8 (`X.scale_weight` or `X.weight_scale`, one number or one per output) applied, as bfloat16.

    Raises WeightsError where a scale is of another format, or has no weight.
    """
    kept = {key: value for key, value in state.items() if not is_scale(key)}
    for key, scale in state.items():
        if not key.endswith(_SCALES):
            continue
        name = f"{key.rpartition('.')[0]}.weight"
        weight = kept.get(name)
        if weight is None or weight.dtype not in _FLOAT8 or scale.numel() not in (1, len(weight)):
            found = "no weight" if weight is None else f"{weight.dtype} {list(weight.shape)}"
            raise WeightsError(
                f"{origin}: {key} {list(scale.shape)} scales {found}. Of scaled weights only fp8 is read, with one "
                "scale for a layer or for each output: use that, or a bfloat16 file."
            )
        factor = scale.float().reshape(-1, *[1] * (weight.ndim - 1)) if scale.numel() > 1 else scale.float()
        kept[name] = (weight.float() * factor).to(torch.bfloat16)
    return kept


_NF4 = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4",
        ".quant_state.bitsandbytes__fp4")  # fmt: skip
_BLOCKWISE = (".weight_scale_2", ".weight_scale_inv", ".qweight", ".qzeros")
_TEXT_ENCODERS = ("text_encoders.", "cond_stage_model.", "conditioner.")
_LORA = (".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight")


def find_model(path: str | Path, part: str = "model") -> WeightFiles:
    """As `find_weights`, for a transformer or a VAE. Raises WeightsError by the name of a public form that is not
    read."""
    files = find_weights(path)
    keys = list(files.files)
    foreign = {
        "is quantised to 4 bits (nf4 or fp4, bitsandbytes)": _NF4,
        "is quantised block by block (nvfp4, GPTQ, AWQ or the like)": _BLOCKWISE,
        "is a LoRA, which goes to --adapter or Load OP4KSR adapters": _LORA,
    }
    for what, endings in foreign.items():
        if any(key.endswith(endings) for key in keys):
            raise WeightsError(f"{files.origin} {what}. Give a {part} in bfloat16, float16, float32 or fp8.")
    if any(key.startswith(_TEXT_ENCODERS) for key in keys):
        raise WeightsError(
            f"{files.origin} is an all-in-one checkpoint: transformer, VAE and text encoders. Name a file with the "
            f"{part} alone; in ComfyUI, Load Checkpoint reads it: connect its MODEL and VAE."
        )
    return files


def find_weights(path: str | Path) -> WeightFiles:
    """A safetensors file, or a diffusers folder with one or with shards and an index.

    Raises WeightsError where nothing is found, a shard is missing, a file is damaged, or it is a
    pickle (which can run code when it is read).
    """
    path = at_home(path)
    if path.is_file():
        _refuse_pickle(path)
        return WeightFiles(path, dict.fromkeys(_keys(path), path), _config(path.parent, path))
    if not path.is_dir():
        what = "is neither file nor folder" if os.path.lexists(path) else "is not there"
        raise WeightsError(f"{path} {what}. Name a safetensors file, or a folder that holds one.")
    files = _indexed(path) or _single(path)
    return WeightFiles(path, files, _config(path))


def _indexed(folder: Path) -> dict[str, Path] | None:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if not indices:
        return None
    names = _json(indices[0]).get("weight_map", {})
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise WeightsError(
            f"{indices[0]}: weight_map must name a file for each tensor, got {names!r:.60}. Download the index again."
        )
    outside = sorted({name for name in names.values() if Path(name).name != name})
    if outside:
        raise WeightsError(f"{indices[0]} names files outside its folder: {listing(outside)}. They are not read.")
    if not names:
        raise WeightsError(f"{indices[0]} names no tensors. Download it again.")
    missing = sorted({name for name in names.values() if not (folder / name).is_file()})
    if missing:
        raise WeightsError(f"{indices[0]} names shards that are not there: {listing(missing)}. Download them again.")
    return {key: folder / name for key, name in names.items()}


def _single(folder: Path) -> dict[str, Path]:
    found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if len(found) > 1:
        raise WeightsError(f"{folder} holds several safetensors files and no index: {listing(p.name for p in found)}.")
    if not found:
        pickles = sorted(p for p in folder.iterdir() if p.suffix in _PICKLES)
        if pickles:
            _refuse_pickle(pickles[0])
        raise WeightsError(f"{folder} holds no safetensors file.")
    return dict.fromkeys(_keys(found[0]), found[0])


def _refuse_pickle(path: Path) -> None:
    if path.suffix == ".safetensors":
        return
    if path.suffix == ".gguf":
        raise WeightsError(
            f"{path} is a GGUF file. In ComfyUI load it with its GGUF loader and connect the MODEL; here only "
            ".safetensors is read."
        )
    why = "it is a pickle, which can run any code when it is read" if path.suffix in _PICKLES else "its name says so"
    raise WeightsError(f"{path} is not a safetensors file ({why}). Only .safetensors is read; convert it first.")


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}). It is damaged or cut short; download it again."
        ) from error


def _keys(path: Path) -> list[str]:
    with _open(path) as part:
        return list(part.keys())


def _config(folder: Path, file: Path | None = None) -> dict | None:
    """config.json of the folder; beside a single file only if the file has diffusers' own name."""
    path = folder / "config.json"
    if not path.is_file() or (file is not None and not file.name.startswith("diffusion_pytorch_model")):
        return None
    return _json(path)


def _json(path: Path) -> dict:
    return read_json(path)


def save_diffusers(folder: Path, kind: str, config: dict, state: dict[str, Tensor]) -> None:
    """A folder as diffusers writes it: config.json, which names the class `kind`, and the weights. Of a model's config
    what diffusers keeps for itself is left out."""
    folder.mkdir()
    config = {"_class_name": kind} | {key: value for key, value in config.items() if not key.startswith("_")}
    weights = {key: value.contiguous() for key, value in state.items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """The object in a JSON file. Raises WeightsError where it cannot be read or is something else."""
    try:
        content = json.loads(read_text(path))
    except (SettingError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold an object in braces, not {type(content).__name__}.")
    return content


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def listing(names: Iterable[str]) -> str:
    """The first dozen names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + rest


def check_keys(what: str, expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    """Raises WeightsError that lists every missing, unexpected and mis-shaped key."""
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    misshaped = [
        f"{key} is {list(found[key])}, wanted {list(expected[key])}"
        for key in sorted(expected.keys() & found.keys())
        if tuple(expected[key]) != tuple(found[key])
    ]
    problems = [
        f"{len(names)} {label}: {listing(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
        if names
    ]
    if problems:
        raise WeightsError(f"{what} does not fit the model. " + "; ".join(problems) + ".")


def load_strictly(module: Any, state: dict[str, Tensor], what: str, dtype: torch.dtype) -> None:
    """Puts `state` into a module built on the meta device, key for key, as `dtype`."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    check_keys(what, expected, {key: tuple(value.shape) for key, value in state.items()})
    module.load_state_dict({key: value.to(dtype) for key, value in state.items()}, assign=True)

"""Adapters between their three forms, and adapters into weights.

`folder`: OMGSR's two PEFT folders. `file`: this project's single file. `kohya`: one file with the key names that
ComfyUI's stock LoRA loader knows for FLUX (`lora_transformer_...lora_down.weight`, `lora_up.weight`, `alpha`); the
encoder's part is in it too, as `lora_vae_encoder_...`, which stock loaders leave aside.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OutputError, SettingError, WeightsError
from ..files import at_home
from ..model.vae import is_f16
from ..weights.sources import Sources
from .files import find_weights, save_diffusers
from .loading import Adapter, find_adapters, save_adapter_folders, save_adapters
from .unet_adapters import from_pickle, plain_metadata, save_unet_adapter, vae_of_checkpoint
from .unet_sources import SD_VAE

FORMS = ("folder", "file", "kohya")
_KOHYA = {"transformer": "lora_transformer_", "vae": "lora_vae_encoder_"}
_SIDES = {"lora_A": "lora_down", "lora_B": "lora_up"}
_SEGMENTS = (
    "single_transformer_blocks transformer_blocks context_embedder x_embedder time_text_embed timestep_embedder "
    "guidance_embedder text_embedder linear_1 linear_2 linear norm_out proj_out proj_mlp add_q_proj add_k_proj "
    "add_v_proj to_add_out to_out to_q to_k to_v attn ff_context ff net proj norm1_context norm1 norm "
    "down_blocks mid_block resnets attentions downsamplers conv_shortcut conv_in conv_out conv1 conv2 conv"
).split()


def read_adapters(path: str | Path) -> dict[str, Adapter]:
    """The adapters in any of the three forms. Raises WeightsError."""
    path = at_home(path)
    if path.is_file() and any(k.startswith(tuple(_KOHYA.values())) for k in find_weights(path).shapes()):
        return _read_kohya(path)
    return find_adapters(path)


def convert(source: str | Path, to: str | Path, form: str) -> None:
    """Writes the adapters at `source` to `to` in another form, whole or not at all; tensors keep every bit.

    Raises WeightsError where the source is no adapter, SettingError on an unknown form or a file's name that does not
    end in .safetensors, OutputError where `to` is there already or cannot be written.
    """
    if form not in FORMS:
        raise SettingError(f"The form is one of {', '.join(FORMS)}, got {form!r}.")
    to = at_home(to)
    if form != "folder" and to.suffix != ".safetensors":
        raise SettingError(f"The form {form} is one file: give it a name that ends in .safetensors, not {to.name}.")
    adapters = read_adapters(source)
    with _whole(to) as part:
        {"folder": save_adapter_folders, "file": save_adapters, "kohya": _write_kohya}[form](part, adapters)


PICKLES = (".pkl", ".ckpt", ".pt", ".pth", ".bin")


def convert_pickle(source: str | Path, to: str | Path) -> str:
    """OSEDiff's `osediff.pkl` or TVT's `model_TVT.pkl` as an adapter file, TVT's `vae.ckpt` as a VAE folder.

    Whole or not at all; returns what it was, in a line. Raises WeightsError, SettingError on a wrong name, OutputError.
    """
    to = at_home(to)
    if str(source).lower().endswith(".ckpt"):
        if to.suffix:
            raise SettingError(f"VAE-D4 becomes a folder: give -o a name without an ending, not {to.name}.")
        state = vae_of_checkpoint(source)
        with _whole(to) as part:
            save_diffusers(part, "AutoencoderKL", SD_VAE, state)
        return f"VAE-D4, {len(state)} tensors"
    if to.suffix != ".safetensors":
        raise SettingError(f"The adapter is one file: give it a name that ends in .safetensors, not {to.name}.")
    adapter = from_pickle(source)
    with _whole(to) as part:
        save_unet_adapter(part, adapter)
    return plain_metadata(adapter)


@contextmanager
def _whole(to: Path) -> Iterator[Path]:
    """A place beside `to` to write at, moved there once all is written. Raises OutputError; nothing is written over."""
    if to.exists():
        raise OutputError(f"{to} is there already. Give another name with -o.")
    part = to.with_name(f".{to.name}.part")
    try:
        _remove(part)
        part.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.rename(to)
    except OSError as error:
        raise OutputError(f"{to} cannot be written: {error.strerror or error}.") from error
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_kohya(path: Path, adapters: dict[str, Adapter]) -> None:
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {}
    metadata = {"format": "pt"}
    for part, adapter in adapters.items():
        if adapter.config.get("use_rslora") or adapter.config.get("alpha_pattern") or adapter.config.get("use_dora"):
            raise WeightsError(f"{adapter.origin}: rsLoRA, DoRA and alpha patterns have no place in the kohya form.")
        for key, value in adapter.state.items():
            module, _, side = key.removesuffix(".weight").rpartition(".")
            name = _KOHYA[part] + module.replace(".", "_")
            state[f"{name}.{_SIDES[side]}.weight"] = value.contiguous()
            state[f"{name}.alpha"] = torch.tensor(float(adapter.config.get("lora_alpha", 8)))
        metadata[f"op4ksr.{part}"] = json.dumps(adapter.config)
    save_file(state, path, metadata=metadata)


def _read_kohya(path: Path) -> dict[str, Adapter]:
    files = find_weights(path)
    metadata, found = files.metadata(), {}
    states: dict[str, dict[str, Tensor]] = {part: {} for part in _KOHYA}
    alphas: dict[str, set[float]] = {part: set() for part in _KOHYA}
    for key, value in files.tensors().items():
        part = next((p for p, prefix in _KOHYA.items() if key.startswith(prefix)), None)
        name, _, rest = key.partition(".")
        if part is None or rest not in ("alpha", "lora_down.weight", "lora_up.weight"):
            raise WeightsError(f"{path}: {key} is no key of a FLUX LoRA in kohya's form.")
        if rest == "alpha":
            alphas[part].add(float(value))
        else:
            side = "lora_A" if rest.startswith("lora_down") else "lora_B"
            states[part][f"{dotted(name.removeprefix(_KOHYA[part]))}.{side}.weight"] = value
    for part, state in states.items():
        if state:
            config = metadata.get(f"op4ksr.{part}")
            settings = json.loads(config) if config else _settings(path, state, alphas[part])
            found[part] = Adapter(f"{path} ({part})", settings, state)
    return found


def _settings(path: Path, state: dict[str, Tensor], alphas: set[float]) -> dict:
    """PEFT's settings read off the tensors of a file that does not carry them."""
    ranks = {value.shape[0] for key, value in state.items() if key.endswith("lora_A.weight")}
    if len(ranks) != 1 or len(alphas) > 1:
        raise WeightsError(f"{path} mixes ranks {sorted(ranks)} and alphas {sorted(alphas)}; one of each can be read.")
    modules = sorted({key.rsplit(".lora_", 1)[0] for key in state})
    alpha = alphas.pop() if alphas else float(*ranks)
    return {"peft_type": "LORA", "r": ranks.pop(), "lora_alpha": alpha, "target_modules": modules}


def dotted(name: str) -> str:
    """`transformer_blocks_0_attn_to_out_0` -> `transformer_blocks.0.attn.to_out.0`. Raises WeightsError."""
    segments, left = [], name
    while left:
        found = re.match(rf"({'|'.join(_SEGMENTS)}|\d+)(?:_|$)", left)
        if not found:
            raise WeightsError(f"{name} names no module of a FLUX transformer or VAE encoder (stuck at {left}).")
        segments.append(found[1])
        left = left[found.end() :]
    return ".".join(segments)


def merge(sources: Sources, to: str | Path, dtype: torch.dtype | None = None) -> None:
    """Writes the model of `sources`, its adapters merged in, as a diffusers folder with `transformer`, `vae`, `prompt`.

    Merged in float32, written in `dtype`, by default that of the weights merged into. Whole or not at all. Raises
    WeightsError, SettingError where there is no adapter, OutputError where `to` is there already.
    """
    to = at_home(to)
    if not sources.adapters:
        raise SettingError("There is nothing to merge: name at least one --adapter.")
    with _whole(to) as part:
        part.mkdir()
        transformer = sources.load_transformer(torch.float32)
        nn.Module.to(transformer, dtype or _stored(sources.transformer)).save_pretrained(part / "transformer")
        del transformer
        vae = sources.load_vae(torch.float32)
        _save_vae(nn.Module.to(vae, dtype or _stored(sources.vae)), part / "vae")
        shutil.copyfile(sources.prompt, part / "prompt.safetensors")


def _stored(path: Path) -> torch.dtype:
    """The dtype that most of the weights have in the files."""
    kinds = [value.dtype for value in find_weights(path).tensors().values()]
    return max(set(kinds), key=kinds.count)


def _save_vae(vae: Any, folder: Path) -> None:
    save_diffusers(folder, "AutoencoderKL", dict(vae.config) | {"stride": 2 if is_f16(vae) else 1}, vae.state_dict())

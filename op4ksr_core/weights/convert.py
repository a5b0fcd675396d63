"""Adapters between their three forms, and adapters into weights.

`folder`: OMGSR's two PEFT folders. `file`: this project's single file. `kohya`: one file with the key names that
ComfyUI's stock LoRA loader knows for FLUX (`lora_transformer_...lora_down.weight`, `lora_up.weight`, `alpha`); the
encoder's part is in it too, as `lora_vae_encoder_...`, which stock loaders leave aside.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OutputError, SettingError
from ..files import at_home
from ..model.vae import is_f16
from ..weights.sources import Sources
from . import lora_keys
from .adapters import Adapter, find_adapters, save_adapter_folders, save_adapters
from .ce_unet import make_ce_unet
from .files import find_weights, save_diffusers
from .trained_for import FOLDER_FILE, read_trained_for
from .unet_adapters import from_pickle, plain_metadata, save_unet_adapter, vae_of_checkpoint
from .unet_sources import SD_VAE

FORMS = ("folder", "file", "kohya")


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
    adapters, said = find_adapters(source), read_trained_for(source)
    writers: dict[str, Callable[[Path, dict[str, Adapter], dict[str, str]], None]] = {
        "folder": save_adapter_folders,
        "file": save_adapters,
        "kohya": _write_kohya,
    }
    with written_whole(to) as part:
        writers[form](part, adapters, said.as_metadata() if said else {})


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
        with written_whole(to) as part:
            save_diffusers(part, "AutoencoderKL", SD_VAE, state)
        return f"VAE-D4, {len(state)} tensors"
    if to.suffix != ".safetensors":
        raise SettingError(f"The adapter is one file: give it a name that ends in .safetensors, not {to.name}.")
    adapter = from_pickle(source)
    with written_whole(to) as part:
        save_unet_adapter(part, adapter)
    return plain_metadata(adapter)


def write_ce_unet(source: str | Path, to: str | Path) -> None:
    """Writes TVT's CE-UNet, made from a UNet's folder or the model folder it lies in, as a diffusers folder.

    Whole or not at all. Raises WeightsError, OutputError where `to` is there already.
    """
    folder = at_home(source)
    inner = folder / "unet"
    unet = make_ce_unet(inner if inner.is_dir() else folder)
    with written_whole(at_home(to)) as part:
        unet.save_pretrained(part)


@contextmanager
def written_whole(to: Path) -> Iterator[Path]:
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


def _write_kohya(path: Path, adapters: dict[str, Adapter], trained_for: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {}
    metadata = {"format": "pt", **trained_for}
    for part, adapter in adapters.items():
        for module in adapter.modules():
            name = lora_keys.KOHYA[part] + module.replace(".", "_")
            state[f"{name}.lora_down.weight"] = adapter.state[f"{module}.lora_A.weight"].contiguous()
            state[f"{name}.lora_up.weight"] = adapter.state[f"{module}.lora_B.weight"].contiguous()
            state[f"{name}.alpha"] = torch.tensor(adapter.alpha_of(module))
        metadata[f"{lora_keys.SETTINGS}{part}"] = json.dumps(adapter.config)
    save_file(state, path, metadata=metadata)


def merge(sources: Sources, to: str | Path, dtype: torch.dtype | None = None) -> None:
    """Writes the model of `sources`, its adapters merged in, as a diffusers folder with `transformer`, `vae`, `prompt`.

    Merged in float32, written in `dtype`, by default that of the weights merged into. Whole or not at all. Raises
    WeightsError, SettingError where there is no adapter, OutputError where `to` is there already.
    """
    to = at_home(to)
    if not sources.adapters:
        raise SettingError("There is nothing to merge: name at least one --adapter.")
    with written_whole(to) as part:
        part.mkdir()
        transformer = sources.load_transformer(torch.float32)
        nn.Module.to(transformer, dtype or _stored(sources.transformer)).save_pretrained(part / "transformer")
        del transformer
        vae = sources.load_vae(torch.float32)
        _save_vae(nn.Module.to(vae, dtype or _stored(sources.vae)), part / "vae")
        shutil.copyfile(sources.prompt, part / "prompt.safetensors")
        said = [one for one in map(read_trained_for, sources.adapters) if one]
        if said:
            (part / FOLDER_FILE).write_text(said[-1].as_json() + "\n", encoding="utf-8")


def _stored(path: Path) -> torch.dtype:
    """The dtype that most of the weights have in the files."""
    kinds = [value.dtype for value in find_weights(path).tensors().values()]
    return max(set(kinds), key=kinds.count)


def _save_vae(vae: Any, folder: Path) -> None:
    ours = {"stride": 2, "head": vae.decoder.conv_out.mode} if is_f16(vae) else {"stride": 1}
    save_diffusers(folder, "AutoencoderKL", dict(vae.config) | ours, vae.state_dict())

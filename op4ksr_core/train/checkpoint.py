"""Checkpoints that are whole or not there, and the adapters in them as other programs read them.

What is learned is written by torch's distributed checkpoint as safetensors: sharded, each process writes its own part.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import OutputError, WeightsError
from ..files import read_text
from .settings import TrainSettings

STATE, LEARNED, SETTINGS = "state.pt", "learned", "settings.json"

_SECTIONS = ("trainable", "optimizer", "average", "regulariser", "regulariser_optimizer")
"""The parts of a training's state that grow with the model; `LEARNED` holds them, `STATE` all else and their shapes."""

Nested = dict[str, Any]
"""Tensors by name, or such dicts by name."""


def folder_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:06d}"


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = (run / "checkpoints").glob("step-*")
    return sorted(path for path in found if (path / STATE).is_file())


def save_checkpoint(
    run: Path,
    step: int,
    state: Nested,
    settings: TrainSettings,
    write_adapters: Callable[[Path], None],
    keep: int = 3,
    together: bool = False,
    is_main: bool = True,
) -> Path | None:
    """Writes a checkpoint beside its place and moves it there when it is on disk; older ones beyond `keep` go.

    Holds `learned/` and `state.pt` for going on, `settings.json`, and the adapters as `write_adapters` puts them there.
    `together`: called in all processes at once, each with its part of the sharded tensors; the first writes the rest,
    and the others get None. Raises OutputError, and leaves the older checkpoints as they are, where the disk is full.
    """
    from torch.distributed.checkpoint import CheckpointException

    final = folder_of(run, step)
    part = final.with_name(f".{final.name}.part")
    learned = _flat({name: state[name] for name in _SECTIONS if name in state})
    try:
        if is_main:
            shutil.rmtree(part, ignore_errors=True)
        _write_learned(part / LEARNED, learned, together)
        if not is_main:
            return None
        rest = {name: value for name, value in state.items() if name not in _SECTIONS}
        rest["learned"] = {
            name: torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in learned.items()
        }
        torch.save(rest, part / STATE)
        (part / SETTINGS).write_text(json.dumps(settings.as_dict(), indent=2) + "\n")
        write_adapters(part)
        for file in part.rglob("*"):
            if file.is_file():
                _on_disk(file)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _on_disk(final.parent)
    except (OSError, RuntimeError, CheckpointException) as error:  # torch.save reports a full disk as a RuntimeError
        shutil.rmtree(part, ignore_errors=True)
        last = checkpoints(run)
        left = f"The last good checkpoint is {last[-1]}." if last else "There is no earlier checkpoint."
        raise OutputError(f"The checkpoint {final} cannot be written: {_cause(error)}. {left}") from error
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path) -> tuple[Nested, TrainSettings]:
    """(state, its tensors whole and on the CPU; settings) of a checkpoint. Raises WeightsError where it is damaged."""
    from torch.distributed.checkpoint import CheckpointException

    try:
        settings = TrainSettings.from_dict(json.loads(read_text(folder / SETTINGS)))
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        shapes = state.pop("learned", None)
        if shapes is not None:  # before version 0.3 everything was in `STATE`
            state |= _nested(_read_learned(folder / LEARNED, shapes))
        return state, settings
    except (Exception, CheckpointException) as error:  # a damaged file can fail in any way
        raise WeightsError(
            f"The checkpoint {folder} cannot be read ({_cause(error)}). Remove it to resume from the one before."
        ) from error


def remove_leftovers(run: Path) -> None:
    """What a killed run left half-written."""
    for part in (run / "checkpoints").glob(".step-*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _write_learned(folder: Path, tensors: Mapping[str, Tensor], together: bool) -> None:
    """Writes tensors by name: `together`, each process its part of the sharded ones; else this process all of them."""
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _one_process():
        save(dict(tensors), storage_writer=writer, no_dist=not together)


def _read_learned(folder: Path, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors of those shapes and types, in whatever parts they were written. Raises where a part is missing."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    tensors = {name: torch.empty_like(value, device="cpu") for name, value in shapes.items()}
    with _one_process():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return tensors


def _cause(error: BaseException) -> BaseException:
    """What went wrong in the first process that failed; torch's own text is the stack of each."""
    failures = getattr(error, "failures", None)
    return next(iter(failures.values()))[0] if failures else error


@contextmanager
def _one_process() -> Iterator[None]:
    """torch warns where there is no process group; one process needs none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        yield


def _flat(state: Nested, before: str = "") -> dict[str, Tensor]:
    """Tensors of nested dicts by path."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}/")
        else:
            found[before + name] = value.detach()
    return found


def _nested(tensors: Mapping[str, Tensor]) -> Nested:
    """What `_flat` made flat; the sections that were empty too."""
    state: Nested = {name: {} for name in _SECTIONS}
    for path, value in tensors.items():
        *folders, name = path.split("/")
        place = state
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return state


def _on_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

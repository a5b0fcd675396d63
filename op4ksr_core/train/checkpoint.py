"""Checkpoints that are whole or not there, and the adapters in them as other programs read them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import OutputError, WeightsError
from ..files import read_text
from .settings import TrainSettings

STATE, SETTINGS = "state.pt", "settings.json"


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
    state: dict[str, Any],
    settings: TrainSettings,
    write_adapters: Callable[[Path], None],
    keep: int = 3,
) -> Path:
    """Writes a checkpoint beside its place and moves it there when it is on disk; older ones beyond `keep` go.

    Holds `state.pt` for going on, `settings.json`, and the adapters as `write_adapters` puts them there. Raises
    OutputError, and leaves the older checkpoints as they are, where the disk is full.
    """
    final = folder_of(run, step)
    part = final.with_name(f".{final.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        torch.save(state, part / STATE)
        (part / SETTINGS).write_text(json.dumps(settings.as_dict(), indent=2) + "\n")
        write_adapters(part)
        for file in part.rglob("*"):
            if file.is_file():
                _on_disk(file)
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _on_disk(final.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        shutil.rmtree(part, ignore_errors=True)
        last = checkpoints(run)
        left = f"The last good checkpoint is {last[-1]}." if last else "There is no earlier checkpoint."
        raise OutputError(f"The checkpoint {final} cannot be written: {error}. {left}") from error
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], TrainSettings]:
    """(state, settings) of a checkpoint. Raises WeightsError where it is damaged."""
    try:
        settings = TrainSettings.from_dict(json.loads(read_text(folder / SETTINGS)))
        return torch.load(folder / STATE, weights_only=True, map_location="cpu"), settings
    except Exception as error:  # a damaged file can fail in any way
        raise WeightsError(
            f"The checkpoint {folder} cannot be read ({error}). Remove it to resume from the one before."
        ) from error


def remove_leftovers(run: Path) -> None:
    """What a killed run left half-written."""
    for part in (run / "checkpoints").glob(".step-*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _on_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

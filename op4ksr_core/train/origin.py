"""What a run started from, in its `run.json`: it can only be resumed with the same photographs and the same model."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import SettingError
from ..files import json_text, write_text

RUN = "run.json"
_PIECE = 1 << 20
_WEIGHTS = frozenset({".safetensors", ".json"})


def origin_of(pictures: Sequence[Path], sources: Any, small: Sequence[Path] = ()) -> dict[str, str]:
    """Fingerprints by name: of the photographs, with the small pictures of pairs, and of each part of the model.

    Photographs count by name, size and order, so that a folder may be moved. Model files count by name, size, and
    their first and last MiB.
    """
    listed = hashlib.sha256()
    for path in (*pictures, *small):
        listed.update(f"{path.name} {path.stat().st_size}\n".encode("utf-8", "surrogateescape"))
    found = {"photographs": f"{len(pictures)}{' pairs' if small else ''}, {listed.hexdigest()[:16]}"}
    for field in fields(sources):
        places = getattr(sources, field.name)
        places = places if isinstance(places, tuple) else (places,)
        digests = [_model_file(file) for place in places if isinstance(place, Path) for file in _files(place)]
        if digests:
            found[field.name] = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
    return found


def _files(place: Path) -> Iterator[Path]:
    """A file, or a folder's weights and configurations."""
    if place.is_file():
        yield place
        return
    for path in sorted(place.rglob("*")):
        if path.suffix in _WEIGHTS and path.is_file():
            yield path


def _model_file(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(f"{path.name} {size}".encode("utf-8", "surrogateescape"))
    with path.open("rb") as file:
        digest.update(file.read(_PIECE))
        file.seek(max(0, size - _PIECE))
        digest.update(file.read(_PIECE))
    return digest.hexdigest()


def check_origin(run: Path, origin: dict[str, str]) -> None:
    """Raises SettingError where the run in that folder started from something else, and names what."""
    held = _read(run).get("origin", {})
    other = [f"{name}: {held[name]} -> {value}" for name, value in origin.items() if held.get(name, value) != value]
    if other:
        raise SettingError(
            f"{run} holds a training that started from other files ({'; '.join(other)}). Give the ones that it started "
            "from, or another folder with -o."
        )


def note_origin(run: Path, origin: dict[str, str], step: int, changes: Sequence[str]) -> None:
    """Writes what the run started from, and which settings were changed when it was resumed at a step."""
    held = _read(run)
    resumed = [*held.get("changed", [])]
    if changes:
        resumed.append({"step": step, "settings": list(changes)})
    write_text(run / RUN, json_text({"origin": origin, "changed": resumed}))


def _read(run: Path) -> dict[str, Any]:
    try:
        held = json.loads((run / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a run of an earlier version has none
        return {}
    return held if isinstance(held, dict) else {}

"""Benchmarks from pictures that the user has: 4KSR-Syn, RealSquare, RealVary, DIV4K-50 (OP4KSR, arXiv 2605.13457).

The paper's own pictures are not published; these are made as it describes them. What it leaves open is ours: centred
crops (HR is never resized), Lanczos for LR pictures that have no ground truth, and a seed per picture from the file's
name. The manifest holds the hashes of the pixels, which everybody must get, and of the files, which follow Pillow's
compression.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import __version__
from ..errors import ImageError, SettingError
from ..files import check_folders, find_pictures, read_text, write_text
from ..picture.convert import as_picture, as_tensor
from ..picture.read import Picture, read_picture
from ..picture.write import SaveOptions, write_picture
from ..train.degradation.apply import degrade
from ..train.degradation.presets import OMGSR

LONG_SIDE, SCALE, LOW_SIDE = 4096, 4, 1024
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Kind:
    """One benchmark. `pair`: (picture, generator) -> (HR or None, LR); `count`: pictures it must have, 0 for any."""

    name: str
    title: str
    pair: Callable[[Path, Tensor, torch.Generator], tuple[Tensor | None, Tensor]]
    count: int = 0


def _syn(path: Path, rgb: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The middle of the picture, cut to a longest side of 4096 and multiples of 4; LR by Real-ESRGAN's two stages."""
    height, width = rgb.shape[-2:]
    if max(height, width) < LONG_SIDE:
        raise ImageError(f"{path} is {width}x{height} px; 4KSR-Syn wants a longest side of {LONG_SIDE} px or more.")
    tall, wide = (min(side, LONG_SIDE) // SCALE * SCALE for side in (height, width))
    top, left = (height - tall) // 2, (width - wide) // 2
    hr = rgb[..., top : top + tall, left : left + wide]
    return hr, _degraded(hr, generator)


def _div4k(path: Path, rgb: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As it is, sides cut to multiples of 4; LR by Real-ESRGAN's two stages."""
    height, width = (side // SCALE * SCALE for side in rgb.shape[-2:])
    hr = rgb[..., :height, :width]
    return hr, _degraded(hr, generator)


def _square(path: Path, rgb: Tensor, generator: torch.Generator) -> tuple[None, Tensor]:
    """The middle square of the picture at 1024 px, no ground truth."""
    side = min(rgb.shape[-2:])
    if side < LOW_SIDE:
        raise ImageError(f"{path} has a side of {side} px; RealSquare wants {LOW_SIDE} px or more.")
    top, left = ((length - side) // 2 for length in rgb.shape[-2:])
    return None, _reduced(rgb[..., top : top + side, left : left + side], LOW_SIDE, LOW_SIDE)


def _vary(path: Path, rgb: Tensor, generator: torch.Generator) -> tuple[None, Tensor]:
    """Longest side 1024, any shape, no ground truth."""
    height, width = rgb.shape[-2:]
    ratio = LOW_SIDE / max(height, width)
    if ratio > 1:
        raise ImageError(f"{path} is {width}x{height} px; RealVary wants a longest side of {LOW_SIDE} px or more.")
    return None, _reduced(rgb, max(1, round(width * ratio)), max(1, round(height * ratio)))


KINDS = {
    kind.name: kind
    for kind in (
        Kind("syn", "4KSR-Syn", _syn),
        Kind("square", "RealSquare", _square),
        Kind("vary", "RealVary", _vary),
        Kind("div4k", "DIV4K-50", _div4k, 50),
    )
}


def _reduced(rgb: Tensor, width: int, height: int) -> Tensor:
    """By Pillow's Lanczos on 8-bit pixels, which gives the same bytes everywhere."""
    return as_tensor(as_picture(rgb[0]).resize((width, height), Image.Resampling.LANCZOS))[None]


def _degraded(hr: Tensor, generator: torch.Generator) -> Tensor:
    return degrade(hr[0], generator, OMGSR)[None]


def seed_of(name: str, seed: int) -> int:
    """A picture's own seed: it does not depend on what other pictures there are."""
    return random.Random(f"{seed} {name}").randrange(2**62)


def make(
    kind: str, inputs: list[str], out: Path, seed: int, progress: Callable[[int, int], None] | None = None
) -> dict:
    """Writes `lr`, `hr` where there is a ground truth, and the manifest, which is returned.

    Files from an earlier, stopped run with the same seed are not made again, unless their picture is newer. Raises
    SettingError on a wrong number of pictures, two of one name or a folder made otherwise; ImageError where none will
    do, or one of a benchmark that has a fixed number. Others are left out and listed in the manifest, by reason.
    """
    chosen, paths = KINDS[kind], [found.path for found in find_pictures(inputs)]
    names = [path.stem for path in paths]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SettingError(f"Two pictures are called {', '.join(sorted(twice)[:3])}: rename one.")
    if chosen.count and len(paths) != chosen.count:
        raise SettingError(f"{chosen.title} has {chosen.count} pictures; {len(paths)} were given.")
    _same_making(out, kind, seed)
    check_folders([out / "lr" / "x", *([out / "hr" / "x"] if kind in ("syn", "div4k") else [])])
    entries, problems = {}, []
    for n, path in enumerate(paths):
        try:
            entries[path.stem] = _one(chosen, path, out, seed)
        except ImageError as error:
            problems.append(str(error))
        if progress:
            progress(n + 1, len(paths))
    if problems and (not entries or chosen.count):
        raise ImageError(
            f"{len(problems)} of {len(paths)} pictures will not do; no manifest was written. " + " ".join(problems)
        )
    manifest = {
        "benchmark": chosen.title,
        "kind": kind,
        "seed": seed,
        "scale": SCALE,
        "made_by": _makers(),
        "pictures": entries,
    }
    if problems:
        manifest["left_out"] = problems
    write_text(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    (out / ".making").unlink(missing_ok=True)
    return manifest


def _makers() -> dict[str, str]:
    import PIL

    return {"op4ksr": __version__, "torch": torch.__version__, "pillow": PIL.__version__, "numpy": np.__version__}


def _same_making(out: Path, kind: str, seed: int) -> None:
    """A folder is made in one way only."""
    note, text = out / ".making", f"{kind} {seed}"
    if (out / MANIFEST).exists():
        found = read_manifest(out)
        there = f"{found['kind']} {found.get('seed')}"
    else:
        there = note.read_text("utf-8") if note.exists() else text
    if there != text:
        raise SettingError(f"{out} holds a benchmark made as {there!r}, not {text!r}: give another folder with -o.")
    check_folders([note])
    note.write_text(text, "utf-8")


def _one(kind: Kind, path: Path, out: Path, seed: int) -> dict[str, Any]:
    """Makes what is not there yet, and says what is."""
    if not path.is_file():
        raise ImageError(f"There is no picture {path}.")
    source = hashlib.sha256(path.read_bytes()).hexdigest()
    files = {part: out / part / f"{path.stem}.png" for part in ("hr", "lr")}
    if not files["lr"].exists() or files["lr"].stat().st_mtime < path.stat().st_mtime:  # LR is written last
        generator = torch.Generator().manual_seed(seed_of(path.stem, seed))
        hr, lr = kind.pair(path, read_picture(path).rgb, generator)
        for part, x in (("hr", hr), ("lr", lr)):
            if x is not None:
                write_picture(files[part], Picture(x.float()), SaveOptions())
    entry: dict[str, Any] = {"source_sha256": source, "seed": seed_of(path.stem, seed)}
    return entry | {part: _described(file) for part, file in files.items() if file.exists()}


def _described(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        size = f"{image.width}x{image.height}"
    return {"size": size, "pixels_sha256": pixels, "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def differences(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """What in a benchmark's folder is not as a manifest has it, a sentence each."""
    for name, entry in manifest["pictures"].items():
        for part in ("hr", "lr"):
            file = folder / part / f"{name}.png"
            if part not in entry:
                continue
            if not file.exists():
                yield f"{file} is missing."
            elif _described(file)["pixels_sha256"] != entry[part]["pixels_sha256"]:
                yield f"{file} has other pixels."
    for part in ("hr", "lr"):
        for file in sorted((folder / part).glob("*.png")):
            if file.stem not in manifest["pictures"]:
                yield f"{file} is not in the manifest."


def _is_described(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("pixels_sha256"), str)


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest, or that of a folder. Raises SettingError."""
    path = path / MANIFEST if path.is_dir() else path
    try:
        found = json.loads(read_text(path))
        kind, pictures = found["kind"], found["pictures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(f"{path} is no manifest of `op4ksr benchmark make` ({error}).") from error
    for name, entry in pictures.items() if isinstance(pictures, dict) else [("pictures", pictures)]:
        if not isinstance(entry, dict) or not all(_is_described(entry[part]) for part in ("hr", "lr") if part in entry):
            raise SettingError(f"{path}: {name} describes no picture ({entry!r:.60}). Make the benchmark again.")
    if kind not in KINDS or not pictures:
        raise SettingError(f"{path} is of an unknown kind {kind!r}, or lists no pictures.")
    return found

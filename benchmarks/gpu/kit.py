"""The kit: ComfyUI and the wheels that it needs, in parts small enough to be carried, and back again.

Needs Python's standard library alone.
"""

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FOLDERS = "alembic_db api_server app comfy comfy_api comfy_config comfy_execution comfy_extras middleware utils".split()
"""Of a checkout, beside the files at its top: what it runs with. Nodes of paid services stay behind."""
TOP = "*.py alembic.ini pyproject.toml requirements.txt LICENSE".split()
SERVED = ("comfyui-frontend-package", "comfyui-workflow-templates", "comfyui-embedded-docs")
"""Distributions that only a browser looks at; ComfyUI starts without them."""
WITH_TORCH = ("nvidia-", "cuda-", "triton")
"""Beginnings of the distributions that torch's CUDA build brings, by extras that its metadata hides in part."""
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)] + ["manylinux2014_x86_64"]


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: Iterable[str]) -> set[str]:
    """The installed distributions among `names` and all that these require, optional ones left out."""
    found: set[str] = set()
    waiting = [plain(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
        waiting += [plain(re.match(r"[\w.-]+", line)[0]) for line in required if "extra ==" not in line]
    return found


def wanted(imported: dict[str, str], pins: dict[str, str]) -> dict[str, str]:
    """The distributions to carry, of those that ComfyUI imported: neither what comes with torch nor what is served."""
    there = closure(["torch"]) - {"numpy"}
    held = {plain(name): version for name, version in imported.items()}
    kept = {
        name: version
        for name, version in held.items()
        if name not in there and not name.startswith((*SERVED, *WITH_TORCH))
    }
    unused = pins.keys() - kept.keys()
    if unused:
        raise SystemExit(f"--pin {', '.join(sorted(unused))}: ComfyUI imports {', '.join(sorted(kept))} alone.")
    return kept | pins


def download(versions: dict[str, str], python: str, folder: Path) -> None:
    """The wheels of `versions` for that Python on Linux x86-64, by pip."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [part for platform in PLATFORMS for part in ("--platform", platform)]
    subprocess.run([*command, *(f"{name}=={version}" for name, version in versions.items())], check=True)


def sources(comfyui: Path) -> list[Path]:
    """The checkout's files that it runs with."""
    top = [path for pattern in TOP for path in comfyui.glob(pattern)]
    below = [path for name in FOLDERS for path in (comfyui / name).rglob("*")]
    return sorted(path for path in (*top, *below) if path.is_file() and "__pycache__" not in path.parts)


def write_parts(comfyui: Path, wheels: Sequence[Path], to: Path, part_bytes: int, about: dict[str, Any]) -> None:
    """One archive of sources and wheels in `to`, in parts, and the manifest that names them."""
    to.mkdir(parents=True, exist_ok=True)
    for old in (*to.glob("kit.part*"), *to.glob(MANIFEST)):
        old.unlink()
    parts = []
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for path in sources(comfyui):
                archive.add(path, Path("comfyui") / path.relative_to(comfyui))
            for wheel in wheels:
                archive.add(wheel, Path("wheels") / wheel.name)
        file.seek(0)
        while data := file.read(part_bytes):
            name = f"kit.part{len(parts):02}"
            (to / name).write_bytes(data)
            parts.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    (to / MANIFEST).write_text(json.dumps({**about, "parts": parts}, indent=2) + "\n")


def unpack(kit: Path, to: Path) -> dict[str, Any]:
    """Checks and joins the parts: `to` has comfyui/ and packages/ after it. Returns the manifest."""
    if not (kit / MANIFEST).is_file():
        raise SystemExit(f"--kit {kit} has no {MANIFEST}. Make a kit with `python -m benchmarks.gpu.nodes pack`.")
    manifest = json.loads((kit / MANIFEST).read_text())
    with tempfile.TemporaryFile() as file:
        for part in manifest["parts"]:
            file.write(checked(kit, part))
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:gz") as archive:
            archive.extractall(to, filter="data")
    (to / "packages").mkdir()
    for wheel in sorted((to / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as held:
            held.extractall(to / "packages")
    return manifest


def checked(kit: Path, part: dict[str, Any]) -> bytes:
    """A part's bytes; raises SystemExit where it is missing or altered."""
    path = kit / part["name"]
    if not path.is_file():
        raise SystemExit(f"{path} is missing: bring all {MANIFEST} names.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise SystemExit(f"{path} has {len(data)} bytes and another sha256 than {MANIFEST} says: bring it again.")
    return data

"""The real ComfyUI server, on the CPU, with a base directory of its own and this extension linked in.

Tests run on each checkout that COMFYUI_DIR names, or that lies in a usual place, in its own .venv if it has one.
"""

import os
import re
import subprocess
import sys
import time
import urllib.error
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from places import DEMO, ROOT

from benchmarks.gpu.server import Client, free_port, make_base

USUAL_PLACES = ("~/ComfyUI", "~/ComfyUI-0.33")


def comfyui_dirs() -> list[Path]:
    """The checkouts to test on: those that COMFYUI_DIR names, divided by ":", else the usual places that exist."""
    named = os.environ.get("COMFYUI_DIR", "")
    places = named.split(":") if named else USUAL_PLACES
    folders = [Path(place).expanduser() for place in places if place]
    present = [folder for folder in folders if (folder / "main.py").is_file()]
    if named and len(present) < len(folders):
        raise pytest.UsageError(
            f"COMFYUI_DIR={named}: {', '.join(map(str, set(folders) - set(present)))} has no main.py"
        )
    return present


def version_of(folder: Path | None) -> str:
    """What the checkout calls itself, for a test's name."""
    if folder is None:
        return "no-ComfyUI"
    return re.search(r'__version__ = "(.+?)"', (folder / "comfyui_version.py").read_text())[1]


@pytest.fixture(scope="session", params=comfyui_dirs() or [None], ids=version_of)
def comfyui(request):
    """Each checkout in turn, or a skip with a loud line."""
    if request.param is None:
        warnings.warn(f"NO ComfyUI at {' or '.join(USUAL_PLACES)}: the node tests do not run", stacklevel=1)
        pytest.skip(f"NO ComfyUI at {' or '.join(USUAL_PLACES)} (set COMFYUI_DIR; tests/README.md says how)")
    return request.param


def python_of(folder: Path) -> str:
    own = folder / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


class Server(Client):
    """A running ComfyUI: post a graph, wait for it, read what it said."""

    def __init__(self, base: Path, port: int, pid: int, comfyui: Path):
        super().__init__(port)
        self.base, self.pid, self.comfyui = base, pid, comfyui
        self.version = version_of(comfyui)

    def picture(self, entry: dict, node: str) -> Path:
        """The first file that a node wrote, to save or to show it."""
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
        saved = entry["outputs"][node]["images"][0]
        return self.base / saved["type"] / saved["subfolder"] / saved["filename"]


@contextmanager
def running_server(comfyui: Path, base: Path, options: Sequence[str] = (), extension: Path = ROOT):
    """A ComfyUI with an extension, this one if not said otherwise, and an empty base directory."""
    make_base(base, extension)
    port = free_port()
    command = [python_of(comfyui), "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)]
    command += ["--database-url", f"sqlite:///{base}/user/comfyui.db", *options]
    log = (base / "server.log").open("wb")
    process = subprocess.Popen(command, cwd=comfyui, stdout=log, stderr=subprocess.STDOUT)
    running = Server(base, port, process.pid, comfyui)
    try:
        end = time.time() + 360
        while True:
            assert process.poll() is None and time.time() < end, (base / "server.log").read_text()[-3000:]
            try:
                running.get("/system_stats")
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield running
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    with running_server(comfyui, tmp_path_factory.mktemp("comfyui")) as running:
        (running.base / "input" / "astronaut.png").write_bytes(DEMO.read_bytes())
        yield running

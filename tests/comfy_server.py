"""The real ComfyUI server, on the CPU, with a base directory of its own and this extension linked in.

COMFYUI_DIR names the checkout (else ~/ComfyUI); its own .venv runs it where there is one.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import pytest
from places import DEMO, ROOT


def comfyui_dir() -> Path:
    """The checkout, or a skip with a loud line."""
    folder = Path(os.environ.get("COMFYUI_DIR", "~/ComfyUI")).expanduser()
    if not (folder / "main.py").is_file():
        warnings.warn(f"NO ComfyUI at {folder}: set COMFYUI_DIR to run the node tests", stacklevel=1)
        pytest.skip(f"NO ComfyUI at {folder} (set COMFYUI_DIR)")
    return folder


def python_of(folder: Path) -> str:
    own = folder / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


class Server:
    """A running ComfyUI: post a graph, wait for it, read what it said."""

    def __init__(self, base: Path, port: int, pid: int):
        self.base, self.url, self.pid = base, f"http://127.0.0.1:{port}", pid

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, data: dict) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
            return json.loads(text) if text else {}

    def run(self, graph: dict, timeout: float = 240) -> dict:
        """Queues a graph and returns its history entry once it has succeeded, failed or been interrupted."""
        identity = self.post("/prompt", {"prompt": graph})["prompt_id"]
        end = time.time() + timeout
        while time.time() < end:
            entry = self.get(f"/history/{identity}").get(identity)
            if entry:
                return entry
            time.sleep(0.2)
        raise TimeoutError(f"The graph did not end within {timeout} s.")

    def picture(self, entry: dict, node: str) -> Path:
        """The first file that a SaveImage node wrote."""
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
        saved = entry["outputs"][node]["images"][0]
        return self.base / "output" / saved["subfolder"] / saved["filename"]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = comfyui_dir()
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("custom_nodes", "models", "input", "output", "user", "temp"):
        (base / name).mkdir()
    (base / "custom_nodes" / "op4ksr").symlink_to(ROOT)
    (base / "input" / "astronaut.png").write_bytes(DEMO.read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python_of(folder), "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)]
    command += ["--database-url", f"sqlite:///{base}/user/comfyui.db"]
    log = (base / "server.log").open("wb")
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    running = Server(base, port, process.pid)
    try:
        end = time.time() + 180
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

"""A ComfyUI server as a child process, and what is asked of it. Needs Python's standard library alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDERS = ("custom_nodes", "models", "input", "output", "user", "temp")


class Client:
    """Asks a running ComfyUI."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, data: dict[str, Any]) -> Any:
        body = json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
            return json.loads(text) if text else {}

    def run(self, graph: dict[str, Any], timeout: float = 240) -> dict[str, Any]:
        """Queues a graph and returns its history entry once it has succeeded, failed or been interrupted.

        Raises RuntimeError where the server leaves outputs out, and TimeoutError after `timeout` seconds.
        """
        queued = self.post("/prompt", {"prompt": graph})
        if queued["node_errors"]:
            raise RuntimeError(f"The server leaves outputs out: {json.dumps(queued['node_errors'])[:1000]}")
        identity = queued["prompt_id"]
        end = time.time() + timeout
        while time.time() < end:
            entry = self.get(f"/history/{identity}").get(identity)
            if entry:
                return entry
            time.sleep(0.2)
        raise TimeoutError(f"The graph did not end within {timeout} s.")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_base(base: Path, extension: Path) -> None:
    """An empty base directory with the extension linked into it."""
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "op4ksr"
    if not link.is_symlink():
        link.symlink_to(extension)


class Server(Client):
    """A ComfyUI of its own on a base directory; its log is `log`."""

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        options: Sequence[str],
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ):
        """Returns once it answers; raises RuntimeError with the end of the log where it does not within 180 s."""
        port = free_port()
        super().__init__(port)
        self.log = base / "server.log"
        command = [python, "main.py", "--port", str(port), "--base-directory", str(base), *options]
        command += ["--database-url", f"sqlite:///{base}/user/comfyui.db"]
        with self.log.open("wb") as log:
            told = {**os.environ, **(environment or {})}
            self.process = subprocess.Popen(command, cwd=comfyui, env=told, stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def _wait_until_it_answers(self) -> None:
        end = time.time() + 180
        while self.alive() and time.time() < end:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise RuntimeError(f"ComfyUI did not start. The end of its log:\n{self.said()[-3000:]}")

    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self, since: int = 0) -> str:
        """The log from byte `since` on."""
        return self.log.read_bytes()[since:].decode(errors="replace")

    def interrupt(self) -> None:
        """Ends it as Ctrl+C does, so that what is registered to run at its exit runs."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def stop(self) -> None:
        """Asks the process to end; ends it where it has not after 20 s."""
        if self.alive():
            self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

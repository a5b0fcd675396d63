"""The nodes in ComfyUI on a bare machine with a card: a kit is packed here and run there.

    python -m benchmarks.gpu.nodes pack --comfyui CHECKOUT --to KIT [--python 3.12] [--pin torchvision==0.26.0]
    python -m benchmarks.gpu.nodes run --kit KIT [--json FILE] [--only GRAPH] [--device cpu --tiny]

Needs Python 3.12 with torch there, or 3.10.12 and newer, and no network.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import kit
from .graphs import ROOT, Graph, graphs, quickstart
from .server import Server, make_base

MODES = {"default": (), "no dynamic VRAM": ("--disable-dynamic-vram",), "lowvram": ("--lowvram",)}
"""Of ComfyUI on a card; its default is dynamic VRAM. By its own help, --lowvram changes nothing beside that."""
SIDE, TINY_SIDE = 4096, 256
TOLD = re.compile(r"OP4KSR|Ballast|warning|error|memory|loaded (completely|partially)|dynamic|offload", re.IGNORECASE)
"""Lines of the server's log that a row keeps."""
COLOUR = re.compile(r"\x1b\[\d+m")
"""Of the log's words."""
LAST = 3000
"""Characters of the log's end that a row with an error keeps."""

PROBE = """
import atexit, json, sys

def write():
    from importlib.metadata import packages_distributions, version
    owners = packages_distributions()
    roots = {name.partition(".")[0] for name in list(sys.modules)}
    names = {owner for root in roots for owner in owners.get(root, ())}
    open(FILE, "w").write(json.dumps({name: version(name) for name in names}))

if sys.argv[0] != "-m":
    atexit.register(write)
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Packs or runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack", help="make a kit")
    packing.add_argument("--comfyui", type=Path, required=True, help="a checkout with a .venv that it runs in")
    packing.add_argument("--to", type=Path, required=True, help="the kit's folder")
    packing.add_argument("--python", default="3.12", help="of the machine that the kit runs on")
    packing.add_argument("--pin", action="append", default=[], help="NAME==VERSION other than the checkout's own")
    packing.add_argument("--part-mib", type=int, default=28, help="a part's largest size")
    packing.add_argument("--no-wheels", action="store_true", help="sources alone, for a Python that has the packages")
    packing.set_defaults(call=pack)
    running = commands.add_parser("run", help="run a kit")
    running.add_argument("--kit", type=Path, required=True)
    running.add_argument("--json", type=Path, help="written after each row")
    running.add_argument("--only", action="append", help=f"of {', '.join(graphs(SIDE))}")
    running.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    running.add_argument("--tiny", action="store_true", help="few blocks and small pictures, to rehearse")
    running.add_argument("--limit-s", type=float, default=90, help="seconds after which a graph counts as hanging")
    running.set_defaults(call=run)
    arguments = parser.parse_args(argv)
    arguments.call(arguments)


def pack(arguments: argparse.Namespace) -> None:
    """Makes the kit. Its wheels are those of what the checkout imports for the quickstart."""
    comfyui = arguments.comfyui.expanduser().resolve()
    if not (comfyui / "main.py").is_file():
        raise SystemExit(f"--comfyui {comfyui} has no main.py: name a checkout of ComfyUI.")
    own = comfyui / ".venv" / "bin" / "python"
    if not arguments.no_wheels and Path(sys.prefix) != own.parents[1]:
        raise SystemExit(f"Pack with the checkout's own Python, {own}, whose packages the kit takes.")
    about: dict[str, Any] = {"python": arguments.python, "packages": {}}
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / "wheels"
        if not arguments.no_wheels:
            pins = dict(pinned(pin) for pin in arguments.pin)
            about["packages"] = kit.wanted(imported(comfyui, Path(folder)), pins)
            kit.download(about["packages"], arguments.python, wheels)
        kit.write_parts(comfyui, sorted(wheels.glob("*.whl")), arguments.to, arguments.part_mib * 2**20, about)
    parts = json.loads((arguments.to / kit.MANIFEST).read_text())["parts"]
    size = sum(part["bytes"] for part in parts) / 2**20
    print(f"{arguments.to}: {size:.1f} MiB in {len(parts)} parts, {len(about['packages'])} packages")


def pinned(text: str) -> tuple[str, str]:
    name, equal, version = text.partition("==")
    if not (name and equal and version):
        raise SystemExit(f"--pin {text}: write NAME==VERSION.")
    return kit.plain(name), version


def imported(comfyui: Path, folder: Path) -> dict[str, str]:
    """Name -> version of the distributions that a server has imported once the quickstart has run."""
    (folder / "sitecustomize.py").write_text(f"FILE = {str(folder / 'imported.json')!r}\n{PROBE}")
    base = folder / "base"
    make_base(base, ROOT)
    server = Server(comfyui, base, server_options("cpu", base), environment={"PYTHONPATH": str(folder)})
    try:
        entry = server.run(quickstart(server.get("/object_info"), TINY_SIDE))
        if entry["status"]["status_str"] != "success":
            raise SystemExit(f"The quickstart failed in {comfyui}: {server.said()[-LAST:]}")
    finally:
        server.interrupt()
    return json.loads((folder / "imported.json").read_text())


def server_options(device: str, base: Path) -> list[str]:
    """Without a frontend, the nodes of paid services and, on the CPU, a card."""
    empty = base / "frontend"
    empty.mkdir(exist_ok=True)
    options = ["--front-end-root", str(empty), "--disable-api-nodes"]
    return [*options, "--cpu"] if device == "cpu" else options


def run(arguments: argparse.Namespace) -> None:
    """Unpacks the kit, makes models, and queues each graph in each mode. Exits with 1 where a row has an error."""
    side = TINY_SIDE if arguments.tiny else SIDE
    chosen = graphs(side)
    unknown = set(arguments.only or ()) - chosen.keys()
    if unknown:
        raise SystemExit(f"--only {', '.join(unknown)}: there are {', '.join(chosen)}.")
    chosen = {name: make for name, make in chosen.items() if not arguments.only or name in arguments.only}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), arguments)
        for mode, options in MODES.items() if arguments.device == "cuda" else {"cpu": ()}.items():
            session = Session(place, options)
            for name, make in chosen.items():
                place.add(f"{mode}, {name}", session.row(make))
            session.end()
    failed = [name for name, row in place.rows.items() if "error" in row]
    print(f"{len(place.rows)} rows, {len(failed)} with an error")
    if failed:
        raise SystemExit(f"These ended with an error: {'; '.join(failed)}.")


class Place:
    """An unpacked kit with its base directory, and the rows so far."""

    def __init__(self, folder: Path, arguments: argparse.Namespace):
        self.device, self.limit, self.json = arguments.device, arguments.limit_s, arguments.json
        self.rows: dict[str, Any] = {}
        self.comfyui, self.base, packages = folder / "comfyui", folder / "base", folder / "packages"
        started = time.time()
        manifest = kit.unpack(arguments.kit, folder)
        self.environment = {"PYTHONPATH": str(packages)}
        make_base(self.base, ROOT)
        shutil.copy(Path(__file__).with_name("kit_ballast.py"), self.base / "custom_nodes")
        if arguments.only != ["quickstart"]:
            self._make_models(packages, ["--tiny"] if arguments.tiny else [])
        self.about = {"device": self.device, "tiny": arguments.tiny, "python": sys.version.split()[0]}
        self.about |= {"packages": manifest["packages"], "prepared_s": round(time.time() - started, 1)}
        print(json.dumps(self.about), flush=True)

    def _make_models(self, packages: Path, options: list[str]) -> None:
        command = [sys.executable, Path(__file__).with_name("kit_models.py"), self.base / "models", self.base / "input"]
        told = {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{self.comfyui}"}
        made = subprocess.run([*command, self.device, *options], env=told, capture_output=True, text=True)
        if made.returncode:
            raise SystemExit(f"The models could not be made: {made.stderr[-LAST:]}")

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Prints a row and writes the file anew."""
        self.rows[name] = row
        print(name, json.dumps(row), flush=True)
        if self.json:
            beside = self.json.with_name(self.json.name + ".part")
            beside.write_text(json.dumps({"about": self.about, "rows": self.rows}, indent=2) + "\n")
            beside.replace(self.json)


class Session:
    """ComfyUI in one mode, and anew where a graph hung or ended it."""

    def __init__(self, place: Place, options: Sequence[str]):
        self.place, self.options = place, options
        self.server: Server | None = None

    def _running(self) -> Server:
        if self.server is None or not self.server.alive():
            place = self.place
            options = [*server_options(place.device, place.base), *self.options]
            self.server = Server(place.comfyui, place.base, options, environment=place.environment)
        return self.server

    def row(self, make: Any) -> dict[str, Any]:
        """Seconds, peak and what was logged of one graph, or the error and the end of the log."""
        try:
            server = self._running()
        except RuntimeError as error:
            return {"error": str(error)}
        before = server.log.stat().st_size
        row: dict[str, Any] = {}
        try:
            graph = make(server.get("/object_info"))
            self._forget(server)
            with Peak(server) as peak:
                row["s"] = self._seconds(server, graph)
            row["peak_gb"] = round(peak.bytes / 1e9, 2)
        except (RuntimeError, TimeoutError, OSError, KeyError) as error:
            row["error"] = self._reason(server, error)
            row["log"] = COLOUR.sub("", server.said(before))[-LAST:]
            if not isinstance(error, (RuntimeError, KeyError, urllib.error.HTTPError)):
                server.stop()
        lines = COLOUR.sub("", server.said(before)).splitlines()
        row["said"] = [line for line in lines if TOLD.search(line)][:40]
        return row

    def _forget(self, server: Server) -> None:
        """Unloads all models and empties the cache of results, so that each row begins alike."""
        server.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1)  # the server says nothing when it is done; `_seconds` sees whether it was

    def _seconds(self, server: Server, graph: Graph) -> float:
        """Of one run, loading included. Raises RuntimeError where it fails, or where a result came from the cache."""
        started = time.time()
        entry = server.run(graph, self.place.limit)
        took = round(time.time() - started, 2)
        messages = dict(entry["status"]["messages"])
        if entry["status"]["status_str"] != "success":
            kind, told = entry["status"]["messages"][-1]
            raise RuntimeError(f"{kind}: {told.get('exception_message', told)}")
        if messages["execution_cached"]["nodes"]:
            raise RuntimeError(f"Nodes {messages['execution_cached']['nodes']} were not run anew.")
        return took

    def _reason(self, server: Server, error: Exception) -> str:
        if isinstance(error, urllib.error.HTTPError):
            return f"The graph was refused: {error.read().decode()[:LAST]}"
        time.sleep(1)  # a process that has just died may not be known as dead yet
        if not server.alive():
            return f"ComfyUI ended with {server.process.returncode} in this graph."
        return f"{type(error).__name__}: {error}"

    def end(self) -> None:
        if self.server is not None:
            self.server.stop()


class Peak:
    """The largest use of the device's memory meanwhile, in bytes, asked five times a second; on a CPU, of its RAM."""

    def __init__(self, server: Server):
        self.server, self.bytes = server, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _watch(self) -> None:
        while True:
            try:
                device = self.server.get("/system_stats")["devices"][0]
                self.bytes = max(self.bytes, device["vram_total"] - device["vram_free"])
            except OSError:
                pass  # busy, or ended: the graph's own row says so
            if self._over.wait(0.2):
                return


if __name__ == "__main__":
    main()

"""Seconds and memory of the bundled model on this machine: the tables of docs/performance.md and README.

    python benchmarks/performance.py [--peer FILE.param] [--json docs/results/performance.json]

Run it while the machine does nothing else: it takes a quarter of an hour, and half an hour more with `--passes 4096
8192`. Each figure comes from a process of its own. The peer is realesr-general-x4v3 as ncnn's files (see
recipes/embedded/teacher.py), run by the package ncnn. JSON is written after every part, so the run may be cut.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from op4ksr_core.paths import DEMO_PHOTO
from op4ksr_core.settings import PASSES

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import bench_inspect, bench_startup  # noqa: E402
from benchmarks.bench_embedded import run_ours  # noqa: E402
from benchmarks.provenance import write_report  # noqa: E402

FACTOR = 4
COMMANDS = {
    "bfloat16": ["--dtype", "bfloat16"],
    "bfloat16, no lattice check": ["--dtype", "bfloat16", "--no-check"],
    "float32": ["--dtype", "float32"],
}
"""What `op4ksr upscale` is given beside the size, by row."""

PEER = "realesr-general-x4v3 by ncnn"


STOPWATCH = """
import os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(time.perf_counter() - started, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command from a small process: Linux counts the memory of the starting process as the command's own."""


def timed(command: list[str], threads: int) -> tuple[float, float]:
    """Seconds and peak GB of resident memory of one process (Linux).

    Raises RuntimeError with its last words where it fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    stopwatch = [sys.executable, "-S", "-c", STOPWATCH, *command]
    done = subprocess.run(stopwatch, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-300:]}")
    seconds, kilobytes = map(float, done.stdout.split())
    return seconds, kilobytes * 1024 / 1e9


def repeated(command: list[str], threads: int, repeats: int) -> dict:
    """Every run's seconds, and the highest peak."""
    runs = [timed(command, threads) for _ in range(repeats)]
    return {"s": [round(seconds, 1) for seconds, _ in runs], "peak_gb": round(max(peak for _, peak in runs), 2)}


def commands(side: int, threads: int, repeats: int, peer: Path | None) -> dict[str, dict]:
    """One picture of `side` px to four times that, reading and writing included, by row."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder, "small.png"), Path(folder, "large.png")
        Image.open(DEMO_PHOTO).convert("RGB").resize((side, side)).save(small)
        program = [sys.executable, "-m", "op4ksr_core", "upscale", str(small), "-o", str(large), "--overwrite"]
        asked = {name: [*program, "--scale", str(FACTOR), *extra] for name, extra in COMMANDS.items()}
        if peer:
            asked[PEER] = [sys.executable, __file__, "--child-peer", str(peer), str(small), str(large)]
        for name, command in asked.items():
            rows[name] = repeated(command, threads, repeats)
            print(f"{name}: {rows[name]}", flush=True)
    return rows


def peer_upscale(param: Path, small: Path, large: Path) -> None:
    """One picture through the peer."""
    try:
        import ncnn
    except ImportError:
        raise SystemExit("The peer runs through ncnn: pip install ncnn") from None
    network = ncnn.Net()
    network.opt.num_threads = int(os.environ["OMP_NUM_THREADS"])
    for half in ("use_fp16_arithmetic", "use_fp16_storage", "use_fp16_packed"):
        setattr(network.opt, half, False)
    if network.load_param(str(param)) or network.load_model(str(param.with_suffix(".bin"))):
        raise SystemExit(f"ncnn cannot read {param} and the .bin beside it.")
    x = np.asarray(Image.open(small), np.float32).transpose(2, 0, 1) / 255
    extractor = network.create_extractor()
    extractor.input("data", ncnn.Mat(np.ascontiguousarray(x)))
    failed, made = extractor.extract("output")
    if failed:
        raise SystemExit(f"ncnn's network ended with {failed}.")
    y = (np.array(made).clip(0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(y.transpose(1, 2, 0)).save(large)


def passes(sides: list[int], threads: int) -> dict[str, dict]:
    """Seconds of each phase, and the peak, by output px and pass of the VAE, of a random picture in float32."""
    rows = {}
    for side in sides:
        for name in PASSES:
            command = [sys.executable, __file__, "--child-pass", name, str(side // FACTOR)]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            rows[f"{side} {name}"] = {key: round(value, 2) for key, value in row.items()}
            print(f"{side} px, {name}: {rows[f'{side} {name}']}", flush=True)
    return rows


def one_pass(name: str, side: int) -> None:
    torch.manual_seed(0)
    figures = run_ours(torch.rand(1, 3, side, side), name)
    print(json.dumps(figures | {"peak_gb": bench_inspect.peak_gigabytes()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="px of the small picture of the command's rows")
    parser.add_argument("--passes", type=int, nargs="+", default=[4096], help="output px of the VAE's passes")
    parser.add_argument("--inspect", type=int, nargs="+", default=list(bench_inspect.SIDES), help="px")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child-peer", type=Path, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--child-pass", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child_peer:
        return peer_upscale(*arguments.child_peer)
    if arguments.child_pass:
        return one_pass(arguments.child_pass[0], int(arguments.child_pass[1]))
    threads, repeats = arguments.threads, arguments.repeats
    parts: dict[str, Callable[[], dict]] = {
        "commands": lambda: commands(arguments.side, threads, repeats, arguments.peer),
        "start": lambda: bench_startup.measured(repeats=repeats),
        "inspector": lambda: bench_inspect.measured(tuple(arguments.inspect)),
        "passes": lambda: passes(arguments.passes, threads),
    }
    figures: dict = {"threads": threads, "px": FACTOR * arguments.side}
    for name, measure in parts.items():
        figures[name] = measure()
        if arguments.json:
            write_report(arguments.json, figures)
    return None


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

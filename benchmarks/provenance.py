"""Where a benchmark's figures come from: kept beside them in its JSON."""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def provenance(device: torch.device | str = "cpu") -> dict[str, str]:
    """Machine, torch, commit (with "-dirty" where files differ from it), command and date.

    Of the command's paths only the last part is kept: where they lay says nothing to others.
    """
    return {
        "machine": machine(torch.device(device)),
        "torch": torch.__version__,
        "commit": _git("describe", "--always", "--dirty", "--exclude=*"),
        "command": " ".join(["python", _script(), *(_short(word) for word in sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
    }


def write_report(path: Path, figures: dict) -> None:
    """Writes figures with their provenance as JSON."""
    path.write_text(json.dumps(provenance() | figures, indent=1) + "\n")


def machine(device: torch.device) -> str:
    """The card's name, or the processor's."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _script() -> str:
    path = Path(sys.argv[0]).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _short(word: str) -> str:
    return Path(word).name if "/" in word else word


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()

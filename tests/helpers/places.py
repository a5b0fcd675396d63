"""Where things lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "op4ksr_core" / "assets" / "demo" / "astronaut.png"
REALSR = ROOT.parent / "shared" / "data" / "realsr"

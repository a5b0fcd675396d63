"""Where things lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "op4ksr_core" / "assets" / "demo" / "astronaut.png"
SAMPLE = ROOT / "op4ksr_core" / "assets" / "demo" / "colosseum.jpg"
REALSR = ROOT.parent / "shared" / "data" / "realsr"

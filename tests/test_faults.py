"""The sweep of bad inputs, places, options and kills against the real program, where it is laid out."""

import subprocess
import sys

import pytest
from places import ROOT

SWEEP = ROOT.parent / "shared" / "faults" / "sweep.py"


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("group", [1, 2, 3, 5, 8], ids=["pictures", "writing", "options", "words", "kills"])
def test_the_sweep_finds_no_fault(group, tmp_path):
    """Two to eight minutes a group on two cores."""
    if not SWEEP.is_file():
        pytest.skip(f"NO sweep at {SWEEP}")
    command = [sys.executable, SWEEP, "--repo", ROOT, "--python", sys.executable, "--groups", str(group)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]

"""Situations from public bug reports on the real command line, where they are laid out."""

import subprocess
import sys

import pytest
from places import ROOT

CASES = ROOT.parent / "shared" / "cases" / "check.py"


@pytest.mark.slow
@pytest.mark.shared
def test_no_situation_is_a_fault():
    """About two minutes on two cores."""
    if not CASES.is_file():
        pytest.skip(f"NO cases at {CASES}")
    command = [sys.executable, CASES, "--repo", ROOT, "--python", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]

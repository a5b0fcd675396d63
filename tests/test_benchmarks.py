"""The benchmark scripts that are quick enough to be run."""

import re
import subprocess
import sys

import pytest
import torch
from places import DEMO, ROOT


def printed(script, *arguments):
    command = [sys.executable, ROOT / "benchmarks" / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_lean_layers_move_fewer_bytes_as_documented():
    table = dict(re.findall(r"^\| (diffusers|lean) \|.*\| (\d+) \| [\d.]+ \|$", printed("traffic.py"), re.M))
    assert float(table["diffusers"]) > 1.5 * float(table["lean"]) > 100
    told = (ROOT / "docs" / "performance.md").read_text()
    assert f"{table['diffusers']} -> {table['lean']} GB" in told


@pytest.mark.slow
def test_the_embedded_vae_is_far_from_the_end_of_float16():
    out = printed("vae_ranges.py", DEMO, "--side", 128)
    assert len(re.findall(r"^\| (?:en|de)coder\.", out, re.M)) == 10 and "0 of " in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_full_size_benchmark_without_a_gpu_says_so():
    assert "no GPU here" in printed("bench_full.py")

"""The benchmark scripts that are quick enough to be run."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from places import DEMO, ROOT

from benchmarks.performance import timed
from benchmarks.sigma_readings import report


def printed(script, *arguments):
    command = [sys.executable, ROOT / "benchmarks" / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_lean_layers_move_fewer_bytes_as_documented():
    table = dict(re.findall(r"^\| (diffusers|lean) \|.*\| (\d+) \| [\d.]+ \|$", printed("traffic.py"), re.M))
    assert float(table["diffusers"]) > 1.5 * float(table["lean"]) > 100
    told = (ROOT / "docs" / "lab" / "speed.md").read_text()
    assert f"{table['diffusers']} -> {table['lean']} GB" in told


@pytest.mark.slow
def test_the_embedded_vae_is_far_from_the_end_of_float16():
    out = printed("vae_ranges.py", DEMO, "--side", 128)
    assert len(re.findall(r"^\| (?:en|de)coder\.", out, re.M)) == 10 and "0 of " in out


REHEARSAL = """
import sys
from pathlib import Path
from benchmarks.gpu.__main__ import QUESTIONS, main
for question in QUESTIONS:
    main([question, "--device", "cpu", "--tiny", "--json", str(Path(sys.argv[1]) / f"{question}.json")])
"""


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """What every question of `benchmarks.gpu` writes when it is rehearsed here, without torch.compile."""
    folder = tmp_path_factory.mktemp("gpu")
    told = os.environ | {"TORCH_COMPILE_DISABLE": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", REHEARSAL, folder], cwd=ROOT, env=told, check=True, capture_output=True)
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.long
def test_every_gpu_question_is_rehearsed(rehearsed):
    assert set(rehearsed) == {"profile", "variants", "rivals", "embedded", "training"}
    for name, written in rehearsed.items():
        assert written["about"]["torch"] == torch.__version__, name
        failed = {row for row, values in written["rows"].items() if "failed" in values}
        expected = {"norm and SiLU triton", "wide attention flex", "attention cudnn", "attention efficient"}
        expected |= {"attention fa3", "attention fa4", "128 products, triton norms", "128 products, cudnn attention"}
        assert failed <= expected, (name, failed)


def test_the_profile_names_kernels_and_copies(rehearsed):
    for phase in ("encode", "transform", "decode"):
        row = rehearsed["profile"]["rows"][phase]
        assert len(row["longest"]) == 10 and row["ms"] > row["longest"][0]["ms"] > 0
        assert {"copies", "copies ms"} <= row.keys()


def test_alternatives_are_equal_and_the_whole_is_timed_beside_its_plan(rehearsed):
    rows = rehearsed["variants"]["rows"]
    errors = {name: row["error"] for name, row in rows.items() if "error" in row}
    assert len(errors) >= 6 and max(errors.values()) < 1e-5, errors
    for name in ("128 before", "128 best", "128 best, compiled, fp8"):
        row = rows[name]
        assert row["all"]["s"] == pytest.approx(sum(row[p]["s"] for p in ("encode", "transform", "decode", "finish")))
        assert row["decode"]["planned_gb"] > 0 and row["of the ceiling"] > 0
    assert rehearsed["training"]["rows"]["LoRA"]["planned_gb"] > 0


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_benchmark_without_a_gpu_says_so():
    command = [sys.executable, "-m", "benchmarks.gpu", "profile"]
    assert "no GPU here" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_command_is_timed_and_its_peak_is_its_own():
    held = "x = bytearray(200_000_000); x[::4096] = b'1' * len(x[::4096])"
    small, large = (timed([sys.executable, "-c", code], threads=1) for code in ("pass", held))
    assert small[0] > 0 and large[1] - small[1] == pytest.approx(0.2, abs=0.05)


def test_a_timed_command_that_fails_is_named_with_its_last_words():
    with pytest.raises(RuntimeError, match=r"exit\('no such file'\) ended with 1: no such file"):
        timed([sys.executable, "-c", "exit('no such file')"], threads=1)


def test_sigma_readings_are_medians_over_the_pairs():
    rows = {0.3: [(20.0, -3.0, 0.1), (30.0, -1.0, 0.3), (22.0, -2.0, 0.2)]}
    truth = torch.ones(1, 4, 8, 8)
    figures = report(rows, [(truth, truth + 1)])
    assert figures["rows"] == {"0.3": {"psnr": 22.0, "hf_energy_db": -2.0, "hf_correlation": 0.2}}
    assert figures["pairs"] == 1 and figures["closed_form"] == 0.5  # as far from the truth as the truth is from 0

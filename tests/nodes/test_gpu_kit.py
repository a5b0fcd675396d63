"""The kit that runs the nodes on a bare machine: packed, carried, unpacked and run."""

import json
import os
import subprocess

import pytest
from comfy_server import python_of
from places import ROOT


def kit_command(comfyui, *arguments):
    """What `benchmarks.gpu.nodes` returns, with ComfyUI's own Python."""
    command = [python_of(comfyui), "-m", "benchmarks.gpu.nodes", *map(str, arguments)]
    told = os.environ | {"PYTHONPATH": ""}
    return subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def kit(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit")
    packed = kit_command(comfyui, "pack", "--comfyui", comfyui, "--to", folder, "--no-wheels", "--part-mib", "1")
    assert packed.returncode == 0, packed.stderr
    return folder


@pytest.mark.slow
@pytest.mark.comfyui
def test_a_kit_in_parts_runs_the_quickstart(comfyui, kit, tmp_path):
    parts = json.loads((kit / "manifest.json").read_text())["parts"]
    assert len(parts) > 1 and all((kit / part["name"]).stat().st_size == part["bytes"] <= 2**20 for part in parts)
    options = ("--device", "cpu", "--tiny", "--only", "quickstart", "--json", tmp_path / "rows.json")
    run = kit_command(comfyui, "run", "--kit", kit, *options)
    assert run.returncode == 0, run.stderr
    [(name, row)] = json.loads((tmp_path / "rows.json").read_text())["rows"].items()
    assert name == "cpu, quickstart" and row["s"] > 0 and row["peak_gb"] > 0
    assert any("OP4KSR memory plan" in line for line in row["said"])


@pytest.mark.slow
@pytest.mark.comfyui
def test_a_kit_that_was_altered_or_is_not_whole_is_refused(comfyui, kit):
    part = kit / "kit.part00"
    whole = part.read_bytes()
    try:
        for damage in (lambda: part.write_bytes(whole[:-1]), part.unlink):
            damage()
            run = kit_command(comfyui, "run", "--kit", kit, "--device", "cpu", "--tiny")
            assert run.returncode == 1 and str(part) in run.stderr
    finally:
        part.write_bytes(whole)

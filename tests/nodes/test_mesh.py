"""A crosshatch that a model draws into a soft area is in the Upscale node's report and map; without one, nothing is."""

import json
import math
import subprocess

import torch
from comfy_server import python_of
from places import ROOT
from safetensors.torch import load_file, save_file

SIDE = 512


def soft_picture():
    """Smooth shapes, a quarter of SIDE: (1, 3, h, w)."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(4))
    shape = (SIDE // 4, SIDE // 4)
    return torch.nn.functional.interpolate(coarse, size=shape, mode="bicubic") * 0.4 + 0.3


def crosshatch(pitch=5.0, amplitude=6.0):
    """Two diagonal waves in the middle: (SIDE, SIDE) in 1/255."""
    down, across = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    turn = 2 * math.pi / (pitch * math.sqrt(2))
    waves = amplitude * (torch.cos(turn * (down + across)) + torch.cos(turn * (down - across)))
    out = torch.zeros(SIDE, SIDE)
    middle = slice(SIDE // 4, 3 * SIDE // 4)
    out[middle, middle] = waves[middle, middle]
    return out


def test_a_crosshatch_is_reported_and_mapped_and_nothing_else_is(comfyui, tmp_path):
    (tmp_path / "op4ksr").symlink_to(ROOT)
    save_file({"small": soft_picture(), "crosshatch": crosshatch()}, tmp_path / "in.safetensors")
    command = [python_of(comfyui), ROOT / "tests" / "helpers" / "mesh_probe.py", comfyui, tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    reports, maps = json.loads((tmp_path / "out.json").read_text()), load_file(tmp_path / "out.safetensors")
    assert "texture in soft areas" not in reports["as it is"] and float(maps["as it is"].max()) == 0
    assert "texture in soft areas" in reports["crosshatch"] and "pitch about 5 px" in reports["crosshatch"]
    shown = maps["crosshatch"][0]
    assert shown.shape == (SIDE, SIDE)
    assert float(shown[160:350, 160:350].mean()) > 0.3 > 0.02 > float(shown[:100].mean())

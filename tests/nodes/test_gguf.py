"""GGUF: a MODEL from city96's loader in our nodes gives what the same weights give when they are not packed.

GGUF_NODES names a checkout of city96/ComfyUI-GGUF (default ~/ComfyUI-GGUF); ComfyUI's Python needs the package gguf.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from comfy_server import python_of
from places import ROOT

NODES = Path(os.environ.get("GGUF_NODES", "~/ComfyUI-GGUF")).expanduser()


@pytest.mark.slow
def test_a_packed_model_steps_turns_and_wears_an_adapter(comfyui, tmp_path):
    if not (NODES / "loader.py").is_file():
        pytest.skip(f"NO GGUF LOADER at {NODES} (set GGUF_NODES)")
    (tmp_path / "op4ksr").symlink_to(ROOT)
    (tmp_path / "models").mkdir()
    script = ROOT / "tests" / "helpers" / "gguf_probe.py"
    command = [python_of(comfyui), script, comfyui, tmp_path, NODES, tmp_path / "models"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads((tmp_path / "models" / "found.json").read_text())
    assert found["packed"] == "GGUFModelPatcher" and found["stored"] == "Q8_0"
    assert max(found[name] for name in ("bare", "theta", "adapter", "afterwards")) < 2e-3, found
    assert min(found["theta moves"], found["adapter moves"]) > 2e-2, found

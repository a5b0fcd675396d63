"""Our OMGSR-F against OMGSR's own code, where that is laid out: OMGSR names a checkout (default ~/OMGSR)."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from builders import make_transformer, make_vae
from model_files import write_model, write_omgsr_adapters
from places import ROOT
from safetensors.torch import load_file, save_file

from op4ksr_core.geometry import Size
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS, with_window

REPOSITORY = Path(os.environ.get("OMGSR", "~/OMGSR")).expanduser()


@pytest.mark.slow
@pytest.mark.parametrize("size", [Size(256, 256), Size(320, 416)], ids=["one tile", "tiles"])
def test_our_picture_is_that_of_its_own_class(size, tmp_path):
    if not (REPOSITORY / "infer" / "omgsr_f_infer_model.py").is_file():
        warnings.warn(f"NO OMGSR at {REPOSITORY}: tests/README.md says how to lay it out", stacklevel=1)
        pytest.skip(f"NO OMGSR at {REPOSITORY} (set OMGSR)")
    vae = make_vae()
    vae.decoder.conv_out.weight *= 2  # so that pictures are not nearly flat, which AdaIN would blow up
    folder = write_model(tmp_path / "base", make_transformer(), vae, stride=1)
    write_omgsr_adapters(tmp_path / "adapters", make_transformer(), make_vae())
    small = torch.rand(1, 3, size.height // 4, size.width // 4, generator=torch.Generator().manual_seed(4))
    prompt = load_file(folder / "prompt.safetensors")
    words = {"prompt": prompt["prompt_embeds"], "pooled": prompt["pooled_prompt_embeds"]}
    save_file(words | {"picture": resize(small, size)}, tmp_path / "in.safetensors")
    script = ROOT / "tests" / "helpers" / "omgsr_reference.py"
    places = [folder, tmp_path / "adapters", "256", tmp_path / "in.safetensors", tmp_path / "out.safetensors"]
    done = subprocess.run([sys.executable, script, REPOSITORY, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = load_file(tmp_path / "out.safetensors")["picture"]
    settings = with_window(PRESETS["omgsr"], 256)
    upscaler = Upscaler.from_pretrained(folder, adapters=[tmp_path / "adapters"], settings=settings, device="cpu")
    ours = upscaler(small, 4)
    assert float(theirs.std()) > 0.05
    assert float((ours - theirs).abs().max()) < 1e-4

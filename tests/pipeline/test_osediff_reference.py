"""Our OSEDiff against OSEDiff's own code, where that is laid out.

OSEDIFF names a checkout of its repository (default ~/OSEDiff), OSEDIFF_PYTHON a Python with diffusers 0.25.
"""

import os
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from places import ROOT
from safetensors.torch import load_file, save_file
from unet_models import make_sd_vae, make_unet, put_loras, write_sd_folder

from op4ksr_core.geometry import Size
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS
from op4ksr_core.weights.convert import convert_pickle

REPOSITORY = Path(os.environ.get("OSEDIFF", "~/OSEDiff")).expanduser()
PYTHON = Path(os.environ.get("OSEDIFF_PYTHON", REPOSITORY / ".venv" / "bin" / "python"))


@pytest.mark.slow
def test_our_picture_is_that_of_its_own_class(tmp_path):
    if not ((REPOSITORY / "osediff.py").is_file() and PYTHON.exists()):
        warnings.warn(f"NO OSEDiff at {REPOSITORY}: tests/README.md says how to lay it out", stacklevel=1)
        pytest.skip(f"NO OSEDiff at {REPOSITORY} (set OSEDIFF and OSEDIFF_PYTHON)")
    folder = write_sd_folder(tmp_path / "base", make_unet(), make_sd_vae())
    torch.save(put_loras(make_unet(), make_sd_vae()), tmp_path / "osediff.pkl")
    small = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(4))
    large = resize(small, Size(128, 192)) * 2 - 1
    prompt = load_file(folder / "prompt.safetensors")["prompt_embeds"]
    save_file({"picture": large, "prompt": prompt}, tmp_path / "in.safetensors")
    script = ROOT / "tests" / "helpers" / "osediff_reference.py"
    places = [folder, tmp_path / "osediff.pkl", tmp_path / "in.safetensors", tmp_path / "out.safetensors"]
    # Our config.json of the VAE is the short one of a converted file; theirs is diffusers' own.
    make_sd_vae().save_pretrained(folder / "vae")
    scheduler = '{"_class_name": "DDPMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": false, '
    scheduler += '"beta_schedule": "scaled_linear", "steps_offset": 1, "prediction_type": "epsilon"}'
    (folder / "scheduler" / "scheduler_config.json").write_text(scheduler)
    done = subprocess.run([PYTHON, script, REPOSITORY, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = load_file(tmp_path / "out.safetensors")["picture"] * 0.5 + 0.5
    convert_pickle(tmp_path / "osediff.pkl", tmp_path / "osediff.safetensors")
    settings = replace(PRESETS["osediff"], colour="none")
    ours = Upscaler.from_pretrained(
        folder, adapters=[tmp_path / "osediff.safetensors"], settings=settings, device="cpu"
    )
    assert float((ours(small, 4) - theirs).abs().max()) < 1e-3

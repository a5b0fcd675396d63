"""OSEDiff and TVT on ComfyUI's own MODEL and VAE, against the core's host on the same files."""

import json
import subprocess
from dataclasses import replace

import pytest
import torch
from comfy_server import python_of
from places import ROOT
from safetensors.torch import load_file, save_file
from unet_models import make_d4, make_sd_vae, make_tvt_unet, make_unet, put_loras, write_sd_folder

from op4ksr_core.geometry import Size
from op4ksr_core.model.diffusion import picture_tokens
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS
from op4ksr_core.weights.convert import convert_pickle

BARE = replace(PRESETS["osediff"], colour="none")


def features(base, small):
    """DINOv2's tokens of the enlarged picture; the model itself goes into `dino`."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(9)
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=518, patch_size=14)
    model = Dinov2Model(config).eval()
    model.save_pretrained(base / "dino")
    with torch.no_grad():
        return picture_tokens(model, resize(small, Size(4 * small.shape[-2], 4 * small.shape[-1])))


class Code:
    def __reduce__(self):
        return (print, ("run",))


@pytest.fixture(scope="module")
def found(comfyui, tmp_path_factory):
    """(what ComfyUI computed, the folder with the models, the small picture, errors on wrong ones)"""
    base = tmp_path_factory.mktemp("unets")
    (base / "op4ksr").symlink_to(ROOT)
    (base / "loras").mkdir()
    write_sd_folder(base / "sd", make_unet(), make_sd_vae())
    write_sd_folder(base / "v", make_unet(), make_sd_vae(), prediction="v_prediction")
    one = make_unet(attention_head_dim=2, use_linear_projection=False)  # Stable Diffusion 1 counts its heads once
    write_sd_folder(base / "sd1", one, make_sd_vae())
    write_sd_folder(base / "tvt", make_tvt_unet(), make_d4())
    torch.save(put_loras(make_unet(), make_sd_vae()), base / "osediff.pkl")
    convert_pickle(base / "osediff.pkl", base / "loras" / "osediff.safetensors")
    (base / "osediff.pkl").rename(base / "loras" / "osediff.pkl")
    torch.save({"state_dict_unet": Code()}, base / "loras" / "code.pkl")
    small = torch.rand(1, 3, 30, 20, generator=torch.Generator().manual_seed(2))
    save_file({"small": small, "features": features(base, small)}, base / "in.safetensors")
    command = [python_of(comfyui), ROOT / "tests" / "helpers" / "unet_probe.py", comfyui, base]
    result = subprocess.run(command, capture_output=True, text=True, cwd=base)
    assert result.returncode == 0, result.stderr[-3000:]
    return load_file(base / "out.safetensors"), base, small, json.loads((base / "out.json").read_text())


def test_the_pictures_features_condition_both_hosts_alike(found):
    there, base, small, _ = found
    here = Upscaler.from_pretrained(base / "sd", features=base / "dino", settings=BARE)
    assert float((there["f2idiff"] - here(small, 4)).abs().max()) < 1e-4
    assert float((there["f2idiff"] - there["plain"]).abs().mean()) > 1e-4


@pytest.mark.parametrize(
    ("name", "folder", "adapted", "timestep"),
    [
        ("plain", "sd", False, 999),
        ("osediff", "sd", True, 999),
        ("tvt", "tvt", False, 1),
        ("v", "v", False, 500),
        ("sd1", "sd1", False, 999),
    ],
)
def test_both_hosts_give_the_same_picture(found, name, folder, adapted, timestep):
    there, base, small, _ = found
    adapters = [base / "loras" / "osediff.safetensors"] if adapted else []
    here = Upscaler.from_pretrained(base / folder, adapters=adapters, settings=replace(BARE, timestep=timestep))
    assert float((there[name] - here(small, 4)).abs().max()) < 1e-4


def test_the_adapter_is_a_patch_that_undoes_itself(found):
    there, _, _, _ = found
    assert torch.equal(there["plain"], there["plain_again"]) and torch.equal(there["plain"], there["off"])
    assert float((there["plain"] - there["osediff"]).abs().mean()) > 1e-3


def test_a_public_pickle_is_read_as_what_was_converted_of_it(found):
    there, *_, about = found
    assert torch.equal(there["osediff"], there["pickled"])
    assert about["listed"] == ["code.pkl", "osediff.pkl", "osediff.safetensors"]
    assert about["preset"] == "osediff"


def test_a_pickle_with_code_is_refused_in_a_sentence(found):
    *_, errors = found
    assert "could run any code" in errors["code"] and "print" in errors["code"]


def test_errors_name_what_does_not_fit(found):
    *_, errors = found
    assert "predicts v, as stable-diffusion-2-1 (768 px) does" in errors["v with an adapter"]
    assert "is for another base" in errors["another base"] or "is for another model" in errors["another base"]
    assert "it lacks block_out_channels, down_block_types, cross_attention_dim" in errors["no unet"]
    assert "lies outside ComfyUI's loras folders" in errors["outside"]
    assert errors["heavy imports"] == "none"

"""ComfyUI's MODEL and VAE after our surgery, against diffusers on the same weights, in float32."""

import json
import subprocess

import pytest
import torch
from comfy_server import python_of
from heads import write_vaes
from model_files import write_probe_model
from places import ROOT
from safetensors.torch import load_file, save_file

from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PASSES, RopeSettings, UpscaleSettings

SETTINGS = UpscaleSettings(guidance=3.0, fidelity=0.0, rope=RopeSettings(theta=10_000.0))
SCALE, SHIFT = 0.3611, 0.1159


@pytest.fixture(scope="module")
def found(comfyui, tmp_path_factory):
    """(what ComfyUI computed, the core's upscaler on the same files, the inputs, the errors on wrong ones)"""
    base = tmp_path_factory.mktemp("parity")
    folder = write_probe_model(base)
    write_vaes(folder)
    torch.manual_seed(5)
    given = {"x": torch.rand(2, 3, 96, 160), "z": torch.randn(2, 16, 6, 10)} | load_file(folder / "prompt.safetensors")
    save_file(given, base / "in.safetensors")
    command = [python_of(comfyui), ROOT / "tests" / "helpers" / "parity_probe.py", comfyui, base, folder]
    result = subprocess.run(
        [*command, base / "in.safetensors", base / "out.safetensors"], capture_output=True, text=True, cwd=base
    )
    assert result.returncode == 0, result.stderr[-3000:]
    errors = json.loads((base / "out.json").read_text())
    upscaler = Upscaler.from_pretrained(folder, settings=SETTINGS)
    return load_file(base / "out.safetensors"), upscaler, given, errors


def relative(a, b):
    return float((a - b).norm() / b.norm())


def one_step(upscaler, z, theta=10_000.0):
    """The core's one step on a latent in ComfyUI's scale."""
    settings = UpscaleSettings(guidance=3.0, rope=RopeSettings(theta=theta))
    with torch.inference_mode():
        out = upscaler.host.transform((z - SHIFT) * SCALE, settings, lambda *_: None)
    return out / SCALE + SHIFT


def test_the_native_model_steps_as_diffusers(found):
    there, upscaler, given, _ = found
    assert relative(there["before"], one_step(upscaler, given["z"])) < 1e-4


@pytest.mark.parametrize(("name", "theta"), [("low", 30.0), ("high", 3000.0), ("low_again", 30.0)])
def test_clones_with_another_theta_do_not_disturb_each_other(found, name, theta):
    there, upscaler, given, _ = found
    assert relative(there[name], one_step(upscaler, given["z"], theta)) < 1e-4
    assert relative(there["low"], there["high"]) > 1e-3


def test_the_original_model_is_left_as_it_was(found):
    there, _, _, _ = found
    assert not there["original_is_patched"] and torch.equal(there["before"], there["after"])


def test_the_stock_sampler_alone_would_be_wrong(found):
    """Why MidTimestep exists: a stock sampler scales the latent by (1 - sigma)."""
    there, upscaler, given, _ = found
    assert relative(there["stock_sampler"], one_step(upscaler, given["z"])) > 0.1
    with torch.inference_mode():
        scaled = (given["z"] - SHIFT) * SCALE * 0.7 / SCALE + SHIFT
    assert relative(there["stock_sampler"], one_step(upscaler, scaled)) < 1e-4


@pytest.mark.parametrize("name", ["encode", "stock_encode"])
def test_f16_encodes_as_diffusers(found, name):
    from op4ksr_core.model.vae import encode

    there, upscaler, given, _ = found
    with torch.inference_mode(), upscaler.host.vae.use("resident") as vae:
        expected = encode(vae, given["x"]) / SCALE + SHIFT
    assert there[name].shape == expected.shape and relative(there[name], expected) < 1e-4


def test_f16_decodes_as_diffusers(found):
    from op4ksr_core.model.vae import decode

    there, upscaler, given, _ = found
    with torch.inference_mode(), upscaler.host.vae.use("resident") as vae:
        expected = decode(vae, (given["z"] - SHIFT) * SCALE)
    assert there["decode"].shape == expected.shape == (2, 3, 96, 160)
    assert relative(there["decode"], expected) < 1e-4
    assert relative(there["stock_decode"], expected.clamp(0, 1)) < 1e-4


def test_the_head_in_register_is_taken(found):
    """As the core takes it: a folder's VAE, and F16 VAE's auto; centered by the config, or where it cannot be told."""
    assert found[3]["heads"] == {"centered": "centered", "partitioned": "partitioned", "untold": "centered"}
    assert found[3]["reloaded head"] == "partitioned"


@pytest.mark.parametrize("how", PASSES)
def test_every_pass_gives_the_same(found, how):
    there, _, _, _ = found
    for name in ("encode", "decode", "partitioned"):
        assert relative(there[f"{how}_{name}"], there[name]) < 1e-5
    assert torch.equal(there["stock_afterwards"], there["stock_decode"])


def test_the_partitioned_head_is_one_pixel_down_and_right(found):
    there, _, _, _ = found
    assert relative(there["partitioned"][..., 1:, 1:], there["decode"][..., :-1, :-1]) < 1e-4


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rope", "RoPE theta works on FLUX models; this MODEL is BaseModel"),
        ("sampler", "this model reads 8"),
        ("steps of a unet", "leave out theta or scheme (rope), 4 steps"),
        ("adapter", "these adapters are for FLUX transformers; this MODEL is BaseModel"),
        ("latent", "The LATENT is [1, 4, 8, 8]; this MODEL wants (batch, 16, height, width)"),
        ("conditioning", "The CONDITIONING has widths 99 and 20 (sequence, pooled); this MODEL reads 24 and 20"),
        ("f16_of_taesd", "needs a FLUX VAE; this one is TAESD"),
        ("f16_of_f16", "compresses 16 times already"),
        ("factor", "This VAE compresses 16 times; 8 is wanted."),
        ("head", "corner"),
        ("decode_channels", "The LATENT is [1, 4, 8, 8]; this VAE decodes 16 channels"),
        ("enormous", "This does not fit. test: encode 1000000.0 GB"),
        ("enormous", "transform work not known + weights 1.0 GB"),
        ("heavy imports", "none"),
        ("posterior", "posterior_seed samples the VAE's posterior, and this TAESD has none"),
        ("empty", "The IMAGE is empty: [0, 8, 8, 3]"),
    ],
)
def test_wrong_inputs_are_named(found, name, says):
    assert says.lower() in found[3][name].lower()


def test_a_vae_that_looks_like_an_8x_one_is_doubted(found):
    """By a test gradient. The embedded VAE tints it, by 8 % of the range; the colour fix takes that away later."""
    *_, errors = found
    assert "looks like an 8x VAE" in errors["doubt"] and "51.0/255 at 16x and 1.0/255 at 8x" in errors["doubt"]
    assert errors["no doubt"] == "" and float(errors["embedded round trip"]) < 0.1

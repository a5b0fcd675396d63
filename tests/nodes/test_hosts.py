"""Both hosts give the same picture from the same weights: every family, every preset's own settings, and sizes that
divide by nothing."""

import json
import subprocess
from dataclasses import replace
from itertools import product

import pytest
import torch
from builders import make_transformer, make_vae
from comfy_server import python_of
from model_files import write_model
from places import ROOT
from safetensors.torch import load_file, save_file
from unet_models import make_d4, make_sd_vae, make_tvt_unet, make_unet, put_loras, write_dino, write_sd_folder

from op4ksr_core.geometry import Size
from op4ksr_core.model.diffusion import picture_tokens
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS
from op4ksr_core.weights.convert import convert_pickle

FAMILIES = {
    "flux-f16": ("embedded", "op4ksr", "ultraflux"),
    "flux-f8": ("omgsr",),
    "osediff": ("osediff",),
    "tvt": ("tvt",),
    "f2idiff": ("f2idiff",),
}
SIZES = {"20x30": (30, 20), "37x53": (53, 37), "64x64": (64, 64)}
POSTERIORS = (None, 7)
CASES = [
    {"name": f"{preset} {size} {seed}", "family": family, "preset": preset, "size": size, "posterior_seed": seed}
    for family, presets in FAMILIES.items()
    for preset, size, seed in product(presets, SIZES, POSTERIORS)
]


def write_flux(folder, stride):
    """Weights that show a difference: pictures vary by a quarter of the range, and follow latent and transformer."""
    transformer = make_transformer(num_attention_heads=2)
    vae = make_vae(norm_num_groups=32, block_out_channels=[32, 32, 64, 64])
    transformer.proj_out.weight *= 4
    vae.encoder.conv_out.weight *= 4
    vae.decoder.conv_out.weight *= 2
    return write_model(folder, transformer, vae, stride)


def lively(vae):
    """A VAE whose pictures are not nearly flat: AdaIN would blow those up, and their rounding too."""
    vae.encoder.conv_out.weight *= 4
    vae.decoder.conv_out.weight *= 4
    return vae


def write_families(base):
    """A folder for each family, the adapter in `loras`, DINOv2 in `dino`."""
    write_flux(base / "flux-f16", stride=2)
    write_flux(base / "flux-f8", stride=1)
    write_sd_folder(base / "osediff", make_unet(), lively(make_sd_vae()))
    write_sd_folder(base / "f2idiff", make_unet(), lively(make_sd_vae()))
    write_sd_folder(base / "tvt", make_tvt_unet(), lively(make_d4()))
    (base / "loras").mkdir()
    torch.save(put_loras(make_unet(), make_sd_vae()), base / "osediff.pkl")
    convert_pickle(base / "osediff.pkl", base / "loras" / "osediff.safetensors")
    write_dino(base / "dino")


def features_of(base, small):
    """DINOv2's tokens of the enlarged pictures."""
    from transformers import Dinov2Model

    with torch.no_grad():
        model = Dinov2Model.from_pretrained(base / "dino").eval()
        return picture_tokens(model, resize(small, Size(4 * small.shape[-2], 4 * small.shape[-1])))


@pytest.fixture(scope="module")
def pictures():
    """Two unlike pictures of each size: a host must not give one's condition or noise to the other."""
    generator = torch.Generator().manual_seed(2)
    return {name: torch.rand(2, 3, *size, generator=generator) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    base = tmp_path_factory.mktemp("hosts")
    write_families(base)
    return base


@pytest.fixture(scope="module")
def there(comfyui, families, pictures, tmp_path_factory):
    """What ComfyUI's host makes of every case."""
    base = tmp_path_factory.mktemp("comfyui")
    (base / "op4ksr").symlink_to(ROOT)
    for folder in families.iterdir():
        (base / folder.name).symlink_to(folder)
    features = {f"features {name}": features_of(families, small) for name, small in pictures.items()}
    save_file(pictures | features, base / "in.safetensors")
    (base / "cases.json").write_text(json.dumps(CASES))
    command = [python_of(comfyui), ROOT / "tests" / "helpers" / "hosts_probe.py", comfyui, base]
    result = subprocess.run(command, capture_output=True, text=True, cwd=base)
    assert result.returncode == 0, result.stderr[-3000:]
    return load_file(base / "out.safetensors")


@pytest.fixture(scope="module")
def upscalers(families):
    """The core's own host of each family."""
    named = {"osediff": {"adapters": [families / "loras" / "osediff.safetensors"]}}
    named["f2idiff"] = {"features": families / "dino"}
    return {name: Upscaler.from_pretrained(families / name, device="cpu", **named.get(name, {})) for name in FAMILIES}


def settings_of(case):
    return replace(PRESETS[case["preset"]], posterior_seed=case["posterior_seed"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_both_hosts_give_the_same_picture(there, upscalers, pictures, case):
    here = upscalers[case["family"]](pictures[case["size"]], 4, settings=settings_of(case))
    difference = float((there[case["name"]] - here).abs().max())
    print(f"{case['name']}: {difference:.2g}")
    assert difference < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_amplify_a_difference(upscalers, pictures, family):
    """A sampled posterior, and other padding, change the picture far more than the hosts may differ."""
    upscaler, small = upscalers[family], pictures["37x53"]
    bare = replace(PRESETS[FAMILIES[family][-1]], colour="none", fidelity=0.0, posterior_seed=None)
    made = upscaler(small, settings=bare)
    sampled = upscaler(small, settings=replace(bare, posterior_seed=7))
    assert float(made.std()) > 0.1 and float((made - sampled).abs().mean()) > 1e-2
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(upscaler.host.__dict__, "multiple_px", 4 * upscaler.host.multiple_px)
        padded = upscaler(small, settings=bare)
    assert float((made - padded).abs().max()) > 1e-2

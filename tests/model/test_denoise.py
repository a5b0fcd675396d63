import re

import pytest
import torch

from op4ksr_core.errors import ImageError, SettingError
from op4ksr_core.model import denoise as module
from op4ksr_core.model.denoise import Denoiser, denoise


def error(a, b):
    return float((a - b).square().mean())


@pytest.fixture(scope="module")
def clean(request):
    from op4ksr_core.paths import DEMO_PHOTO
    from op4ksr_core.picture.read import read_picture

    return read_picture(DEMO_PHOTO).rgb[:, :, 100:292, 300:556]


def jpeg(x, quality, folder):
    from PIL import Image

    from op4ksr_core.picture.convert import as_tensor

    path = folder / "x.jpg"
    Image.fromarray((x[0] * 255).byte().permute(1, 2, 0).numpy()).save(path, quality=quality)
    return as_tensor(Image.open(path))[None]


@pytest.mark.parametrize("sigma", [5, 15, 25])
def test_noise_is_taken_out(clean, sigma):
    noisy = (clean + sigma / 255 * torch.randn_like(clean)).clamp(0, 1)
    assert error(denoise(noisy, 1.0), clean) < 0.6 * error(noisy, clean)
    half = error(denoise(noisy, 0.5), clean)
    assert error(denoise(noisy, 1.0), clean) < half < error(noisy, clean)


def test_jpeg_traces_are_taken_out(clean, tmp_path):
    small = torch.nn.functional.interpolate(clean, scale_factor=0.5, mode="area")
    coded = jpeg(small, 30, tmp_path)
    assert error(denoise(coded, 1.0), small) < 0.92 * error(coded, small)


def test_a_clean_picture_stays(clean):
    small = torch.nn.functional.interpolate(clean, scale_factor=0.5, mode="area")
    assert float((denoise(small, 1.0) - small).abs().mean()) < 1.5 / 255
    grey = torch.full((1, 3, 40, 40), 0.5)
    assert float((denoise(grey, 1.0) - grey).abs().max()) < 1 / 255


def test_zero_keeps_every_bit(clean):
    assert denoise(clean, 0.0) is clean


def test_strips_give_the_whole(monkeypatch):
    x = torch.rand(2, 3, 101, 67)
    whole = denoise(x, 1.0)
    monkeypatch.setattr(module, "_STRIP", 40)
    assert whole.shape == x.shape and torch.allclose(denoise(x, 1.0), whole, atol=1e-5)


def test_a_new_network_adds_nothing():
    assert not Denoiser()(torch.rand(1, 3, 16, 24)).any()


@pytest.mark.parametrize("amount", [-0.1, 1.5, float("nan")])
def test_amounts_outside_are_named(clean, amount):
    with pytest.raises(SettingError, match=f"Denoise.*{re.escape(str(amount))}"):
        denoise(clean, amount)
    with pytest.raises(ImageError):
        denoise(torch.zeros(1, 3, 0, 4), 1.0)

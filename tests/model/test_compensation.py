"""High-frequency compensation: what it is given, what it adds, and that strips are the whole."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import pad

from op4ksr_core.errors import ImageError, SettingError, WeightsError
from op4ksr_core.geometry import Size
from op4ksr_core.model import compensation
from op4ksr_core.model import rowwise as row_strips
from op4ksr_core.model.compensation import HighFrequencyCompensation, compensate, load_compensation
from op4ksr_core.picture.colour import limit_overshoot, low_band
from op4ksr_core.picture.resample import resize
from op4ksr_core.picture.soft_areas import limit_texture


@pytest.fixture(scope="module")
def module():
    """A network that adds something, as no new one does."""
    torch.manual_seed(0)
    module = HighFrequencyCompensation(width=8, blocks=2)
    torch.nn.init.normal_(module.tail.weight, std=0.02)
    return module.requires_grad_(False)


def pair(photo, height=150, width=201):
    picture = photo[..., :height, :width]
    return picture, resize(picture, Size(height // 3, width // 3)).clamp(0, 1)


def test_a_new_one_adds_nothing(photo):
    picture, lr = pair(photo)
    assert torch.equal(compensate(picture, lr, 1.0, HighFrequencyCompensation()), picture)


@pytest.mark.parametrize("size", [(150, 201), (4, 4), (1, 1), (97, 130)])
def test_the_size_stays_and_strength_scales_the_detail(photo, module, size, monkeypatch):
    for limit in ("limit_overshoot", "limit_texture"):
        monkeypatch.setattr(compensation, limit, lambda picture, *_: picture)
    picture = 0.25 + photo[..., : size[0], : size[1]] / 2
    lr = resize(picture, Size(max(1, size[0] // 4), max(1, size[1] // 4)))
    once, twice = (compensate(picture, lr, strength, module) for strength in (0.5, 1.0))
    assert once.shape == picture.shape
    assert size == (1, 1) or not torch.equal(once, picture)  # one px has a low band and nothing else
    assert torch.allclose(twice - picture, 2 * (once - picture), atol=1e-6)
    assert torch.equal(compensate(picture, lr, 0.0, module), picture)


@pytest.mark.parametrize("elements", [1, 1000, 2**20])
def test_strips_are_the_networks_own_forward(photo, module, elements, monkeypatch):
    """In strips of two rows, of some, and of all of them."""
    monkeypatch.setitem(row_strips._ELEMENTS, "cpu", elements)
    picture, lr = photo[..., :152, :200].repeat(2, 1, 1, 1), torch.rand(2, 3, 38, 50)
    picture[1] = picture[1].flip(-1)
    before, seen = picture.clone(), []
    mirrored = pad(picture, (64,) * 4, mode="reflect"), pad(lr, (16,) * 4, mode="reflect")
    detail = module(*mirrored[::-1])[..., 64:-64, 64:-64]
    whole = (picture + 0.7 * detail).clamp(0, 1)
    for _ in range(2):
        whole = limit_overshoot((whole + low_band(picture - whole)).clamp(0, 1), lr, picture)
    whole = limit_texture(whole, picture)
    found = compensate(picture, lr, 0.7, module, progress=lambda *step: seen.append(step))
    assert torch.allclose(found, whole, atol=1e-6) and not torch.allclose(found, picture, atol=1e-3)
    assert torch.equal(picture, before)
    assert seen == [("compensate", done, 4) for done in (1, 2, 3, 4)]


def test_a_flat_picture_gets_no_frame():
    flat = torch.full((1, 3, 96, 128), 0.8)
    assert float((compensate(flat, flat[..., :24, :32]) - 0.8).abs().max()) < 2 / 255


def test_batches_are_their_pictures_one_by_one(photo, module):
    pictures, lr = photo[..., :64, :128].unfold(3, 64, 64)[0].permute(2, 0, 1, 3), torch.rand(2, 3, 16, 16)
    both = compensate(pictures, lr, 1.0, module)
    for n in range(2):
        assert torch.allclose(both[n : n + 1], compensate(pictures[n : n + 1], lr[n : n + 1], 1.0, module), atol=1e-6)


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_a_strength_outside_is_an_error(photo, strength):
    with pytest.raises(SettingError, match=f"Compensation.*{re.escape(str(strength))}"):
        compensate(photo, photo, strength)


def test_numbers_of_pictures_must_agree(photo):
    with pytest.raises(ImageError, match="2 and 1"):
        compensate(photo, photo.repeat(2, 1, 1, 1))


def test_the_bundled_one_adds_detail_and_leaves_what_lacks_none(photo):
    """A blurred photo comes nearer to the truth; the truth itself hardly moves."""
    truth = photo[..., 100:356, 100:356]
    lr = resize(truth, Size(64, 64)).clamp(0, 1)
    soft = resize(lr, Size(256, 256)).clamp(0, 1)
    better = compensate(soft, lr)
    error = [float((x - truth).pow(2).mean().sqrt()) * 255 for x in (soft, better, compensate(truth, lr))]
    assert error[1] < 0.99 * error[0] and error[2] < 4.5  # 3.97; the network before this one: 1.0


def test_weights_that_are_missing_or_foreign_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        load_compensation(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match=r"foreign\.safetensors.*head\.weight"):
        load_compensation(tmp_path / "foreign.safetensors")


def test_the_low_band_stays(photo):
    """Detail near white is clamped on one side only, and yet the bundled network makes the picture no darker."""
    picture, lr = pair(photo)
    bright = (picture * 0.2 + 0.8).clamp(0, 1)
    made = compensate(bright, lr * 0.2 + 0.8, 2.0)
    assert float((made - bright).mean().abs()) * 255 < 0.3 < float((made - bright).abs().mean()) * 255


def test_bfloat16_weights_change_next_to_nothing(photo):
    picture = resize(photo[..., :128, :128], Size(512, 512)).clamp(0, 1)
    whole, half = load_compensation(), load_compensation().to(torch.bfloat16)
    made, again = (compensate(picture, photo[..., :128, :128], 1.0, module) for module in (whole, half))
    assert again.dtype == torch.float32
    assert 0 < float((made - again).abs().mean()) < 0.2 / 255
    assert float((made - picture).abs().mean()) > 0.3 / 255

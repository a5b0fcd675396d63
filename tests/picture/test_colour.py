import colorsys

import pytest
import torch
from torch.nn import functional as F

from op4ksr_core.errors import SettingError
from op4ksr_core.geometry import Size
from op4ksr_core.picture import colour
from op4ksr_core.picture.colour import (
    adain_fix,
    back_project,
    finish,
    fix_colour,
    limit_overshoot,
    low_band,
    wavelet_fix,
)
from op4ksr_core.picture.resample import crop, down_up_band, pad_reflect, resize


def _whole_size_low_band(x):
    """Five a-trous levels of [1,2,1]^2/16 at the picture's own size."""
    for level in range(5):
        step = 2**level
        kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
        for shape, around in (((1, 1, 1, 3), (step, step, 0, 0)), ((1, 1, 3, 1), (0, 0, step, step))):
            padded = F.pad(x.flatten(0, 1)[:, None], around, mode="replicate")
            x = F.conv2d(padded, kernel.view(shape), dilation=step).view_as(x)
    return x


def test_low_band_is_the_levels_at_the_pictures_own_size(photo):
    """Within a step of 8 bits; beside the border it repeats the mean of 4 px, not one."""
    x, inner = photo[..., :203, :317].contiguous(), (..., slice(32, -32), slice(32, -32))
    found, wanted = low_band(x), _whole_size_low_band(x)
    assert float((found - wanted)[inner].abs().max()) < 1 / 255
    assert float((found - wanted).abs().mean()) < 0.3 / 255
    assert float((x - wanted)[inner].abs().mean()) > 10 / 255


def test_low_band_is_linear_and_keeps_flat_pictures():
    a, b = torch.rand(2, 1, 3, 61, 83)
    torch.testing.assert_close(low_band(a - 2 * b), low_band(a) - 2 * low_band(b), rtol=1e-4, atol=1e-5)
    for size in ((1, 1), (3, 90), (64, 5)):
        torch.testing.assert_close(low_band(torch.full((1, 3, *size), 0.3)), torch.full((1, 3, *size), 0.3))


@pytest.mark.parametrize("size", [(70, 90), (20, 90), (70, 5), (32, 33), (1, 1)])
def test_edges_fade_by_their_weight_and_nothing_else_changes(size):
    image, reference = torch.rand(2, 1, 3, *size).unbind()
    weight = colour._edge_weight(image)
    assert float(weight[0, 0]) == 1
    faded = colour.fade_edges(image, reference, 0.7)
    torch.testing.assert_close(faded, image + 0.7 * weight * (reference - image))


def test_wavelet_keeps_detail_and_takes_colour(photo):
    small = resize(photo, Size(128, 128))
    tinted = small * torch.tensor([1.1, 0.9, 0.8])[None, :, None, None]
    fixed = wavelet_fix(tinted, small)
    torch.testing.assert_close(low_band(fixed), low_band(small), atol=0.02, rtol=0)
    torch.testing.assert_close(fixed - low_band(small), tinted - low_band(tinted))


def test_adain_matches_moments():
    image, reference = torch.rand(2, 3, 40, 50), torch.rand(2, 3, 40, 50) * 0.4 + 0.1
    fixed = adain_fix(image, reference)
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(fixed, (2, 3)), moment(reference, (2, 3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fix", ["wavelet", "adain", "lab"])
def test_no_fix_flips_a_hue(fix, photo):
    """A picture that is its reference with new detail keeps every saturated pixel's hue within 10 degrees."""
    small = resize(photo, Size(128, 128)).clamp(0, 1)
    detail = 0.02 * torch.randn_like(small[:, :1])
    fixed = fix_colour(small + detail, small, fix).clamp(0, 1)
    turned = 0
    for a, b in zip(small[0].flatten(1).T.tolist(), fixed[0].flatten(1).T.tolist(), strict=True):
        (ha, sa, va), (hb, _, _) = colorsys.rgb_to_hsv(*a), colorsys.rgb_to_hsv(*b)
        if sa > 0.5 and va > 0.4:
            turned += min(abs(ha - hb), 1 - abs(ha - hb)) > 10 / 360
    assert turned == 0


def test_overshoot_ends_a_px_of_the_small_picture_from_the_edge():
    lr = torch.full((1, 1, 8, 8), 0.2)
    lr[..., 4:] = 0.8
    ringing = resize(lr, Size(32, 32)) + 0.1 * torch.cos(torch.arange(32) * torch.pi / 2)
    made = limit_overshoot(ringing.clone(), lr)
    assert (
        float((made[..., :12] - 0.2).abs().max()) < 0.3 / 255 and float((made[..., 20:] - 0.8).abs().max()) < 0.3 / 255
    )
    assert torch.equal(made[..., 12:20], ringing[..., 12:20])


@pytest.mark.parametrize("size", [(36, 28), (20, 15), (5, 4)])
def test_texture_within_its_range_stays(size):
    lr = torch.rand(2, 3, 9, 7)
    image = resize(lr, Size(*size))
    assert torch.equal(limit_overshoot(image.clone(), lr), image)


def test_flat_areas_stay_flat_but_for_what_was_given():
    lr, image = torch.full((1, 3, 5, 6), 0.5), torch.rand(1, 3, 17, 23)
    assert float((limit_overshoot(image.clone(), lr) - 0.5).abs().max()) < 0.3 / 255
    assert torch.equal(limit_overshoot(image.clone(), lr, image), image)
    given = image.lerp(torch.full_like(image, 0.5), 0.5)
    torch.testing.assert_close(limit_overshoot(image.clone(), lr, given), given, rtol=0, atol=0.3 / 255)


def test_none_is_the_image_itself():
    image = torch.rand(1, 3, 8, 8)
    assert fix_colour(image, torch.rand(1, 3, 8, 8), "none") is image
    with pytest.raises(SettingError, match="hsv"):
        fix_colour(image, image, "hsv")


@pytest.mark.parametrize(
    ("size", "through"),
    [((40, 50), (160, 200)), ((40, 50), (61, 333)), ((5, 3), (20, 12)), ((1, 1), (4, 4)), ((60, 70), (20, 9))],
)
def test_there_and_back_is_two_resizes(size, through):
    x = torch.rand(2, 3, *size)
    slow = resize(resize(x, Size(*through)), Size(*size))
    torch.testing.assert_close(down_up_band(x, Size(*through)), slow, atol=2e-6, rtol=0)


def test_a_training_may_follow_an_upscale_in_one_process():
    """What the first call keeps for the next ones is no tensor of inference mode."""
    with torch.inference_mode():
        down_up_band(torch.rand(1, 3, 44, 52), Size(11, 13))
    x = torch.rand(1, 3, 44, 52, requires_grad=True)
    down_up_band(x, Size(11, 13)).square().mean().backward()
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("size", [(128, 128), (97, 31), (16, 128), (5, 3)])
def test_full_fidelity_returns_the_lr_picture(size, photo):
    lr = resize(photo, Size(*size)).clamp(0, 1)
    image = resize(photo, Size(4 * size[0], 4 * size[1]))
    image = 0.9 * image + 0.05 * torch.randn_like(image)
    shown = back_project(image, lr, 1.0)
    assert float((resize(image, Size(*size)) - lr).abs().max()) > 10 / 255
    torch.testing.assert_close(resize(shown, Size(*size)), lr, atol=1 / 255, rtol=0)
    torch.testing.assert_close(back_project(image, lr, 0.5), (image + shown) / 2)
    assert back_project(image, lr, 0.0) is image


def test_fidelity_adds_nothing_to_a_picture_that_agrees():
    image = torch.rand(1, 3, 64, 64)
    lr = resize(image, Size(16, 16))
    torch.testing.assert_close(back_project(image, lr, 1.0), image, atol=1e-5, rtol=0)


def test_finish_keeps_the_edge_to_the_reference_as_far_as_fidelity_asks():
    lr, raw = torch.full((1, 3, 32, 32), 0.5), torch.full((1, 3, 160, 160), 0.5)
    raw[..., 0, :] = 0.9  # a broken first row
    target = Size(128, 128)
    assert torch.equal(finish(raw, lr, target, "none", 0.0), raw[..., :128, :128])
    broken = float((back_project(raw[..., :128, :128], lr, 1.0) - 0.5).abs().max())
    assert float((finish(raw, lr, target, "none", 1.0) - 0.5).abs().max()) < 0.001 < 0.1 < broken


def test_finish_leaves_the_inside_to_the_model(photo):
    lr = resize(photo, Size(128, 128)).clamp(0, 1)
    shown, projected = finish(photo, lr, Size(512, 512), "none", 1.0), back_project(photo, lr, 1.0).clamp(0, 1)
    away = (shown - projected)[..., 48:-48, 48:-48].abs().amax(1) > 1e-3
    assert float(away.float().mean()) < 1e-3  # px that ring


@pytest.mark.parametrize("fidelity", [-0.01, 1.01, float("nan")])
def test_bad_fidelity(fidelity):
    with pytest.raises(SettingError, match=str(fidelity)):
        back_project(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 2, 2), fidelity)


@pytest.mark.parametrize(("source", "padded"), [((1, 1), (32, 32)), ((5, 40), (32, 64)), ((33, 31), (64, 32))])
def test_padding_mirrors_and_crop_undoes_it(source, padded):
    x = torch.rand(2, 3, *source)
    larger = pad_reflect(x, Size(*padded))
    assert larger.shape[-2:] == padded
    assert torch.equal(crop(larger, Size(*source)), x)
    if source[0] > 1:
        assert torch.equal(larger[..., source[0], : source[1]], x[..., source[0] - 2, :])


def test_padding_equals_torch_where_torch_can():
    x = torch.rand(1, 3, 20, 25)
    assert torch.equal(pad_reflect(x, Size(32, 32)), torch.nn.functional.pad(x, (0, 7, 0, 12), mode="reflect"))

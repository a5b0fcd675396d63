import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from op4ksr_core.picture.convert import as_tensor
from op4ksr_core.picture.lab import from_lab, lab_fix, shown, to_lab


def hue(lab):
    """Degrees."""
    return torch.rad2deg(torch.atan2(lab[:, 2], lab[:, 1]))


def turned(a, b):
    return ((a - b + 180) % 360 - 180).abs()


def test_against_the_known_primaries():
    """CIE figures of sRGB's red, green, blue and white (D65)."""
    rgb = torch.eye(3).T.reshape(1, 3, 1, 3)
    known = torch.tensor([[53.24, 80.09, 67.20], [87.74, -86.18, 83.18], [32.30, 79.19, -107.86]]).T
    torch.testing.assert_close(to_lab(rgb)[0, :, 0], known, atol=0.05, rtol=0)
    torch.testing.assert_close(
        to_lab(torch.ones(1, 3, 1, 1))[0, :, 0, 0], torch.tensor([100.0, 0, 0]), atol=0.01, rtol=0
    )


def test_there_and_back():
    rgb = torch.rand(2, 3, 20, 30)
    rgb[:, :, :2] *= 0.02  # the linear part near black
    torch.testing.assert_close(from_lab(to_lab(rgb)), rgb, atol=2e-5, rtol=0)


def test_lightness_of_the_picture_under_the_chroma_of_the_reference(photo):
    image, reference = (photo * 0.7 + 0.1), photo.roll(40, 3) * 0.6 + 0.2
    made = to_lab(lab_fix(image, reference))
    assert float((made[:, :1] - to_lab(image)[:, :1]).abs().max()) < 0.5
    kept = (made[:, 1:] - to_lab(reference)[:, 1:]).abs().amax(1) < 0.5
    assert float(kept.float().mean()) > 0.95  # the rest lies outside sRGB at its new lightness


@pytest.mark.parametrize("shift", [-0.25, -0.1, 0.1, 0.25])
def test_hues_of_a_chart_stay(shift):
    """72 saturated hues, made lighter and darker: within 2 degrees, blue among them (clipping turns it 15 and more)."""
    chart = np.stack([np.tile(np.arange(0, 255, 3.54), (8, 1)), np.full((8, 73), 255), np.full((8, 73), 230)], -1)
    reference = as_tensor(Image.fromarray(chart.astype(np.uint8), "HSV"))[None]
    made = to_lab(lab_fix((reference + shift).clamp(0, 1), reference))
    coloured = made[:, 1:].norm(dim=1) > 8
    assert float(coloured.float().mean()) > 0.5
    assert float(turned(hue(made), hue(to_lab(reference)))[coloured].max()) < 2


def test_what_srgb_cannot_show_loses_chroma_not_hue():
    lab = torch.tensor([70.0, 60.0, -110.0]).reshape(1, 3, 1, 1)
    found = to_lab(shown(lab))
    assert abs(float(found[0, 0]) - 70) < 0.3 and float(turned(hue(found), hue(lab))) < 1
    clipped = to_lab(from_lab(lab).clamp(0, 1))
    assert float(turned(hue(clipped), hue(lab))) > 3
    assert 10 < math.hypot(*found[0, 1:, 0, 0].tolist()) < math.hypot(60, 110)


def test_as_another_implementation_has_it(photo):
    """Pillow's little-cms, 8 bits, whose Lab is adapted to D50: chroma and lightness agree, hues to a few degrees."""
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB", 6504), "RGB", "LAB"
    )
    picture = Image.fromarray((photo[0].movedim(0, -1) * 255).byte().numpy())
    theirs = np.asarray(ImageCms.applyTransform(picture, transform)).astype(np.float32)
    lightness = torch.from_numpy(theirs[..., 0]) * 100 / 255
    assert float((to_lab(photo)[0, 0] - lightness).abs().mean()) < 1

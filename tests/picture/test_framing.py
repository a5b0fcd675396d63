import pytest
import torch

from op4ksr_core.errors import ImageError
from op4ksr_core.geometry import Box, Size
from op4ksr_core.picture.alpha import enlarge_alpha
from op4ksr_core.picture.framing import FEATHER, cut, restore_region, set_into
from op4ksr_core.picture.resample import lanczos


def test_cut_and_set_into():
    x = torch.rand(1, 3, 30, 40)
    found = Box(Size(90, 90), "crop").frame(Size(30, 40))
    assert torch.equal(cut(x, found), x[..., 5:35]) and set_into(x, found) is x
    padded = Box(Size(60, 60), "pad").frame(Size(30, 40))
    large = set_into(torch.ones(1, 1, 45, 60), padded)
    assert large.shape[-2:] == (60, 60)
    assert large[0, 0].sum(1).tolist() == [0.0] * 7 + [60.0] * 45 + [0.0] * 8


def test_alpha_has_exact_areas_and_no_ringing():
    alpha = torch.zeros(1, 1, 24, 24)
    alpha[..., 6:18, 6:18] = 1
    large = enlarge_alpha(alpha, Size(96, 96))
    assert float(large.min()) == 0 and float(large.max()) == 1
    assert float(large[..., 28:68, 28:68].min()) == 1  # wholly opaque to within a px of the edge
    assert float(large[..., :20].max()) == 0
    line = large[0, 0, 48]
    assert bool((line[:48].diff() >= -1e-6).all())  # one rise, no overshoot on the way
    assert torch.equal(enlarge_alpha(torch.ones(1, 1, 5, 7), Size(31, 50)), torch.ones(1, 1, 31, 50))
    half = torch.full((1, 1, 5, 7), 0.25)
    torch.testing.assert_close(enlarge_alpha(half, Size(20, 28)), torch.full((1, 1, 20, 28), 0.25))


def test_a_region_keeps_the_enlarged_picture_and_leaves_no_edge():
    lr = torch.rand(1, 3, 40, 40) * 0.2 + 0.4
    enlarged = lanczos(lr, Size(160, 160)).clamp(0, 1)
    made = enlarged + 0.1
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., 10:] = 1
    out = restore_region(made, lr, mask)
    added = (out - enlarged)[0, 0]
    assert float(added[:, :70].abs().max()) == 0 and float((added[:, 130:] - 0.1).abs().max()) < 1e-6
    assert float(added.diff(dim=1).abs().max()) < 0.1 / FEATHER  # no step at the mask's edge
    torch.testing.assert_close(restore_region(made, lr, torch.ones(1, 1, 3, 3)), made)
    torch.testing.assert_close(restore_region(made, lr, torch.zeros(1, 1, 3, 3)), enlarged)
    half = restore_region(made, lr, torch.full((1, 1, 9, 9), 0.5))
    torch.testing.assert_close(half, (made + enlarged) / 2)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (torch.ones(1, 3, 4, 4), r"mask.*\[1, 3, 4, 4\]"),
        (torch.ones(1, 1, 0, 4), r"mask.*\[1, 1, 0, 4\]"),
        (torch.ones(3, 1, 4, 4), "2 pictures.*3 strength masks"),
        (torch.full((1, 1, 4, 4), float("nan")), "got nan"),
        (torch.full((1, 1, 4, 4), 255.0), "got 255"),
    ],
)
def test_a_bad_mask_is_refused(mask, text):
    with pytest.raises(ImageError, match=text):
        restore_region(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 4, 4), mask)

import re

import pytest

from op4ksr_core.errors import SettingError
from op4ksr_core.geometry import (
    Box,
    LongSide,
    Megapixels,
    Scale,
    ShortSide,
    Size,
    padded_side,
    plan_size,
    reflect_indices,
)


def test_default_scale_is_four():
    assert Scale().frame(Size(768, 1024)).target == Size(3072, 4096)


@pytest.mark.parametrize(
    ("source", "long_side", "expected"),
    [
        (Size(512, 512), 4096, Size(4096, 4096)),
        (Size(427, 640), 4096, Size(2733, 4096)),  # 427 * 6.4 = 2732.8
        (Size(64, 1024), 4096, Size(256, 4096)),  # 1:16
        (Size(1024, 64), 4096, Size(4096, 256)),  # 16:1
        (Size(1, 300), 1200, Size(4, 1200)),
        (Size(997, 13), 3989, Size(3989, 52)),  # primes; 13 * 4.001 = 52.013
    ],
)
def test_long_side_is_exact(source, long_side, expected):
    assert LongSide(long_side).frame(source).target == expected


@pytest.mark.parametrize(
    ("scale", "expected"), [(4, Size(4, 4)), (1.5, Size(2, 2)), (0.3, Size(1, 1)), (16, Size(16, 16))]
)
def test_one_pixel_at_any_scale(scale, expected):
    assert Scale(scale).frame(Size(1, 1)).target == expected


@pytest.mark.parametrize("scale", [0, -4, float("nan"), float("inf"), 16.01])
def test_bad_scale_names_the_value(scale):
    with pytest.raises(SettingError, match=re.escape(str(scale))):
        Scale(scale)


@pytest.mark.parametrize("long_side", [0, -1, 161])
def test_bad_long_side(long_side):
    with pytest.raises(SettingError, match=str(long_side)):
        LongSide(long_side).frame(Size(10, 10))


def test_empty_size_is_refused():
    with pytest.raises(SettingError, match="0x5"):
        Size(5, 0)


def test_plan_of_a_4k_square_has_16384_tokens():
    plan = plan_size(Size(1024, 1024))
    assert plan.padded == plan.target == Size(4096, 4096)
    assert plan.tokens == 16_384


@pytest.mark.parametrize("side", [1, 2, 31, 32, 33, 997, 4096])
def test_padding_is_the_least_multiple(side):
    padded = padded_side(side)
    assert padded % 32 == 0 and 0 <= padded - side < 32


@pytest.mark.parametrize(
    ("side", "total", "expected"),
    [
        (3, 8, [0, 1, 2, 1, 0, 1, 2, 1]),
        (2, 5, [0, 1, 0, 1, 0]),
        (1, 4, [0, 0, 0, 0]),
        (5, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_reflection(side, total, expected):
    assert reflect_indices(side, total) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (ShortSide(200), Size(200, 400)),
        (Megapixels(0.08), Size(200, 400)),
        (Box(Size(300, 300)), Size(150, 300)),
        (Box(Size(300, 300), "crop"), Size(300, 300)),
        (Box(Size(300, 300), "pad"), Size(300, 300)),
        (Scale(), Size(400, 800)),
    ],
)
def test_other_ways_to_ask_for_a_size(target, expected):
    assert target.frame(Size(100, 200)).canvas == expected


def test_a_frame_cuts_from_the_middle():
    found = Box(Size(300, 300), "crop").frame(Size(100, 200))
    assert (found.top, found.left, found.used) == (0, 50, Size(100, 100))
    assert Box(Size(300, 300), "pad").frame(Size(100, 200)).target == Size(150, 300)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (ShortSide, 0, "^px.*got 0"),
        (ShortSide, 1700, "short side of 1700 px.*100 px.*1600"),
        (Megapixels, float("nan"), "got nan"),
        (Megapixels, -1.0, "got -1"),
        (Megapixels, 6.0, r"6 .*5\.12"),
        (Box, Size(5000, 5000), "5000x5000 px.*200x100 px"),
    ],
)
def test_a_size_that_cannot_be_is_refused(kind, value, text):
    with pytest.raises(SettingError, match=text):
        kind(value).frame(Size(100, 200))


def test_a_fit_that_there_is_not_is_refused():
    with pytest.raises(SettingError, match="stretch"):
        Box(Size(10, 10), "stretch")

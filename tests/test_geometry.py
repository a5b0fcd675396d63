import pytest

from op4ksr_core.errors import SettingError
from op4ksr_core.geometry import Size, Sizing, frame, padded_side, plan_size, reflect_indices, target_size


def test_default_scale_is_four():
    assert target_size(Size(768, 1024)) == Size(3072, 4096)


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
    assert target_size(source, long_side=long_side) == expected


@pytest.mark.parametrize(
    ("scale", "expected"), [(4, Size(4, 4)), (1.5, Size(2, 2)), (0.3, Size(1, 1)), (16, Size(16, 16))]
)
def test_one_pixel_at_any_scale(scale, expected):
    assert target_size(Size(1, 1), scale) == expected


@pytest.mark.parametrize("scale", [0, -4, float("nan"), float("inf"), 16.01])
def test_bad_scale_names_the_value(scale):
    with pytest.raises(SettingError, match=str(scale)):
        target_size(Size(10, 10), scale)


@pytest.mark.parametrize("long_side", [0, -1, 161])
def test_bad_long_side(long_side):
    with pytest.raises(SettingError, match=str(long_side)):
        target_size(Size(10, 10), long_side=long_side)


def test_scale_and_long_side_exclude_each_other():
    with pytest.raises(SettingError, match="Give one of"):
        target_size(Size(10, 10), 2, 40)


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
    ("wish", "expected"),
    [
        ({"short_side": 200}, Size(200, 400)),
        ({"megapixels": 0.08}, Size(200, 400)),
        ({"exact": Size(300, 300)}, Size(150, 300)),
        ({"exact": Size(300, 300), "fit": "crop"}, Size(300, 300)),
        ({"exact": Size(300, 300), "fit": "pad"}, Size(300, 300)),
        ({}, Size(400, 800)),
    ],
)
def test_other_ways_to_ask_for_a_size(wish, expected):
    assert Sizing(**wish).frame_of(Size(100, 200)).canvas == expected


def test_a_frame_cuts_from_the_middle():
    found = frame(Size(100, 200), Size(300, 300), "crop")
    assert (found.top, found.left, found.used) == (0, 50, Size(100, 100))
    assert frame(Size(100, 200), Size(300, 300), "pad").target == Size(150, 300)


@pytest.mark.parametrize(
    ("wish", "text"),
    [
        ({"short_side": 0}, "at least 1 px, got 0"),
        ({"short_side": 1700}, "at most 1600"),
        ({"megapixels": float("nan")}, "nan"),
        ({"megapixels": -1.0}, "-1"),
        ({"megapixels": 6.0}, "at most 5.12"),
        ({"scale": 2, "short_side": 100}, "scale 2, short side 100"),
        ({"exact": Size(10, 10), "scale": 2}, "not both"),
        ({"exact": Size(10, 10), "fit": "stretch"}, "stretch"),
        ({"exact": Size(5000, 5000)}, "Upscale twice"),
    ],
)
def test_a_size_that_cannot_be_is_refused(wish, text):
    with pytest.raises(SettingError, match=text):
        Sizing(**wish).frame_of(Size(100, 200))

import pytest
from PIL import ImageColor

from op4ksr_core.picture.charts import Axis, Chart, Curve
from op4ksr_core.picture.convert import as_picture, as_tensor


@pytest.mark.parametrize(
    ("axis", "marks"),
    [
        (Axis("x", 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis("x", -30, 40), [-30, -20, -10, 0, 10, 20, 30, 40]),
        (Axis("x", 139, 147), [140, 142, 144, 146]),
        (Axis("x", 0.01, 100, logarithmic=True), [0.01, 0.1, 1, 10, 100]),
        (Axis("x", 0, 28, ticks=[3, 5]), [3, 5]),
    ],
)
def test_ticks_are_round_numbers_inside(axis, marks):
    assert axis.marks() == pytest.approx(marks)


def test_shares_are_logarithmic_and_held_inside():
    axis = Axis("theta", 10, 1000, logarithmic=True)
    assert [axis.share(v) for v in (10, 100, 1000, 1, 1e6)] == pytest.approx([0, 0.5, 1, 0, 1])


def test_a_curve_lies_where_its_numbers_say():
    chart = Chart("t", Axis("x", 0, 1), Axis("y", 0, 1), [Curve([(0, 0), (1, 1)], "#2a6fb0")], {"level": 0.5})
    pixels = as_tensor(chart.draw(640, 400))
    blue = [v / 255 for v in ImageColor.getrgb("#2a6fb0")]
    # The middle of the plotting area: 58..624 px across, 50..356 px down.
    middle, corner = pixels[:, 195:212, 333:349], pixels[:, 300:340, 560:620]
    assert (middle - pixels.new_tensor(blue)[:, None, None]).abs().sum(0).min() < 0.05
    assert (corner == 1).float().mean() > 0.9


def test_pictures_survive_both_ways():
    chart = Chart("t", Axis("x", 0, 1), Axis("y", 0, 1), []).draw(64, 64)
    assert as_picture(as_tensor(chart)).tobytes() == chart.tobytes()

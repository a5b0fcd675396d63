import math

import pytest
import torch

from op4ksr_core.diagnostics.rope_phases import analyse, compare
from op4ksr_core.diagnostics.rope_report import draw_analyses
from op4ksr_core.errors import SettingError
from op4ksr_core.geometry import Size
from op4ksr_core.model.flow import image_ids
from op4ksr_core.model.rope import RotaryEmbedding, effective_pairs
from op4ksr_core.settings import RopeSettings

FULL = Size(4096, 4096)


@pytest.mark.parametrize(
    ("theta", "scheme", "pairs"),
    [
        (10_000, "plain", 8),
        (100, "plain", 15),  # the paper's figure 5a
        (10_000, "resonance-yarn", 6),
        (100, "resonance-yarn", 12),
    ],
)
def test_effective_pairs(theta, scheme, pairs):
    settings = RopeSettings(theta, scheme)
    assert analyse(settings, FULL).effective == (pairs, pairs)
    assert effective_pairs(settings, span=128) == pairs


@pytest.mark.parametrize("settings", [RopeSettings(100), RopeSettings(10_000, "resonance-yarn", mscale=1.0)])
def test_similarity_is_what_attention_sees(settings):
    """Queries and keys of ones, turned by the embedding that the models use, multiplied as attention does."""
    rows, columns = 70, 5
    cos, sin = RotaryEmbedding(settings)(image_ids(2 * rows, 2 * columns))
    ones = torch.ones_like(cos)
    swapped = torch.stack([-ones[:, 1::2], ones[:, ::2]], -1).flatten(1)
    turned = (ones * cos + swapped * sin)[:, 16:]  # without the text axis
    query = turned[rows // 2 * columns + columns // 2]
    slow = torch.nn.functional.cosine_similarity(turned, query[None]).reshape(rows, columns)
    found = analyse(settings, Size(rows * 32, columns * 32)).similarity["float32"]
    torch.testing.assert_close(found, slow, rtol=0, atol=1e-5)


def test_a_lower_base_tells_tokens_apart():
    analyses = [analyse(RopeSettings(theta), FULL) for theta in (10, 100, 1000, 10_000)]
    means, areas = [one.mean for one in analyses], [one.area() for one in analyses]
    assert means == sorted(means) and areas == sorted(areas) and areas[0] < areas[-1]
    assert all(float(one.similarity["float32"][64, 64]) == pytest.approx(1, abs=1e-6) for one in analyses)


def test_bfloat16_makes_slow_pairs_stand_still():
    """At theta 10,000 the slowest pairs step by less than bfloat16 can hold; at 100 none does."""
    assert analyse(RopeSettings(10_000), FULL).standing() == (8, 8)
    assert analyse(RopeSettings(100), FULL).standing() == (0, 0)
    assert analyse(RopeSettings(10_000), FULL).standing("float32") == (0, 0)
    steps = analyse(RopeSettings(10_000), FULL).steps[1]
    assert math.radians(float(steps[20])) < 2**-9 < math.radians(float(steps[18]))


def test_sides_and_axes_are_their_own():
    one = analyse(RopeSettings(10_000), Size(1024, 4096 + 1), axes=(8, 12, 12))
    assert one.tokens == (32, 129) and one.steps.shape == (2, 6)
    with pytest.raises(SettingError, match=r"axes.*\(8, 12, 20\)"):
        analyse(RopeSettings(100), FULL, axes=(8, 12, 20))
    numbers = analyse(RopeSettings(10_000, "yarn"), Size(1024, 4096)).as_dict()
    assert numbers["effective_pairs_h"] == 8 > numbers["effective_pairs_w"]


def test_one_token_and_refusals():
    one = analyse(RopeSettings(100), Size(1, 1))
    assert one.tokens == (1, 1) and one.area() == 1 and one.standing() == (0, 0)
    with pytest.raises(SettingError, match="token.*got 0"):
        analyse(RopeSettings(100), FULL, token_px=0)
    with pytest.raises(SettingError, match="65536x65536 px.*2048x2048.*1024"):
        analyse(RopeSettings(100), Size(65536, 65536))


def test_sentences_name_best_and_worst():
    lines = compare([analyse(RopeSettings(theta), FULL) for theta in (100, 10_000)])
    assert "15 of 28 pairs down and 15 across" in lines[0] and "8 pairs down and 8 across stand still" in lines[1]
    assert lines[2].startswith("Theta 100 tells neighbouring tokens apart best, theta 10000 least.")
    assert len(compare([analyse(RopeSettings(100), FULL)])) == 1


@pytest.mark.parametrize(("size", "count"), [(FULL, 1), (Size(512, 4096), 6), (Size(4096, 512), 2)])
def test_the_picture_holds_every_map(size, count):
    drawn = draw_analyses([analyse(RopeSettings(10 ** (1 + n / 2)), size) for n in range(count)])
    assert drawn.shape[0] == 3 and drawn.shape[2] == 1080 and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    red = ((drawn - drawn.new_tensor([192, 40, 45])[:, None, None] / 255).abs().sum(0) < 0.02)[470:]
    assert int(red.any(0).sum()) >= count  # each map's middle

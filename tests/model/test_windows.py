import math

import pytest
import torch

from op4ksr_core.model.windows import in_windows, starts
from op4ksr_core.settings import WINDOW_WEIGHTS


def test_windows_cover_the_latent_each_half_over_the_next():
    assert starts(64, 64) == [0] and starts(40, 64) == [0]
    assert starts(128, 64) == [0, 32, 64]
    assert starts(150, 64) == [0, 32, 64, 86]


@pytest.mark.parametrize("weights", WINDOW_WEIGHTS)
def test_what_looks_at_each_px_alone_is_not_changed(weights):
    z = torch.randn(2, 4, 50, 70)
    made = in_windows(z, 16, lambda part: 2 * part + 1, overlap=4, weights=weights)
    torch.testing.assert_close(made, 2 * z + 1)


def test_gaussian_weights_are_of_a_hundredth_of_the_squared_side():
    """Two windows of 96 px that share 32, as OSEDiff's: the first says 0, the second 1."""
    numbers = iter((0.0, 1.0))
    work = lambda part: torch.full_like(part, next(numbers))  # noqa: E731
    made = in_windows(torch.zeros(1, 1, 96, 160), 96, work, 32, "gaussian")[0, 0, 40]
    bell = [math.exp(-(((i - 47.5) / 96) ** 2) / 0.02) for i in range(96)]
    assert float(made[63]) == 0 and float(made[96]) == 1
    for i in (64, 72, 79, 80, 95):
        assert float(made[i]) == pytest.approx(bell[i - 64] / (bell[i] + bell[i - 64]), abs=1e-5)


def test_the_work_sees_windows_and_a_small_latent_whole():
    seen = []
    in_windows(torch.zeros(1, 4, 32, 16), 16, lambda part: seen.append(tuple(part.shape[-2:])) or part)
    assert seen == [(16, 16)] * 3
    seen.clear()
    in_windows(torch.zeros(1, 4, 12, 16), 16, lambda part: seen.append(tuple(part.shape[-2:])) or part)
    assert seen == [(12, 16)]


def test_windows_that_disagree_meet_without_a_seam():
    """Each window draws its own number: the result goes from one to the next in small steps."""
    numbers = iter(range(100))
    made = in_windows(torch.zeros(1, 1, 32, 160), 32, lambda part: torch.full_like(part, float(next(numbers))))
    assert float(made.diff(dim=-1).abs().max()) < 0.2

import torch

from op4ksr_core.model.windows import in_windows, starts


def test_windows_cover_the_latent_each_half_over_the_next():
    assert starts(64, 64) == [0] and starts(40, 64) == [0]
    assert starts(128, 64) == [0, 32, 64]
    assert starts(150, 64) == [0, 32, 64, 86]


def test_what_looks_at_each_px_alone_is_not_changed():
    z = torch.randn(2, 4, 50, 70)
    torch.testing.assert_close(in_windows(z, 16, lambda part: 2 * part + 1), 2 * z + 1)


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

"""The meter of what windows do to a picture."""

import pytest
import torch

from benchmarks.consistency import NEAR, borders, consistency


def test_borders_are_where_windows_begin_and_end():
    assert borders(512, 256, 16) == [128, 256, 384]
    assert borders(256, 256, 16) == []
    assert borders(400, 256, 16) == [128, 144, 256, 384]  # the last window lies at the end


def test_a_step_at_a_border_is_a_jump_there_and_nowhere_else():
    whole = torch.full((3, 64, 64), 0.5)
    windowed = whole.clone()
    windowed[..., 32:] += 10 / 255
    found = consistency(whole, windowed, [], [32])
    assert found.jump_across == pytest.approx(10, rel=1e-4) and found.jump_elsewhere == pytest.approx(0, abs=1e-4)


def test_what_differs_beside_a_border_alone_is_found_there():
    whole, generator = torch.full((3, 96, 96), 0.5), torch.Generator().manual_seed(0)
    windowed = whole.clone()
    windowed[:, 48 - NEAR : 48 + NEAR] += 4 / 255 * torch.randn(3, 2 * NEAR, 96, generator=generator)
    found = consistency(whole, windowed, [48], [])
    assert found.beside == pytest.approx(4, rel=0.1) and found.elsewhere == 0

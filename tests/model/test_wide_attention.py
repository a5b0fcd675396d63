"""Attention with one wide head: every way gives the plain formula's result, and none holds all scores."""

import pytest
import torch
from builders import make_vae
from torch.nn import functional as F

from op4ksr_core.model import vae as v
from op4ksr_core.model import wide_attention as w


def plain(q, k, value):
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ value


@pytest.mark.parametrize("way", ["call", "products"])
@pytest.mark.parametrize("max_scores", [1, 64 * 64, 10 * 64, 2**26])
def test_ways_in_chunks_are_equal(way, max_scores):
    q, k, value = (torch.randn(2, 2, 64, 16) for _ in range(3))
    torch.testing.assert_close(w.WAYS[way](q, k, value, max_scores), plain(q, k, value), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["call", "products"])
def test_a_head_of_512_in_bfloat16_is_off_by_its_rounding(way):
    q, k, value = (torch.randn(1, 1, 900, 512) for _ in range(3))
    exact = plain(q, k, value)
    half = w.WAYS[way](*(x.bfloat16() for x in (q, k, value)), 2**16).float()
    assert (half - exact).abs().max() < 0.02 * exact.abs().max()
    assert (half - exact).abs().mean() < 0.01 * exact.abs().mean()


def test_only_heads_that_no_fused_kernel_takes_go_another_way(monkeypatch):
    monkeypatch.setitem(w.WAY, "cpu", "products")
    calls = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(w.F, "scaled_dot_product_attention", lambda *parts: calls.append(1) or real(*parts))
    for channels, called in ((256, 1), (512, 1)):
        q = torch.randn(1, 1, 20, channels)
        torch.testing.assert_close(w.wide_attention(q, q, q), plain(q, q, q), atol=1e-5, rtol=1e-5)
        assert len(calls) == called


@pytest.mark.parametrize("way", ["call", "products"])
def test_gradients_are_the_plain_formula_s(way):
    q, k, value = (torch.randn(1, 1, 30, 8, requires_grad=True) for _ in range(3))
    expected = torch.autograd.grad(plain(q, k, value).square().sum(), (q, k, value))
    found = torch.autograd.grad(w.WAYS[way](q, k, value, 100).square().sum(), (q, k, value))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_no_score_matrix_in_the_mid_attention(monkeypatch):
    """However the backend works, no call sees more scores than the limit."""
    seen, real = [], F.scaled_dot_product_attention

    def spy(q, k, value):
        seen.append(q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2])
        return real(q, k, value)

    monkeypatch.setattr(w.F, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(v, "wide_attention", lambda q, k, value: w.wide_attention(q, k, value, 1000))
    v.encode(v.make_lean(make_vae()), torch.rand(1, 3, 128, 128))
    assert len(seen) > 1 and max(seen) <= 1000

"""Attention kernels: each against the slow one, and what cannot run says so."""

import pytest
import torch
from torch.nn import functional as F

from op4ksr_core.errors import SettingError
from op4ksr_core.model import attention
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import Execution


def scores_by_hand(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v


@pytest.mark.parametrize("name", ["auto", "flash", "math"])
def test_kernels_agree(name):
    q, k, v = torch.randn(3, 1, 2, 70, 32)
    with attention.attention_kernel(name):
        found = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found, scores_by_hand(q, k, v), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["cudnn", "efficient"])
def test_a_kernel_that_cannot_run_here_is_an_error_and_no_other_takes_its_place(name):
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(SettingError, match=f"'{name}'"), attention.attention_kernel(name):
        F.scaled_dot_product_attention(q, q, q)
    assert F.scaled_dot_product_attention(q, q, q).shape == q.shape


@pytest.mark.parametrize("name", ["fa3", "fa4"])
def test_an_add_on_that_is_not_installed_is_an_error(name):
    with pytest.raises(SettingError, match=f"'{name}'.*flash_attn"), attention.attention_kernel(name):
        raise AssertionError("not reached")


def test_training_takes_any_kernel_but_cudnns():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    q, k, v = torch.randn(3, 1, 2, 70, 32)
    with attention.trainable_kernels():
        assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()
        found = F.scaled_dot_product_attention(q, k, v)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
    torch.testing.assert_close(found, scores_by_hand(q, k, v), rtol=1e-5, atol=1e-5)


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="something else"), attention.attention_kernel("math"):
        raise RuntimeError("something else")


@pytest.mark.parametrize("make", [lambda name: Execution(attention=name), attention.attention_kernel])
def test_an_unknown_one_is_an_error(make):
    with pytest.raises(SettingError, match="'fastest'"):
        made = make("fastest")
        with made:
            pass


def test_the_picture_is_the_same_by_flash_and_by_math(photo):
    lr = photo[..., 128:176, 128:176]
    pictures = [Upscaler.from_embedded(device="cpu", execution=Execution(attention=n))(lr) for n in ("flash", "math")]
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-5)
    with pytest.raises(SettingError, match="'cudnn'"):
        Upscaler.from_embedded(device="cpu", execution=Execution(attention="cudnn"))(lr)

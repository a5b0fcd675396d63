"""A FLUX transformer in lean layers against the same in diffusers' own, which are the slow twins."""

import copy
import shutil

import pytest
import torch
from builders import make_transformer
from torch import nn
from torch.nn import functional as F

from op4ksr_core.model import transformer as lean
from op4ksr_core.model.flow import transformer_velocity
from op4ksr_core.model.fp8 import Fp8Linear, to_fp8
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import Execution, RopeSettings


def both(**changes):
    """Diffusers' transformer and a lean one of the same weights, made far from their starts."""
    plain = make_transformer(num_layers=2, num_attention_heads=2, **changes)
    for name, weight in plain.named_parameters():
        if "norm_" in name and weight.ndim == 1:
            nn.init.uniform_(weight, 0.5, 2.0)  # QK-norms start at one, where an error in them would not show
    plain.pos_embed = RotaryEmbedding(RopeSettings(theta=50.0), plain.config.axes_dims_rope)
    return plain, lean.make_lean_transformer(copy.deepcopy(plain))


def velocity(model, batch=1, dtype=torch.float32):
    torch.manual_seed(3)
    z = torch.randn(batch, 16, 6, 10, dtype=dtype)
    prompt, pooled = torch.randn(1, 5, 24, dtype=dtype), torch.randn(1, 20, dtype=dtype)
    with torch.inference_mode():
        return transformer_velocity(model, z, torch.linspace(0.3, 0.6, batch), prompt, pooled, 2.0)


@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_diffusers_transformer(batch):
    plain, other = both()
    expected = velocity(plain, batch)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(velocity(other, batch), expected, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_it_is_no_further_from_float32_than_diffusers():
    plain, other = both()
    exact = velocity(plain)
    errors = [float((velocity(m.bfloat16(), 1, torch.bfloat16) - exact).norm() / exact.norm()) for m in (plain, other)]
    assert errors[1] < 1.1 * errors[0] < 0.1, errors


def test_parameters_keep_their_names_and_8_bits_find_their_layers():
    plain, other = both()
    assert dict.fromkeys(plain.state_dict()) == dict.fromkeys(other.state_dict())
    counts = []
    for model in (plain, other):
        to_fp8(model, products=False)
        counts.append(sum(isinstance(module, Fp8Linear) for module in model.modules()))
    assert counts[0] == counts[1] > 20
    torch.testing.assert_close(velocity(other), velocity(plain), rtol=1e-5, atol=1e-5)


def test_a_modulated_norm_is_scale_and_shift_after_the_norm():
    x, shift, scale = 3 * torch.randn(2, 7, 8) + 1, torch.randn(2, 8), torch.randn(2, 8)
    slow = F.layer_norm(x, (8,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    torch.testing.assert_close(lean.modulated(x, shift, scale, 1e-6), slow)
    for one in range(2):
        alone = (t[one : one + 1] for t in (x, shift, scale))
        torch.testing.assert_close(lean.modulated(*alone, 1e-6), slow[one : one + 1])


def turned_slowly(x, cos, sin):
    """RoPE as the pairs' rotation matrices."""
    out = torch.empty_like(x, dtype=torch.float64)
    for i in range(0, x.shape[-1], 2):
        c, s = cos[:, i].double()[:, None], sin[:, i].double()[:, None]
        out[..., i] = x[..., i] * c - x[..., i + 1] * s
        out[..., i + 1] = x[..., i] * s + x[..., i + 1] * c
    return out


@pytest.mark.parametrize("compiling", [False, True])
def test_rope_turns_each_pair_by_its_phase(compiling, monkeypatch):
    monkeypatch.setattr("torch.compiler.is_compiling", lambda: compiling)
    ids = torch.tensor([[0.0, y, x] for y in range(3) for x in range(5)])
    cos, sin = RotaryEmbedding(RopeSettings(theta=30.0), (4, 8, 8))(ids)
    x = torch.randn(2, 15, 3, 20)
    expected = turned_slowly(x, cos, sin)
    torch.testing.assert_close(lean.turned(x.clone(), cos, sin).double(), expected, rtol=0, atol=1e-6)
    low = x.bfloat16()
    found, before = lean.turned(low, cos, sin), low.clone()
    assert found.dtype == torch.bfloat16 and torch.equal(low, before)
    torch.testing.assert_close(found.double(), turned_slowly(low, cos, sin), rtol=0.01, atol=0.01)


def test_the_picture_is_that_of_plain_layers(photo):
    lr = photo[..., 128:192, 128:192]
    quick, plain = (Upscaler.from_embedded(device="cpu", execution=Execution(lean=way)) for way in (True, False))
    torch.testing.assert_close(quick(lr), plain(lr), rtol=0, atol=1e-5)
    with plain.host.transformer.use("resident") as model, plain.host.vae.use("resident") as vae:
        swapped = [m for part in (model, vae) for m in part.modules() if type(m).__module__.startswith("op4ksr_core")]
    assert {type(m).__name__ for m in swapped} <= {"RotaryEmbedding", "SubPixelHead"}
    assert plain.last_memory_plan.vae_pass == "whole"
    assert plain.last_memory_plan.decode > quick.last_memory_plan.decode


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler on the CPU")
def test_compiled_norms_and_blocks_give_the_same_picture(photo):
    """`whole`, because that is the pass whose norms are compiled."""
    lr = photo[..., 128:176, 128:192]
    compiled = Upscaler.from_embedded(device="cpu", execution=Execution(compiled=True, vae_pass="whole"))
    plain = Upscaler.from_embedded(device="cpu", execution=Execution(lean=False))
    torch.testing.assert_close(compiled(lr), plain(lr), rtol=0, atol=1e-5)
    with compiled.host.vae.use("resident") as vae:
        assert all(block.compiled is not None for block in vae.decoder.mid_block.resnets)

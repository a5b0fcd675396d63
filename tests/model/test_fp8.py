"""8-bit weights and products against the plain layers, and a compiled transformer against the plain one."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from op4ksr_core.errors import SettingError
from op4ksr_core.model.fp8 import LARGEST, Fp8Linear, bytes_of, quantised, to_fp8
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import Execution
from op4ksr_core.weights.files import find_weights


def test_what_is_quantised_is_near_and_rows_do_not_touch_each_other():
    x = torch.randn(6, 64) * torch.tensor([1e-6, 1e-2, 1, 10, 1e4, 0])[:, None]
    low, scale = quantised(x)
    assert low.dtype == torch.float8_e4m3fn and float(low.float().abs().max()) == LARGEST
    back = low.float() * scale
    step = x.abs() / 16 + scale * 2**-10  # half a step of three bits, and of the smallest numbers
    assert bool(((back - x).abs() <= step).all())


def slow(layer, x):
    """The same numbers, one product of widened matrices."""
    tokens, scale = quantised(x.reshape(-1, x.shape[-1])) if layer.products else (x.reshape(-1, x.shape[-1]), 1.0)
    out = (tokens.double() @ layer.weight.double().T) * scale * layer.scale.double().T + layer.bias.double()
    return out.view(*x.shape[:-1], -1)


@pytest.mark.parametrize("products", [False, True])
def test_a_layer_is_its_slow_twin_and_near_the_linear_one(products):
    torch.manual_seed(0)
    linear, x = nn.Linear(128, 96).requires_grad_(False), torch.randn(2, 7, 128)
    layer = Fp8Linear(linear, products)
    out = layer(x)
    assert out.shape == (2, 7, 96) and out.dtype == x.dtype
    torch.testing.assert_close(out.double(), slow(layer, x), atol=2e-5, rtol=1e-4)
    error = float((out - linear(x)).norm() / linear(x).norm())
    assert 0.001 < error < 0.05


def test_weights_take_a_byte_each():
    upscaler = Upscaler.from_embedded(device="cpu", execution=Execution(fp8=True))
    with upscaler.host.transformer.use("resident") as model:
        held = [*model.parameters(), *model.buffers()]
        assert sum(p.numel() * p.element_size() for p in held) == upscaler.host.footprint.transformer_bytes
        assert upscaler.host.transformer.held_bytes == upscaler.host.footprint.transformer_bytes
    shapes = find_weights(EMBEDDED / "transformer").shapes()
    plain, low = (sum(bytes_of(name, shape, 4, fp8) for name, shape in shapes.items()) for fp8 in (False, True))
    assert plain == 4 * sum(torch.Size(s).numel() for s in shapes.values()) and low < 0.33 * plain


def difference(a, b):
    return 255 * float((a - b).abs().mean()), 255 * float((a - b).abs().max())


@pytest.mark.parametrize("products", [False, True])
def test_the_picture_moves_by_the_documented_error_and_no_more(photo, products, monkeypatch):
    monkeypatch.setattr("op4ksr_core.pipeline.diffusers_host.has_fp8_products", lambda device: products)
    lr = photo[..., 128:256, 128:256]
    plain, low = (Upscaler.from_embedded(device="cpu", execution=Execution(fp8=fp8))(lr) for fp8 in (False, True))
    mean, most = difference(plain, low)
    assert 0 < mean < 0.12 and most < 5, (mean, most)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler on the CPU")
def test_compiled_blocks_give_the_same_picture_and_still_report(photo):
    lr, seen = photo[..., 128:192, 128:192], []
    plain = Upscaler.from_embedded(device="cpu")(lr)
    compiled = Upscaler.from_embedded(device="cpu", execution=Execution(compiled=True))
    picture = compiled(lr, progress=lambda phase, done, total: seen.append((phase, done, total)))
    assert difference(plain, picture)[1] < 0.01
    assert ("transform", 4, 4) in seen


@pytest.mark.parametrize("fp8", [False, True])
def test_streamed_blocks_give_the_same_picture(photo, fp8, monkeypatch):
    """The way of cards smaller than the model, on the CPU, where host and device are one."""
    lr = photo[..., 128:192, 128:192]
    upscaler = Upscaler.from_embedded(device="cpu", execution=Execution(fp8=fp8))
    plain = upscaler(lr)
    chosen = upscaler.host.plan_memory
    for residency in ("stream", "stream", "resident", "offload"):
        monkeypatch.setattr(upscaler.host, "plan_memory", lambda *a, r=residency: replace(chosen(*a), residency=r))
        assert torch.equal(upscaler(lr), plain)


def test_a_transformer_without_fitting_layers_is_an_error():
    holder = nn.Module()
    holder.transformer_blocks, holder.single_transformer_blocks = nn.ModuleList([nn.Linear(3, 5)]), nn.ModuleList()
    with pytest.raises(SettingError, match="multiples of 16"):
        to_fp8(holder, False)

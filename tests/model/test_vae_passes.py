"""The VAE in strips against the same VAE in one pass, which is the slow twin."""

import subprocess
import sys
from typing import get_args

import pytest
import torch
from builders import make_vae
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from op4ksr_core.errors import SettingError
from op4ksr_core.model import group_norm
from op4ksr_core.model import rowwise as row_strips
from op4ksr_core.model import vae as v
from op4ksr_core.model import vae_passes as strips
from op4ksr_core.pipeline.memory import vae_work
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import Execution, Head

ROUNDING = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(autouse=True)
def small_strips(monkeypatch):
    """Strips of a few rows, so that pictures of a few hundred pixels have many."""
    monkeypatch.setitem(row_strips._ELEMENTS, "cpu", 5000)


def lean_vae(head):
    vae = make_vae()
    if head:
        v.make_f16(vae, head)
    return v.make_inference_only(v.make_lean(vae)).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("head", [None, *get_args(Head)])
@pytest.mark.parametrize("size", [(96, 64), (32, 208), (16, 16)])
def test_strips_equal_one_pass(head, size):
    torch.manual_seed(0)
    vae = lean_vae(head)
    factor = v.downscale_factor(vae)
    x, z = torch.rand(2, 3, *size) * 2 - 1, torch.randn(2, 16, size[0] // factor, size[1] // factor)
    before = x.clone(), z.clone()
    with torch.inference_mode():
        for half, given in ((vae.encoder, x), (vae.decoder, z)):
            plain = half(given)
            assert plain.abs().max() > 0.1
            for how in strips.PASSES[1:]:
                torch.testing.assert_close(strips.run(half, given, how), plain, **ROUNDING)
    assert torch.equal(x, before[0]) and torch.equal(z, before[1])


class Layouts(TorchDispatchMode):
    """Of each convolution, whether what goes in and what comes out lies channels-last; and the maps that were copied
    into another layout."""

    def __init__(self):
        super().__init__()
        self.convolutions, self.copies = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        maps = [x for x in (*args[:1], out) if isinstance(x, torch.Tensor) and x.ndim == 4]
        layouts = [x.is_contiguous(memory_format=torch.channels_last) for x in maps]
        name = str(function)
        if name.startswith("aten.conv"):
            self.convolutions.append(layouts)
        elif "clone" in name or "contiguous" in name or "_to_copy" in name:
            self.copies += [maps[0].shape for before, *after in [layouts] if after and after[0] != before]
        return out


@pytest.mark.parametrize("head", [None, *get_args(Head)])
def test_no_map_changes_its_layout_between_the_first_convolution_and_the_head(head):
    vae = lean_vae(head)
    with torch.inference_mode():
        for half, given in ((vae.encoder, torch.rand(1, 3, 96, 64)), (vae.decoder, torch.rand(1, 16, 12, 8))):
            with Layouts() as seen:
                half(given)
            first, *others = seen.convolutions
            assert first[1] and len(others) > 8 and all(map(all, others))
            assert [shape for shape in seen.copies if shape[-1] > 2] == []  # 2: kernels folded for the four phases


class ResnetBlock(nn.Module):
    """A residual block as the original layout has it."""

    def __init__(self, into, out):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(2, into, eps=1e-6), nn.GroupNorm(2, out, eps=1e-6)
        self.conv1, self.conv2 = nn.Conv2d(into, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        if into != out:
            self.nin_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x):
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Resampler(nn.Module):
    """Up or down by two, with a convolution."""

    def __init__(self, width, up):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2) if self.up else F.pad(x, (0, 1, 0, 1)))


class OriginalHalf(nn.Module):
    """Encoder or decoder in the original layout: what `steps_of` reads of it, and a forward of its own."""

    def __init__(self, decoder):
        super().__init__()
        outer, inner = 4, 8
        self.decoder = decoder
        self.conv_in = nn.Conv2d(16 if decoder else 3, inner if decoder else outer, 3, padding=1)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = (
            ResnetBlock(inner, inner),
            nn.Identity(),
            ResnetBlock(inner, inner),
        )
        levels = []
        for number, (into, out) in enumerate(
            [(inner, outer), (inner, inner)] if decoder else [(outer, inner), (inner, inner)]
        ):
            level = nn.Module()
            level.block = nn.ModuleList([ResnetBlock(into, out), ResnetBlock(out, out)])
            if decoder and number == 1:
                level.upsample = Resampler(out, True)
            if not decoder and number == 0:
                level.downsample = Resampler(out, False)
            levels.append(level)
        setattr(self, "up" if decoder else "down", nn.ModuleList(levels))
        last = outer if decoder else inner
        self.norm_out, self.conv_out = (
            nn.GroupNorm(2, last, eps=1e-6),
            nn.Conv2d(last, 3 if decoder else 32, 3, padding=1),
        )

    def forward(self, x):
        x = self.conv_in(x)
        middle = [self.mid.block_1, self.mid.attn_1, self.mid.block_2]
        levels = []
        for level in reversed(self.up) if self.decoder else self.down:
            levels += [*level.block, *(getattr(level, n) for n in ("upsample", "downsample") if hasattr(level, n))]
        for layer in [*middle, *levels] if self.decoder else [*levels, *middle]:
            x = layer(x)
        return self.conv_out(F.silu(self.norm_out(x)))


@pytest.mark.parametrize("decoder", [False, True])
def test_the_original_layout_too(decoder):
    torch.manual_seed(1)
    half = OriginalHalf(decoder)
    x = torch.randn(1, 16 if decoder else 3, 34, 300)
    with torch.inference_mode():
        for how in strips.PASSES[1:]:
            torch.testing.assert_close(strips.run(half, x, how), half(x), **ROUNDING)


@pytest.mark.parametrize("how", strips.PASSES[1:])
def test_no_strip_is_higher_than_asked_for(how, monkeypatch):
    seen, real = [], F.conv2d

    def spy(x, *args, **kwargs):
        seen.append(x.shape[2])
        return real(x, *args, **kwargs)

    vae = lean_vae("centered")
    monkeypatch.setattr(strips.F, "conv2d", spy)
    with torch.inference_mode():
        strips.run(vae.decoder, torch.randn(1, 16, 16, 16), how)
    assert max(seen) <= 5000 // (8 * 16) + 4 and len(seen) > 100


def test_a_group_norm_over_strips_is_the_exact_one():
    """Summed in float64: a shift of many deviations does not drown them."""
    x = (torch.randn(2, 12, 50, 40) + 30).contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(3, 12, eps=1e-6).requires_grad_(False)
    norm.weight.uniform_(0.5, 2)
    norm.bias.normal_()
    scale, shift = strips.norm_of(strips.Map.of(x), norm)
    exact = F.group_norm(x.double(), 3, norm.weight.double(), norm.bias.double(), 1e-6)
    torch.testing.assert_close((x.double() * scale + shift), exact, rtol=0, atol=5e-5)
    group_norm.make_exact(norm)
    torch.testing.assert_close(norm(x).double(), exact, rtol=0, atol=5e-5)


def test_without_triton_pytorch_norms_and_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.setitem(group_norm.WAY, "cpu", "triton")
    monkeypatch.setitem(sys.modules, "triton", None)  # as where it is not installed
    group_norm.has_triton.cache_clear()
    norm, x = nn.GroupNorm(4, 12), torch.randn(2, 12, 9, 7)
    try:
        with torch.inference_mode():
            made = [group_norm.norm_silu(norm, x) for _ in range(2)]
            expected = F.silu(norm(x))
    finally:
        group_norm.has_triton.cache_clear()
    for one in made:
        torch.testing.assert_close(one, expected, **ROUNDING)
    [record] = caplog.records
    assert record.levelname == "WARNING" and "import of triton" in record.message


def test_the_exact_norm_beats_the_native_one_on_a_large_map():
    """The reason for it: if PyTorch ever sums exactly, it can go."""
    x = (torch.randn(1, 8, 1024, 1024) + 2).contiguous(memory_format=torch.channels_last)
    native, exact = nn.GroupNorm(2, 8), nn.GroupNorm(2, 8)
    group_norm.make_exact(exact)
    with torch.inference_mode():
        truth = F.group_norm(x.double().contiguous(), 2)
        errors = [float((norm(x) - truth).abs().max()) for norm in (native, exact)]
    assert errors[1] < 2e-5 and errors[1] < errors[0] / 10, errors


def test_bfloat16_stays_finite_and_near_float32():
    """Activations of 1e3 and statistics in float32: what overflows float16 does not overflow here."""
    vae = lean_vae("centered")
    with torch.inference_mode():
        vae.decoder.conv_in.weight *= 1e5
        z = torch.randn(1, 16, 4, 6)
        exact = strips.run(vae.decoder, z)
        low = strips.run(vae.to(torch.bfloat16).decoder, z.bfloat16())
    assert low.dtype == torch.bfloat16 and bool(low.isfinite().all())
    assert float((low.float() - exact).norm() / exact.norm()) < 0.03


def test_the_same_picture_and_progress_whichever_way(photo):
    lr = photo[..., 128:192, 128:192]
    pictures, counts = {}, {}
    for how in strips.PASSES:
        seen = []
        upscaler = Upscaler.from_embedded(device="cpu", execution=Execution(vae_pass=how))
        pictures[how] = upscaler(lr, progress=lambda phase, done, total, seen=seen: seen.append((phase, done, total)))
        counts[how] = [entry for entry in seen if entry[0] in ("encode", "decode")]
        assert upscaler.last_memory_plan.vae_pass == how and how in str(upscaler.last_memory_plan)
        with upscaler.host.vae.use("resident") as vae:
            assert "forward" not in vars(vae.encoder) and "forward" not in vars(vae.decoder)
    for picture in pictures.values():
        torch.testing.assert_close(picture, pictures["whole"], rtol=0, atol=1e-5)
    for seen in counts.values():
        assert seen[0][1] == 0 and [phase for phase, done, total in seen if done == total] == ["encode", "decode"]


def test_an_exception_from_the_report_ends_the_pass_and_leaves_the_half_as_it_was():
    vae = lean_vae("centered")

    def stop(phase, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), strips.passing(vae.decoder, strips.STRIPS, "decode", stop):
        vae.decoder(torch.randn(1, 16, 4, 4))
    assert "forward" not in vars(vae.decoder)
    assert vae.decoder(torch.randn(1, 16, 4, 4)).shape == (1, 3, 64, 64)


def test_an_unknown_pass_is_an_error():
    with pytest.raises(SettingError, match="diagonal"):
        Execution(vae_pass="diagonal")


def test_frugal_decodes_four_times_the_pixels_in_about_the_memory_of_one_pass():
    """By the estimate, which the memory tests hold to a real run."""
    flux = ((128, 256, 512, 512), 2, 16, True)
    one = vae_work(4096**2, *flux)
    assert vae_work(8192**2, *flux, strips.FRUGAL) < 1.3 * one < vae_work(8192**2, *flux) / 3
    assert vae_work(8192**2, *flux, strips.STRIPS) < 0.65 * vae_work(8192**2, *flux)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
def test_the_peak_of_a_real_decode_shrinks():
    code = r"""
import re, sys, torch
from op4ksr_core.model import vae_passes
from op4ksr_core import Upscaler
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1e6
with Upscaler.from_embedded(device="cpu").host.vae.use("resident") as vae, torch.inference_mode():
    z = torch.randn(1, vae.config.latent_channels, 96, 96).contiguous(memory_format=torch.channels_last)
    vae.decoder(z[..., :8, :8])
    before = peak()
    vae.decoder(z) if sys.argv[1] == "whole" else vae_passes.run(vae.decoder, z, sys.argv[1])
    print(peak() - before)
"""
    peaks = {}
    for how in strips.PASSES:
        done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True)
        peaks[how] = float(done.stdout)
    assert peaks["strips"] < 0.75 * peaks["whole"] and peaks["frugal"] < 0.75 * peaks["strips"], peaks

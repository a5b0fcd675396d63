import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from op4ksr_core.errors import SettingError
from op4ksr_core.model import vae as v

ROUNDING = {"rtol": 1e-4, "atol": 2e-5}


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (2, 6, 7, 9), (1, 6, 32, 16)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_phase_upsample_equals_nearest_then_conv(shape, layout, bias):
    conv = nn.Conv2d(6, 5, 3, padding=1, bias=bias)
    x = torch.randn(shape).contiguous(memory_format=layout)
    plain = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(v.PhaseUpsample(conv)(x), plain, **ROUNDING)


def _plain_head(conv, x):
    return conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def _published_head(conv, x):
    """UltraFlux's partitioned decode, quadrant by quadrant: one px of overlap, zeros outside, crop from 1."""
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    rows = []
    for i in range(2):
        row = []
        for j in range(2):
            part = x[..., max(i * height - 1, 0) : (i + 1) * height + 1, max(j * width - 1, 0) : (j + 1) * width + 1]
            part = F.pad(part, (1 - j, j, 1 - i, i))
            row.append(_plain_head(conv, part)[..., 1 : 2 * height + 1, 1 : 2 * width + 1])
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


@pytest.mark.parametrize("shape", [(1, 6, 8, 8), (2, 6, 16, 10)])
def test_heads_equal_their_plain_forms(shape):
    conv, x = nn.Conv2d(6, 3, 3, padding=1), torch.randn(shape)
    torch.testing.assert_close(v.sub_pixel_head(conv)(x), _plain_head(conv, x), **ROUNDING)
    torch.testing.assert_close(v.sub_pixel_head(conv, "partitioned")(x), _published_head(conv, x), **ROUNDING)


def test_partitioned_is_centered_one_pixel_on():
    conv, x = nn.Conv2d(6, 3, 3, padding=1), torch.randn(1, 6, 8, 12)
    centered, partitioned = v.sub_pixel_head(conv)(x), v.sub_pixel_head(conv, "partitioned")(x)
    torch.testing.assert_close(partitioned[..., 1:, 1:], centered[..., :-1, :-1], **ROUNDING)
    assert partitioned.shape == centered.shape


def test_unknown_head():
    with pytest.raises(SettingError, match="quartered"):
        v.sub_pixel_head(nn.Conv2d(6, 3, 3), "quartered")


def _plain_f16(vae):
    """The published F16 forward with plain layers: strided conv_in, nearest x2 before conv_out."""
    vae = copy.deepcopy(vae)
    vae.encoder.conv_in.stride = (2, 2)
    head = vae.decoder.conv_out
    vae.decoder.conv_out = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), head)
    return vae


def test_lean_f16_vae_equals_the_plain_one(vae):
    plain = _plain_f16(vae)
    lean = v.make_inference_only(v.make_lean(v.make_f16(vae)))
    x = torch.rand(2, 3, 96, 64)
    z = v.encode(lean, x)
    assert z.shape == (2, 16, 6, 4)
    torch.testing.assert_close(z, v.encode(plain, x), **ROUNDING)
    torch.testing.assert_close(v.decode(lean, z), v.decode(plain, z), **ROUNDING)


def test_f8_stays_diffusers_own(vae):
    x = torch.rand(1, 3, 64, 64)
    theirs = (vae.encode(x * 2 - 1).latent_dist.mode() - 0.1159) * 0.3611
    ours = v.encode(v.make_lean(vae), x)
    torch.testing.assert_close(ours, theirs, **ROUNDING)
    picture = vae.decode(theirs / 0.3611 + 0.1159).sample * 0.5 + 0.5
    torch.testing.assert_close(v.decode(vae, ours), picture, **ROUNDING)


def test_keys_and_parameters_survive_the_surgery(vae):
    before = dict(vae.named_parameters())
    v.make_lean(v.make_f16(vae))
    after = dict(vae.named_parameters())
    assert before.keys() == after.keys() and all(before[k] is after[k] for k in before)


def test_factors_and_second_surgery(vae):
    assert v.downscale_factor(vae) == 8 and not v.is_f16(vae)
    v.make_f16(vae)
    assert v.downscale_factor(vae) == 16 and v.is_f16(vae)
    with pytest.raises(SettingError, match="conv_in.*2"):
        v.make_f16(vae)


def test_encode_by_seeded_sample(vae):
    x = torch.rand(1, 3, 64, 64)
    mode, a, b, other = v.encode(vae, x), v.encode(vae, x, 5), v.encode(vae, x, 5), v.encode(vae, x, 6)
    assert torch.equal(a, b) and not torch.equal(a, other) and not torch.equal(a, mode)
    posterior = vae.encode(x * 2 - 1).latent_dist
    samples = torch.stack([v.encode(vae, x, s) for s in range(400)]) / 0.3611 + 0.1159
    torch.testing.assert_close(samples.mean(0), posterior.mean, rtol=0, atol=float(posterior.std.max()) * 0.25)
    torch.testing.assert_close(samples.std(0), posterior.std, rtol=0.25, atol=0)


def test_training_sees_the_same_gradients(vae):
    vae.requires_grad_(True)
    conv = vae.decoder.up_blocks[0].upsamplers[0].conv
    x = torch.randn(1, 16, 8, 8)
    plain = torch.autograd.grad(conv(F.interpolate(x, scale_factor=2)).square().sum(), conv.weight)[0]
    phased = torch.autograd.grad(v.PhaseUpsample(conv)(x).square().sum(), conv.weight)[0]
    torch.testing.assert_close(phased, plain, rtol=1e-3, atol=1e-3)

"""A small world in which the paper's question can be asked: grey pictures, exact latents, a FLUX transformer of 1 M.

Latents are the picture's own 4x4 DCT, so there is no VAE to blame: one latent px is 4 px, one token 8 px.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.geometry import Size
from op4ksr_core.model import flow
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.picture.resample import resize
from op4ksr_core.settings import RopeSettings

BLOCK, TOKEN, SCALE = 4, 8, 4
SIGMA_MID = 0.3
THETA_PRIOR, THETA_RFR = 10_000.0, 100.0
TRAINED, LARGE = 128, 512
"""px of a side: 16 tokens in training; 64 tokens, four times as many, in the second evaluation."""

_AXES = (16, 56, 56)
_LOUDNESS = torch.tensor([1.2] + [0.12] * 15).view(1, 16, 1, 1)
"""About the deviation of each DCT coefficient; latents are divided by it."""


def _basis() -> Tensor:
    """(16, 1, 4, 4): the orthonormal DCT-II."""
    n = torch.arange(BLOCK)
    rows = torch.cos(math.pi * (n + 0.5) * n[:, None] / BLOCK) * math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", rows, rows).reshape(BLOCK**2, 1, BLOCK, BLOCK)


_BASIS = _basis()


def encode(x: Tensor) -> Tensor:
    """Pictures (B, 1, H, W) in [0, 1] -> latents (B, 16, H/4, W/4)."""
    return F.conv2d(x - 0.5, _BASIS, stride=BLOCK) / _LOUDNESS


def decode(z: Tensor) -> Tensor:
    """The exact inverse of `encode`."""
    return F.conv_transpose2d(z * _LOUDNESS, _BASIS, stride=BLOCK) + 0.5


def band(count: int, side: int, low: float, high: float, dice: torch.Generator) -> Tensor:
    """Gaussian noise (count, 1, side, side) of deviation 1 about the frequencies low to high, in cycles per px."""
    white = torch.randn(count, 1, side, side, generator=dice)
    down, across = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)
    frequency = torch.hypot(down, across)
    gain = torch.exp(-2 * ((2 * frequency - low - high) / (high - low)) ** 2)
    gain[0, 0] = 0
    made = torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=(side, side))
    return made / made.std((2, 3), keepdim=True)


def pictures(count: int, side: int, seed: int) -> Tensor:
    """Smooth shapes with edges, and patches of texture too fine for the small picture: (count, 1, side, side).

    The texture lies between 0.16 and 0.45 cycle per px, above the small picture's Nyquist frequency of 0.125: what it
    is like can be learned, where each of its grains lies cannot.
    """
    dice = torch.Generator().manual_seed(seed)
    x = 0.5 + 0.13 * band(count, side, 0.0, 0.012, dice)
    for _ in range(3):
        shape = torch.sigmoid(40 * band(count, side, 0.004, 0.03, dice))
        x = x + 0.3 * (torch.rand(count, 1, 1, 1, generator=dice) - 0.5) * shape
    where = (band(count, side, 0.003, 0.02, dice) > 0).float()
    strength = 0.02 + 0.06 * torch.rand(count, 1, 1, 1, generator=dice)
    return (x + strength * where * band(count, side, 0.16, 0.45, dice)).clamp(0, 1)


def enlarged(x: Tensor, seed: int) -> Tensor:
    """The picture reduced to a quarter, a little noisy (1/255), and enlarged again to its own size."""
    size = Size(*x.shape[-2:])
    small = resize(x, Size(size.height // SCALE, size.width // SCALE))
    noise = torch.randn(small.shape, generator=torch.Generator().manual_seed(seed))
    return resize(small + noise / 255, size)


class Model(nn.Module):
    """A FLUX transformer (width 128, one double and three single blocks) with a fixed random prompt."""

    prompt: Tensor
    pooled: Tensor

    def __init__(self, theta: float):
        from diffusers import FluxTransformer2DModel

        super().__init__()
        torch.manual_seed(0)
        self.dit: Any = FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=3,
            attention_head_dim=128,
            num_attention_heads=1,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=False,
            axes_dims_rope=_AXES,
        )
        nn.init.zeros_(self.dit.proj_out.weight)
        nn.init.zeros_(self.dit.proj_out.bias)
        self.register_buffer("prompt", torch.randn(1, 4, 32))
        self.register_buffer("pooled", torch.randn(1, 32))
        self.set_theta(theta)

    def set_theta(self, theta: float) -> None:
        """Changes the RoPE base, which holds no weights."""
        self.dit.pos_embed = RotaryEmbedding(RopeSettings(theta=theta), _AXES)

    def velocity(self, z: Tensor, sigma: Tensor) -> Tensor:
        return flow.transformer_velocity(self.dit, z, sigma, self.prompt, self.pooled)

    def restore(self, blurred: Tensor) -> Tensor:
        """One step at sigma_mid: enlarged pictures -> restored ones."""
        return decode(self.step(encode(blurred)))

    def step(self, z: Tensor) -> Tensor:
        """The same on latents."""
        return z - SIGMA_MID * self.velocity(z, torch.full((len(z),), SIGMA_MID))

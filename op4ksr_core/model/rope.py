"""Two-dimensional rotary position embedding (RoPE) with a free base, theta.

Phase step of pair i per token: theta^(-2i/d), d = channels of the axis (FLUX: 16 text, 56 H, 56 W).
RoPE frequency rescaling (RFR, OP4KSR arXiv 2605.13457) is theta 100 instead of FLUX's 10,000.
`resonance-yarn` is UltraFlux's embedding (arXiv 2511.18050). Theta, scheme, mscale and base tokens
are independent of one another.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..settings import RopeSettings

FLUX_AXES = (16, 56, 56)

_NTK_BAND = (1.25, 0.75)  # beta: rotations over the base length; NTK below the band, linear above
_PLAIN_BAND = (16.0, 2.0)  # gamma: unscaled below the band


def plain_frequencies(dim: int, theta: float) -> Tensor:
    """theta^(-2i/d) for i = 0..d/2-1: radians per token, float64, shape (d/2,)."""
    return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim))


def frequencies(dim: int, settings: RopeSettings, span: int) -> Tensor:
    """Phase step in radians per token of each pair, float64, shape (dim/2,).

    `span` is the axis' length in tokens; the yarn schemes act only where it exceeds base_tokens.
    """
    plain = plain_frequencies(dim, settings.theta)
    if not _is_stretched(settings, span):
        return plain
    base = _resonant(plain, settings.base_tokens) if settings.scheme == "resonance-yarn" else plain
    return _yarn(base, dim, settings, span / settings.base_tokens)


def amplitude(settings: RopeSettings, span: int) -> float:
    """Factor on cos and sin for an axis of `span` tokens (YaRN's attention temperature)."""
    if settings.mscale is not None:
        return settings.mscale
    return 0.1 * math.log(span / settings.base_tokens) + 1 if _is_stretched(settings, span) else 1.0


def _is_stretched(settings: RopeSettings, span: int) -> bool:
    return settings.scheme != "plain" and span > settings.base_tokens


def _resonant(freqs: Tensor, length: int) -> Tensor:
    """Rounds each pair that turns at least once over `length` tokens to whole turns."""
    turns = length * freqs / (2 * math.pi)
    return torch.where(turns >= 1, 2 * math.pi * torch.round(turns) / length, freqs)


def _yarn(base: Tensor, dim: int, settings: RopeSettings, stretch: float) -> Tensor:
    """NTK-by-parts interpolation of the frequencies for an axis `stretch` times the trained one."""
    exponent = -torch.log(base) / math.log(settings.theta)
    ntk = (settings.theta * stretch ** (dim / (dim - 2))) ** -exponent
    below_ntk = _ramp_down(_NTK_BAND, dim, settings)
    mixed: Tensor = base / stretch * (1 - below_ntk) + ntk * below_ntk
    below_plain = _ramp_down(_PLAIN_BAND, dim, settings)
    return mixed * (1 - below_plain) + base * below_plain


def _ramp_down(band: tuple[float, float], dim: int, settings: RopeSettings) -> Tensor:
    """1 for pairs faster than the band, 0 for slower ones, linear between; float64 of float32 steps."""

    def pair_of(turns: float) -> float:
        return dim * math.log(settings.base_tokens / (turns * 2 * math.pi)) / (2 * math.log(settings.theta))

    low, high = max(0, math.floor(pair_of(band[0]))), min(dim // 2, math.ceil(pair_of(band[1])))
    width = high - low if high != low else 0.001
    steps = (torch.arange(dim // 2, dtype=torch.float32) - low) / width
    return 1 - steps.clamp(0, 1).double()


def effective_pairs(settings: RopeSettings, dim: int = 56, span: int = 1, degrees: float = 5.0) -> int:
    """How many of the dim/2 pairs step by more than `degrees` per token (the paper's figure 5a)."""
    return int((frequencies(dim, settings, span) > math.radians(degrees)).sum())


class RotaryEmbedding(nn.Module):
    """Drop-in for diffusers' `FluxPosEmbed`: ids (tokens, axes) -> cos, sin, each (tokens, sum of axes).

    Phases are computed in float64 on the CPU and returned in float32 on the ids' device. Axis 0
    (text) is always plain, as in UltraFlux.
    """

    def __init__(self, settings: RopeSettings, axes_dim: Sequence[int] = FLUX_AXES):
        super().__init__()
        self.settings = settings
        self.axes_dim = tuple(axes_dim)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        positions = ids.detach().float().cpu()
        parts = [self._axis(axis, positions[:, axis]) for axis in range(len(self.axes_dim))]
        cos, sin = (torch.cat(p, dim=-1).to(ids.device) for p in zip(*parts, strict=True))
        return cos, sin

    def _axis(self, axis: int, positions: Tensor) -> tuple[Tensor, Tensor]:
        span = 1 if axis == 0 else int(positions.max() - positions.min()) + 1
        phases = torch.outer(positions.double(), frequencies(self.axes_dim[axis], self.settings, span))
        scale = 1.0 if axis == 0 else amplitude(self.settings, span)
        cos, sin = (f(phases).repeat_interleave(2, dim=1).float() * scale for f in (torch.cos, torch.sin))
        return cos, sin

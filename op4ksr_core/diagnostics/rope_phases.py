"""What a RoPE base does to token positions: the quantities of the paper's figure 5 (OP4KSR, arXiv 2605.13457).

(a) the phase step of every pair from one token to the next, against 5 degrees; (b) how alike the token in the middle
and every other token look to attention, if position were all there is. A large area of near-equal tokens means that
neighbours cannot be told apart by position. In bfloat16, pairs of a very small step stand still from token to token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingError
from ..geometry import TOKEN_PX, Size, padded_side
from ..model.rope import FLUX_AXES, effective_pairs, frequencies
from ..settings import RopeSettings

EFFECTIVE_DEGREES = 5.0
"""A pair that steps by more than this per token counts as effective."""
ALIKE = 0.9
"""Cosine similarity above which a token counts as near-equal to the one in the middle."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class RopeAnalysis:
    """One setting at one picture size.

    steps: (2, pairs) degrees per token, rows H and W. similarity: by precision, (rows, columns) cosine similarity of
    each token's position to the middle one's. still: by precision, (2, pairs) share of neighbouring tokens that
    rounding makes equal in that pair. tokens: (rows, columns).
    """

    settings: RopeSettings
    size: Size
    token_px: int
    steps: Tensor
    similarity: dict[str, Tensor]
    still: dict[str, Tensor]

    @property
    def tokens(self) -> tuple[int, int]:
        return tuple(self.similarity["float32"].shape)  # type: ignore[return-value]

    @property
    def effective(self) -> tuple[int, int]:
        """Pairs of H and of W that step by more than 5 degrees per token."""
        rows, columns = (
            effective_pairs(self.settings, 2 * self.steps.shape[1], span, EFFECTIVE_DEGREES) for span in self.tokens
        )
        return rows, columns

    @property
    def slowest_px(self) -> float:
        """Picture px in which the slowest pair of W turns once."""
        return 360 / float(self.steps[1].min()) * self.token_px

    def area(self, precision: str = "float32") -> float:
        """Share of the tokens above 0.9, in [0, 1]."""
        return float((self.similarity[precision] > ALIKE).float().mean())

    @property
    def mean(self) -> float:
        """Mean similarity of all tokens to the middle one."""
        return float(self.similarity["float32"].mean())

    def standing(self, precision: str = "bfloat16") -> tuple[int, int]:
        """Pairs of H and of W in which over half of the neighbouring tokens are equal after rounding."""
        return tuple((self.still[precision] > 0.5).sum(1).tolist())  # type: ignore[return-value]

    def as_dict(self) -> dict:
        """The numbers, for JSON."""
        return {
            "theta": self.settings.theta,
            "scheme": self.settings.scheme,
            "tokens": list(self.tokens),
            "pairs": self.steps.shape[1],
            "effective_pairs_h": self.effective[0],
            "effective_pairs_w": self.effective[1],
            "slowest_px": self.slowest_px,
            "mean_similarity": self.mean,
            "area_above_0.9": {name: self.area(name) for name in self.similarity},
            "standing_pairs_h": {name: self.standing(name)[0] for name in self.still},
            "standing_pairs_w": {name: self.standing(name)[1] for name in self.still},
            "step_degrees_h": self.steps[0].tolist(),
            "step_degrees_w": self.steps[1].tolist(),
        }


def analyse(
    settings: RopeSettings, size: Size, token_px: int = TOKEN_PX, axes: Sequence[int] = FLUX_AXES
) -> RopeAnalysis:
    """Steps and similarity for a picture of `size` px. `axes` are the channels of text, H and W.

    Raises SettingError where token_px is below 1, the picture has over 1024 tokens on a side, or H and W differ in
    channels.
    """
    if len(axes) != 3 or axes[1] != axes[2]:
        raise SettingError(
            f"The axes are text, H and W, the last two of equal channels (FLUX: 16, 56, 56), got {axes}."
        )
    if token_px < 1:
        raise SettingError(f"A token covers at least 1 px (F16: 32, F8: 16), got {token_px}.")
    rows, columns = (padded_side(side, token_px) // token_px for side in (size.height, size.width))
    if max(rows, columns) > 1024:
        raise SettingError(f"{size} px are {columns}x{rows} tokens; up to 1024 on a side can be analysed.")
    freqs = [frequencies(dim, settings, span) for dim, span in zip(axes[1:], (rows, columns), strict=True)]
    steps = torch.stack([torch.rad2deg(f) for f in freqs])
    maps, still = {}, {}
    for name, dtype in PRECISIONS.items():
        down, across = rotated_ones(freqs[0], rows, dtype), rotated_ones(freqs[1], columns, dtype)
        maps[name] = similarity(down, across, dtype)
        still[name] = torch.stack([_equal_neighbours(down), _equal_neighbours(across)])
    return RopeAnalysis(settings, size, token_px, steps, maps, still)


def rotated_ones(freqs: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """(length, pairs, 2): a vector of ones turned by RoPE at each position, in `dtype`."""
    phases = torch.outer(torch.arange(length, dtype=torch.float64), freqs)
    return torch.stack([phases.cos() - phases.sin(), phases.sin() + phases.cos()], -1).to(dtype)


def similarity(down: Tensor, across: Tensor, dtype: torch.dtype) -> Tensor:
    """Cosine similarity (rows, columns), float32, of every token to the middle one.

    A token is the `rotated_ones` of its row and its column; the products are summed in float32, as attention does, and
    the result is rounded to `dtype`. The text axis, equal for all picture tokens, is left out.
    """
    rows, columns = down.flatten(1).float(), across.flatten(1).float()
    top, left = _middle((len(rows), len(columns)))
    product = (rows @ rows[top])[:, None] + (columns @ columns[left])[None]
    lengths = rows.square().sum(1)[:, None] + columns.square().sum(1)[None]
    return (product / (lengths * lengths[top, left]).sqrt()).to(dtype).float()


def _equal_neighbours(vectors: Tensor) -> Tensor:
    """(pairs,) share of neighbours along the axis that are equal; 0 where there is one token alone."""
    if len(vectors) < 2:
        return torch.zeros(vectors.shape[1])
    return (vectors[1:] == vectors[:-1]).all(-1).float().mean(0)


def _middle(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0] // 2, shape[1] // 2


def compare(analyses: Sequence[RopeAnalysis]) -> list[str]:
    """One plain sentence per setting, the best and the worst named at the end."""
    lines = []
    for one in analyses:
        pairs, (down, across), still = one.steps.shape[1], one.effective, one.standing()
        tokens = f"{one.tokens[1]}x{one.tokens[0]} tokens"
        lines.append(
            f"Theta {one.settings.theta:g}, {one.settings.scheme}: {down} of {pairs} pairs down and {across} across "
            f"step by more than {EFFECTIVE_DEGREES:g} degrees a token. {one.area():.2%} of the {tokens} look above "
            f"{ALIKE} alike to the middle one (bfloat16 {one.area('bfloat16'):.2%}), on average {one.mean:.2f}. "
            f"In bfloat16 {still[0]} pairs down and {still[1]} across stand still."
        )
    if len(analyses) > 1:
        ranked = sorted(analyses, key=lambda one: (one.area(), -sum(one.effective)))
        lines.append(
            f"Theta {ranked[0].settings.theta:g} tells neighbouring tokens apart best, theta "
            f"{ranked[-1].settings.theta:g} least. A model works best near the theta that it was trained with."
        )
    return lines

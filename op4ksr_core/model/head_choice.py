"""Which F16 head puts the pixels where they belong: measured, for a VAE's weights do not say.

UltraFlux's own decode is "partitioned", which lies one px down and right of "centered". What its weights were tuned
for is not published.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..settings import Head
from .vae import decode, encode

log = logging.getLogger("op4ksr")

SIDE = 128
"""px of the chart."""

BLOB = 16
"""px between the chart's random values: smooth enough for a latent 16 times smaller."""

KNOWN = 0.5
"""Least correlation with the chart of a picture whose shift can be told."""


def chart() -> Tensor:
    """Soft blobs of colour, (1, 3, SIDE, SIDE) in [0, 1], the same each time."""
    coarse = torch.rand(1, 3, SIDE // BLOB, SIDE // BLOB, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)


def shift_of(made: Tensor, wanted: Tensor) -> float | None:
    """px that a picture lies down and right of the wanted one, both (1, 3, H, W): the mean of both directions, by least
    squares on the wanted one, which may be fainter or brighter, and its gradient. None where they have too little in
    common to tell."""
    alike = torch.corrcoef(torch.stack([made.flatten(), wanted.flatten()]))[0, 1]
    if not alike >= KNOWN:  # NaN of a picture of one colour
        return None
    inner = (..., slice(BLOB, -BLOB), slice(BLOB, -BLOB))  # borders are padded, and differ by head
    slopes = [torch.gradient(wanted, dim=dim)[0] for dim in (-2, -1)]
    columns = torch.stack([part[inner].flatten() for part in (torch.ones_like(wanted), wanted, *slopes)], 1)
    _, strength, down, right = torch.linalg.lstsq(columns, made[inner].flatten()[:, None]).solution.flatten().tolist()
    return float(-(down + right) / (2 * strength))


def in_register(round_trip: Callable[[Tensor], Tensor]) -> tuple[Head, float | None]:
    """(the head in register, the centered one's shift in px), of an F16 VAE that gives the chart back by its centered
    head. Centered where the shift cannot be told."""
    shift = shift_of(round_trip(chart()), chart())
    return ("partitioned" if shift is not None and shift < -0.5 else "centered"), shift


def register_text(head: Head, shift: float | None) -> str:
    """One line on what was measured and taken."""
    if shift is None:
        return "F16 head: centered; the VAE does not give the test chart back, so its shift could not be measured"
    left = shift + (1 if head == "partitioned" else 0)
    return f"F16 head: {head}, {abs(left):.2f} px off a test chart; the other would be {abs(1 - abs(left)):.2f} px off"


@torch.no_grad()
def take_head_in_register(vae: Any) -> None:
    """Measures an F16 VAE that has the centered head, and gives it the other one where that is in register."""
    tried = vae if next(vae.parameters()).dtype == torch.float32 else copy.deepcopy(vae).float()  # half is slow on CPUs
    head, shift = in_register(lambda picture: decode(tried, encode(tried, picture)).clamp(0, 1))
    vae.decoder.conv_out.mode = head
    log.info("%s", register_text(head, shift))

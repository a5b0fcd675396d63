"""Texture drawn into soft areas: the mesh that a network leaves on water, skies and blurred backgrounds.

It comes and goes with the content, so that no comb finds it. Two things mark it: the place, soft in the small picture,
and the spectrum, a narrow ring at a pitch of 3.5 to 7 px. Grain reaches to the finest pitches, and real texture has
more of the coarse ones. A truth has texture finer than its small picture can hold, so plain texture in soft areas is no
fault: only what looks like a mesh counts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .reference import enlarge, reduced
from .spectrum import box, middle, strips, windows

FINE, AROUND = 5, 15
"""px: texture is what differs from the mean over FINE px; its strength is the deviation over AROUND px."""
SOFT, DRAWN = 1.0, 2.0
"""1/255: the enlarged small picture is soft below this strength; something is drawn in the picture above that one."""
BLOCK, STEP = 24, 12
"""px: side of the blocks whose spectra are looked at, and from one to the next."""

_WIDEN = 9  # px around: an edge is not soft beside itself
_RING = (0.11, 0.15, 0.29, 0.5)  # cycles per px: what counts as texture, and within it the mesh's band
_NARROW, _COARSE = 0.65, 0.25  # of a block's texture: at least in the band, and at most below it
_REPORTED, _ALIKE, _BLOCKS = 2.5, 0.4, 6  # per mille of the soft area; of all that is drawn there; blocks
_LEAST_SOFT = 0.01  # of the picture: less is not judged
_ALONE = 4  # what the picture is reduced by where there is no small one
_AT_ONCE = 4096  # blocks
_LOOKED_AT = 1024  # px a side, in the middle, where there is no small picture


@dataclass(frozen=True)
class Mesh:
    """Texture in soft areas.

    found: whether it is a mesh, and enough of one. per_mille: of the soft area that has it. soft: share of the picture
    that is soft. largest: its strength in 1/255. pitch: px, 0 without any. map: (rows, columns) of places of 12 px,
    strength in 1/255, 0 where there is none. referenced: whether the small picture told what is soft. Without it all is
    of the middle 1024 px, and nothing is ever `found`, for the texture may be the picture's own.
    """

    found: bool
    per_mille: float
    soft: float
    largest: float
    pitch: float
    map: Tensor
    referenced: bool


def no_mesh(soft: float = 0.0, referenced: bool = False) -> Mesh:
    return Mesh(False, 0.0, soft, 0.0, 0.0, torch.zeros(1, 1), referenced)


def strength(y: Tensor) -> Tensor:
    """Texture of luma (H, W), as local deviation in its own unit."""
    out = torch.empty_like(y)
    for read, keep, write in strips(len(y), FINE + AROUND):
        fine = (y[read] - box(y[read], FINE)).square_()
        out[write] = box(fine, AROUND).clamp_min_(0).sqrt_()[keep]
    return out


def soft_area(enlarged: Tensor) -> Tensor:
    """Where the luma of an enlarged small picture, (H, W) in 1/255, is soft: true or false."""
    hard = strength(enlarged) >= SOFT
    out = torch.empty_like(hard)
    for read, keep, write in strips(len(hard), _WIDEN):
        out[write] = ~_near(hard[read], _WIDEN)[keep]
    return out


def _near(hard: Tensor, size: int) -> Tensor:
    """Whether any of size x size px around is true; size at most 15, for counts are in 8 bits."""
    half = size // 2
    padded = F.pad(hard.to(torch.uint8), (half,) * 4)
    return windows(windows(padded, size, 0), size, 1) > 0


def find_mesh(luma: Tensor, enlarged: Tensor | None = None) -> Mesh:
    """Luma (H, W) in 1/255 and that of the small picture, enlarged (H, W).

    Without the small picture, the middle 1024 px are measured by their own quarter: nothing is ever found there, so
    that is enough to say whether there is fine texture.
    """
    referenced = enlarged is not None
    if enlarged is None:
        luma = middle(luma, _LOOKED_AT)
        enlarged = enlarge(reduced(luma, _ALONE), luma.shape)
    soft = soft_area(enlarged)
    share = float(soft.float().mean())
    if share < _LEAST_SOFT or min(luma.shape) < 2 * BLOCK:
        return no_mesh(share, referenced)
    here = strength(luma).mul_(soft)
    drawn = F.avg_pool2d((here > DRAWN).float()[None, None], BLOCK, STEP)[0, 0] > 0.5
    rows, columns = torch.nonzero(drawn, as_tuple=True)
    if len(rows) == 0:
        return no_mesh(share, referenced)
    alike, frequency = _like_a_mesh(luma, rows, columns)
    count = int(alike.sum())
    per_mille = 1000 * count * STEP**2 / (share * luma.numel())
    places = torch.zeros(drawn.shape)
    peaks = F.max_pool2d(here[None, None], STEP)[0, 0]
    places[rows[alike], columns[alike]] = peaks[rows[alike], columns[alike]]
    enough = per_mille >= _REPORTED and count >= _ALIKE * len(rows) and count >= _BLOCKS
    pitch = 1 / float(frequency[alike].median()) if count else 0.0
    return Mesh(referenced and enough, per_mille, share, float(places.max()), pitch, places, referenced)


def _like_a_mesh(luma: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """(whether the texture of each block lies in the mesh's band, its mean frequency in cycles per px)."""
    window = torch.hann_window(BLOCK, periodic=True)
    window = window[:, None] * window
    radius = (torch.fft.fftfreq(BLOCK)[:, None].square() + torch.fft.rfftfreq(BLOCK).square()).sqrt()
    twice = torch.full_like(radius, 2.0)
    twice[:, 0] = twice[:, -1] = 1.0
    twice = twice * ((radius > _RING[0]) & (radius < _RING[3]))
    inside = (radius > _RING[1]) & (radius < _RING[2])
    blocks = luma.unfold(0, BLOCK, STEP).unfold(1, BLOCK, STEP)
    alike, mean = [], []
    for i, j in zip(rows.split(_AT_ONCE), columns.split(_AT_ONCE), strict=True):
        part = blocks[i, j]
        part = (part - part.mean((1, 2), keepdim=True)) * window
        power = torch.fft.rfft2(part).abs().square() * twice
        whole = power.sum((1, 2)).clamp_min(1e-9)
        band = (power * inside).sum((1, 2)) / whole
        below = (power * (radius <= _RING[1])).sum((1, 2)) / whole
        alike.append((band > _NARROW) & (below < _COARSE))
        mean.append((power * radius).sum((1, 2)) / whole)
    return torch.cat(alike), torch.cat(mean)


def mesh_mask(mesh: Mesh, shape: torch.Size) -> Tensor:
    """Where the mesh is, (H, W) in [0, 1], with soft edges."""
    if mesh.map.numel() == 1:
        return torch.zeros(tuple(shape))
    present = (mesh.map > 0).float()[None, None]
    return F.interpolate(present, size=tuple(shape), mode="bilinear")[0, 0]

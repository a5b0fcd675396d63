"""A lattice as a sum of waves: followed block by block, and drawn."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .spectrum import high_pass_gain, lattice_points, ratio_at

_PEAKS = 160  # waves that make up one lattice
_REFINED_BY = 12  # waves, the strongest
_AS_GOOD = 0.97  # share of the best period's power that makes a whole one as good
_PRIOR = 10.0  # how strongly a block is taken to have the lattice that the whole picture has


@dataclass(frozen=True)
class Lattice:
    """A found lattice: complex waves at (fy, fx), of which `kept` is not chance, `gain` times as strong in a block.

    certain: whether a small picture, or the evidence, leaves no doubt that it was added; else little of it is taken.
    """

    frequency: float
    fy: Tensor
    fx: Tensor
    amplitude: Tensor
    kept: Tensor
    gain: Tensor
    block: int
    certain: bool = False

    def share(self, among: Tensor) -> float:
        """Of the energy, what these of the waves (a mask) have: 0 to 1."""
        power = self.amplitude.abs().square()
        return float(power[among].sum() / power.sum())


def peak_points(ratio: Tensor, shape: torch.Size, frequency: float) -> tuple[Tensor, Tensor, Tensor]:
    """(fy, fx, ratio) of the lattice points of `frequency` that stand out, strongest first.

    The lowest ones, where the lattice has most of its energy and a photo too, need to stand out less. They and those on
    the axes, where all of a grid of lines is, come before the others where there are too many.
    """
    fy, fx = lattice_points(frequency, own=False)
    r = ratio_at(ratio, fy, fx, shape)
    low = (fy.abs().maximum(fx) < 2.5 * frequency) & (r > 2)
    lines = ((fy == 0) | (fx == 0)) & (r > 4)
    order = torch.where(low | lines, r + 1e9, r).argsort(descending=True)[:_PEAKS]
    order = order[(r > 4)[order] | low[order]]
    order = order[r[order].argsort(descending=True)]
    return fy[order], fx[order], r[order]


def _waves(f: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """cos and -sin of 2 pi f n for n = 0 .. length - 1: (length, len(f)) each."""
    angle = 2 * math.pi * (torch.arange(length, dtype=torch.float64)[:, None] * f.double())
    return angle.cos().float(), -angle.sin().float()


def demodulate(signal: Tensor, fy: Tensor, fx: Tensor, block: int) -> Tensor:
    """sum of signal * exp(-2 pi i (fy row + fx column)) over every block: complex (len(fy), blocks down, across).

    (H, W) is cut to whole blocks; rows and columns count from the picture's origin.
    """
    down, across = (side // block for side in signal.shape)
    columns, of_wave = torch.unique(fx, return_inverse=True)
    local = torch.cat(_waves(columns, across * block), 1).reshape(across, block, -1)
    turn = torch.complex(*_waves(fy, down * block)).reshape(down, block, -1)
    out = torch.empty(len(fy), down, across, dtype=torch.complex64)
    for row in range(down):  # a row of blocks at a time: all at once would be as large as a picture for every few waves
        part = signal[row * block : (row + 1) * block, : across * block].reshape(block, across, block).transpose(0, 1)
        along = part @ local  # (across, block, 2 columns)
        partial = torch.complex(along[..., : len(columns)], along[..., len(columns) :])
        out[:, row] = (partial[..., of_wave] * turn[row]).sum(1).mT
    return out


def waves(amplitude: Tensor, fy: Tensor, fx: Tensor, shape: torch.Size) -> Tensor:
    """sum of Re(amplitude exp(2 pi i (fy row + fx column))): (H, W)."""
    cos_y, sin_y = _waves(fy, shape[0])
    cos_x, sin_x = _waves(fx, shape[1])
    down = torch.complex(cos_y, -sin_y) * amplitude
    return torch.cat([down.real, down.imag], 1) @ torch.cat([cos_x, sin_x], 1).mT


def block_size(shape: torch.Size) -> int:
    """Side in px of the blocks that the lattice is followed over."""
    return 32 if min(shape) >= 1024 else 16 if min(shape) >= 256 else 8


def _smooth(x: Tensor, size: int = 5) -> Tensor:
    """Sum over size x size blocks, borders repeated; real (..., h, w)."""
    half = size // 2
    flat = x.reshape(-1, 1, *x.shape[-2:])
    padded = torch.nn.functional.pad(flat, (half, half, half, half), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, size, 1).reshape(x.shape) * size * size


def refined(local: Tensor, fy: Tensor, fx: Tensor, period: float, block: int, shape: torch.Size) -> float:
    """The period within one bin of `period` at which the waves add up best over blocks; whole where that is as good.

    local: `demodulate`'s sums at (fy, fx), multiples of 1 / period. A tenth of a bin off costs 3 % of the power.
    """
    strongest = local.abs().sum((1, 2)).argsort(descending=True)[:_REFINED_BY]
    local, fy, fx = local[strongest], fy[strongest], fx[strongest]
    down, across = ((torch.arange(count) + 0.5) * block for count in local.shape[1:])
    bin_of = 1 / max(shape)

    def power(tried: float) -> float:
        off = period / tried - 1
        turn_y = torch.polar(torch.ones(1), -2 * math.pi * off * (fy[:, None] * down).float())
        turn_x = torch.polar(torch.ones(1), -2 * math.pi * off * (fx[:, None] * across).float())
        total = torch.einsum("nyx,ny,nx->n", local, turn_y, turn_x)
        return float(total.abs().square().sum())

    steps = torch.linspace(-1, 1, 41) * bin_of
    tried = {1 / (1 / period + step): power(1 / (1 / period + step)) for step in steps.tolist()}
    best = max(tried, key=lambda one: tried[one])
    whole = max(1, round(best))
    return float(whole) if power(whole) >= _AS_GOOD * tried[best] else best


@dataclass(frozen=True)
class Followed:
    """A lattice followed over the picture.

    heat: (blocks down, across) amplitude in 1/255. share: a block's flat weight. gain: complex (blocks down, across),
    the lattice in a block over that of the whole picture, times the block's share: 1 + 0i times share where it is the
    same. skew: how far its energy differs from that of its mirror images: 0 alike, 1 one way only. coherence: how far
    blocks agree on the phase, 0 to 1.
    """

    lattice: Lattice
    heat: Tensor
    share: Tensor
    gain: Tensor
    skew: float
    coherence: float


def measure(
    residual: Tensor, weight: Tensor, frequency: float, fy: Tensor, fx: Tensor, ratio: Tensor, local: Tensor
) -> Followed:
    """The lattice of these waves, whose sums over blocks are `local`, everywhere in the picture."""
    block = block_size(residual.shape)
    passed = high_pass_gain(fy, fx)[:, None, None].float()
    down, across = local.shape[-2:]
    share = weight[: down * block, : across * block].reshape(down, block, across, block).sum((1, 3))
    amplitude = (2 * local.sum((1, 2)) / share.sum() / passed[:, 0, 0]).to(torch.complex64)
    around = torch.complex(_smooth(local.real), _smooth(local.imag)) * 2 / _smooth(share) / passed
    each = amplitude.abs().square()
    power = each.sum()
    in_phase = (amplitude.conj()[:, None, None] * around).real.sum(0)
    strongest = around[amplitude.abs().argmax()]
    there = share * strongest.abs()  # blocks without the lattice have little say
    coherence = float((there * strongest).sum().abs() / (there * strongest.abs()).sum().clamp_min(1e-9))
    trust = _smooth(share) * power / 4  # signal to noise of a block's own gain
    gain = (trust * in_phase / power + _PRIOR) / (trust + _PRIOR)
    kept = (1 - 1 / ratio).clamp_min(0)
    heat = (in_phase / power.sqrt()).clamp_min(0) * trust / (trust + _PRIOR)
    lattice = Lattice(frequency, fy, fx, amplitude, kept, gain.clamp_min(0), block)
    return Followed(lattice, heat, share, gain_of(local, amplitude, passed), _skew(fy, fx, frequency, each), coherence)


def _skew(fy: Tensor, fx: Tensor, frequency: float, power: Tensor) -> float:
    """How far multiples of `frequency` differ from their mirror images: 0 alike, 1 where none has one.

    A wave across is compared with the one down; a slanting one with that of the other slant, and with itself mirrored
    at the diagonal, and what differs more counts.
    """
    rows, columns = (torch.round(f / frequency).long() for f in (fy, fx))
    straight = (rows == 0) | (columns == 0)
    other_slant = torch.where(straight, columns, -rows), torch.where(straight, rows, columns)
    at_diagonal = torch.where(rows < 0, -columns, columns), rows.abs()
    return max(_difference(rows, columns, image, power) for image in (other_slant, at_diagonal))


def _difference(rows: Tensor, columns: Tensor, image: tuple[Tensor, Tensor], power: Tensor) -> float:
    """Share of the energy by which waves differ from those at their images."""
    images = (rows == image[0][:, None]) & (columns == image[1][:, None])  # of wave i, wave j
    times = 1 + images.any(1)  # a pair is counted from both its ends
    difference = (power - images.float() @ power).abs() / times
    return float(difference.sum() / power.sum())


def gain_of(local: Tensor, amplitude: Tensor, passed: Tensor) -> Tensor:
    """The waves `amplitude` in each block's sums, as a share of themselves times the block's weight: complex."""
    power = amplitude.abs().square().sum().clamp_min(1e-12)
    return (amplitude.conj()[:, None, None] * 2 * local / passed).sum(0) / power


def amplitudes(residual: Tensor, weight: Tensor, lattice: Lattice) -> Tensor:
    """The lattice's waves in this plane: complex amplitudes, shrunk as luma's were."""
    total = demodulate(weight * residual, lattice.fy, lattice.fx, lattice.block).sum((1, 2))
    down, across = (side // lattice.block * lattice.block for side in residual.shape)
    found = 2 * total / weight[:down, :across].sum() / high_pass_gain(lattice.fy, lattice.fx)
    return (found * lattice.kept).to(torch.complex64)


def spread(blocks: Tensor, block: int, shape: torch.Size) -> Tensor:
    """A value per block as a value per px (H, W), bilinear between the centres of blocks."""
    whole = [count * block for count in blocks.shape]
    fine = torch.nn.functional.interpolate(blocks[None, None].float(), size=whole, mode="bilinear")
    extra = (0, shape[1] - whole[1], 0, shape[0] - whole[0])
    return torch.nn.functional.pad(fine, extra, mode="replicate")[0, 0]

"""A lattice taken out of a picture, and nothing else."""

import torch
from torch import Tensor

from .spectrum import background_at, high_passed, lattice_points, luma255, whitened
from .waves import Lattice, amplitudes, spread, waves

_NOTCHED = 0.003  # share of the spectrum that notches may take


def suppress(image_chw: Tensor, lattice: Lattice | None) -> Tensor:
    """The picture (C, H, W) in [0, 1] without the lattice that the inspector found in it, training-free.

    First each channel's own waves at the lattice's frequencies, as strong as the lattice is in each block; then a comb
    of notches, three bins wide, that bring what the whole picture still has at these points down to its background.
    Without a lattice the picture comes back as it is; alpha is untouched.
    """
    if lattice is None:
        return image_chw.clone()
    _, weight = whitened(luma255(image_chw))
    gain = spread(lattice.gain, lattice.block, image_chw.shape[-2:])
    out = image_chw.float().clone()
    for channel in range(min(3, len(out))):
        plane = out[channel] * 255
        amplitude = amplitudes(high_passed(plane), weight, lattice)
        plane = plane - gain * waves(amplitude, lattice.fy, lattice.fx, plane.shape)
        out[channel] = notched(plane, lattice.frequency) / 255
    return out.clamp(0, 1)


def notched(plane: Tensor, frequency: float) -> Tensor:
    """(H, W) with 3x3 bins of its spectrum at every lattice point brought down to their background.

    In a small picture that would be much of the spectrum: where it is over 0.3 %, the plane comes back as it is.
    """
    if 9 / (plane.numel() * frequency**2) > _NOTCHED:
        return plane
    transform = torch.fft.rfft2(plane)
    height, last = transform.shape[0], transform.shape[1] - 1
    fy, fx = lattice_points(frequency, own=False)
    rows, columns = torch.round(fy * height).long(), torch.round(fx * plane.shape[1]).long()
    power = transform.abs().square() + 1e-9
    background = background_at(power.log(), rows, columns)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            i, j = rows + down, columns + across
            inside = (j >= 0) & (j <= last)
            i, j = i[inside] % height, j[inside]
            factor = (background[inside] / power[i, j]).sqrt().clamp(max=1)
            transform[i, j] *= factor
            mirrored = j == 0  # the first column holds both halves
            other = -i[mirrored] % height
            fresh = ~torch.isin(other, i[mirrored])
            transform[other[fresh], 0] *= factor[mirrored][fresh]
    return torch.fft.irfft2(transform, s=plane.shape)


def dithered(image_chw: Tensor, seed: int = 0) -> Tensor:
    """The picture with uniform noise of one 8-bit step, so that rounding to 8 bits does not bring a faint lattice back.

    A lattice below half a step, taken away, would otherwise be rounded to where it was. Alpha gets no noise.
    """
    noise = torch.rand(image_chw.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    noise[3:] = 0
    return (image_chw + noise / 255).clamp(0, 1)

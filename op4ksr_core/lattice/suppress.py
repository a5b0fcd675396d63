"""A lattice taken out of a picture, a mesh calmed, and nothing else."""

import torch
from torch import Tensor

from .mesh import Mesh, mesh_mask
from .reference import added_to, enlarge
from .spectrum import background_at, box, high_passed, lattice_points, luma255, whitened
from .threads import one_thread
from .waves import Lattice, amplitudes, spread, waves

MOST = 8.0
"""1/255: no pixel of a channel is changed by more."""
DOUBTFUL = 0.65
"""1/255, rms over the picture: a lattice that may be the picture's own is changed by no more. That is 51.9 dB, and
still 50 dB after the noise and the rounding of an 8-bit file."""

_NOTCHED = 0.003  # share of the spectrum that notches may take
_PASSES = 2  # the weights of the first are lower on lines of the lattice, so that it takes too little
_CALMED = 9  # px of the mean that a mesh is calmed towards


def suppress(
    image_chw: Tensor, lattice: Lattice | None, reference_chw: Tensor | None = None, mesh: Mesh | None = None
) -> Tensor:
    """The picture (C, H, W) in [0, 1] without the lattice that the inspector found in it, training-free.

    First each channel's own waves at the lattice's frequencies, as strong as the lattice is in each block; then a comb
    of notches, three bins wide, that bring what the whole picture still has at these points down to its background.
    With the small picture (1, 3 or 4, h, w) both are measured on what it does not explain, so that nothing of it is
    touched. A lattice that is not `certain` may be the picture's own: a change above 0.65/255 rms is scaled to that,
    which takes all of a faint one and some of a strong one. `mesh` is calmed too where one is given, to the detail
    that the enlarged small picture has there. No pixel changes by more than 8/255. Without lattice and mesh the
    picture comes back as it is; alpha is untouched. Raises ImageError as `inspect` does on a reference.
    """
    if lattice is None and mesh is None:
        return image_chw.clone()
    with one_thread():
        return _suppressed(image_chw, lattice, reference_chw, mesh)


def _suppressed(image_chw: Tensor, lattice: Lattice | None, reference_chw: Tensor | None, mesh: Mesh | None) -> Tensor:
    out = image_chw.float().clone()
    colours = list(range(min(3, len(out))))
    if lattice is not None:
        explained = [_explained(image_chw, channel, reference_chw) for channel in colours]
        for _ in range(_PASSES):
            luma = luma255(out)
            for channel in colours:
                out[channel] = without(out[channel] * 255, lattice, luma, explained[channel]) / 255
        if not lattice.certain:
            out[colours] = _held_back(image_chw[colours], out[colours])
    if mesh is not None:
        for channel in colours:
            out[channel] += _calming(out[channel] * 255, mesh, channel, reference_chw) / 255
    change = (out - image_chw).clamp_(-MOST / 255, MOST / 255)
    return (image_chw + change).clamp(0, 1)


def _held_back(before_chw: Tensor, after_chw: Tensor) -> Tensor:
    """`after_chw` with its change scaled to DOUBTFUL where it is more."""
    change = after_chw - before_chw
    rms = 255 * float(change.square().mean().sqrt())
    return before_chw + change * min(1.0, DOUBTFUL / max(rms, 1e-9))


def without(plane: Tensor, lattice: Lattice, luma: Tensor, explained: Tensor | None) -> Tensor:
    """One channel (H, W) in 1/255 less the lattice; `explained`, high-passed, is not looked at."""
    _, weight = whitened(luma)
    kept = torch.zeros_like(plane) if explained is None else explained
    amplitude = amplitudes(high_passed(plane) - kept, weight, lattice)
    gain = spread(lattice.gain, lattice.block, plane.shape)
    plane = plane - gain * waves(amplitude, lattice.fy, lattice.fx, plane.shape)
    return notched(plane - kept, lattice.frequency) + kept


def _explained(image_chw: Tensor, channel: int, reference_chw: Tensor | None) -> Tensor | None:
    """What the reference explains of a channel, high-passed (H, W) in 1/255; None without one that tells."""
    if reference_chw is None:
        return None
    small = reference_chw[min(channel, len(reference_chw) - 1)][None]
    found = added_to(image_chw[channel] * 255, small)
    return None if found is None else found.explained


def _calming(plane: Tensor, mesh: Mesh, channel: int, reference_chw: Tensor | None) -> Tensor:
    """What takes the fine detail inside the mesh to that of the enlarged reference, or to none without one."""
    fine = plane - box(plane, _CALMED)
    if reference_chw is not None:
        small = reference_chw[min(channel, len(reference_chw) - 1)].float() * 255
        enlarged = enlarge(small, plane.shape)
        fine = fine - (enlarged - box(enlarged, _CALMED))
    return -mesh_mask(mesh, plane.shape) * fine


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

"""How strong a degradation is: its numbers, and those that were published. No torch."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from ...errors import SettingError

Range = tuple[float, float]
Kernel = Literal["isotropic", "anisotropic", "generalised", "generalised-aniso", "plateau", "plateau-aniso"]
Codec = Literal["libjpeg", "diffjpeg"]
"""Whose JPEG's loss (`jpeg.jpeg`)."""

KERNELS: tuple[Kernel, ...] = get_args(Kernel)


@dataclass(frozen=True)
class Stage:
    """One pass. Ranges are (low, high); sigma in px, noise in 1/255, JPEG in quality 1 to 100.

    kernel: sides of the kernels in px. kernel_odds: of KERNELS, in that order. generalised, plateau: ranges of the
    exponent beta of those, which hold 1; half of the draws lie below 1. sinc: probability of a sinc filter in a
    kernel's place. wide: from this side on it may cut off from pi/5, below it from pi/3. resize: the smallest and the
    largest factor. resize_odds: of larger, smaller, and equal; None draws one factor from all of `resize`. gaussian,
    poisson: one of the two, equally often. grey: probability that noise is the same in all channels.
    """

    blur_sigma: Range = (0.2, 3.0)
    blur_probability: float = 1.0
    kernel: tuple[int, int] = (7, 21)
    kernel_odds: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    generalised: Range = (0.5, 4.0)
    plateau: Range = (1.0, 2.0)
    sinc: float = 0.1
    wide: int = 13
    resize: Range = (0.15, 1.5)
    resize_odds: tuple[float, float, float] | None = (0.2, 0.7, 0.1)
    gaussian: Range = (1.0, 30.0)
    poisson: Range = (0.05, 3.0)
    grey: float = 0.4
    noise_probability: float = 1.0
    jpeg: Range = (30.0, 95.0)
    jpeg_probability: float = 1.0


@dataclass(frozen=True)
class Degradation:
    """Two stages, then 1/scale, which a training chooses (`at_scale`). final_sinc: probability of the last sinc filter,
    which comes before or after the last JPEG equally often. resizers: names that every resize draws from: area,
    bilinear and bicubic are torch's, without a filter against aliasing, as in Real-ESRGAN; lanczos has one. codec:
    whose JPEG. rounded: to 8 bits at the end."""

    first: Stage = Stage()
    second: Stage = Stage(
        blur_sigma=(0.2, 1.5),
        blur_probability=0.8,
        resize=(0.3, 1.2),
        resize_odds=(0.3, 0.4, 0.3),
        gaussian=(1.0, 25.0),
        poisson=(0.05, 2.5),
    )
    scale: int = 4
    final_sinc: float = 0.8
    resizers: tuple[str, ...] = ("area", "bilinear", "bicubic")
    codec: Codec = "diffjpeg"
    rounded: bool = True

    def at_scale(self, scale: int) -> "Degradation":
        """The same that makes 1/scale of the side. Raises SettingError where the degradation leaves pictures alone."""
        if self == NONE and scale != 1:
            raise SettingError(f"The degradation none keeps the picture's size: scale must be 1, got {scale}.")
        return replace(self, scale=scale)


REAL_ESRGAN = Degradation()
"""Real-ESRGAN's own numbers, which OSEDiff (arXiv 2406.08177) trains with."""

MILD = Degradation(
    first=Stage(resize=(0.3, 1.5), gaussian=(1.0, 15.0), poisson=(0.05, 2.0), jpeg=(60.0, 95.0)),
    second=replace(
        REAL_ESRGAN.second,
        blur_probability=0.5,
        resize=(0.6, 1.2),
        gaussian=(1.0, 12.0),
        poisson=(0.05, 1.0),
        jpeg=(60.0, 100.0),
    ),
)
"""The milder numbers of S3Diff (arXiv 2409.17058) and OMGSR (2508.08227)."""

OMGSR = MILD

OMGSR_F = Degradation(
    first=replace(MILD.first, kernel=(11, 41), wide=25),
    second=replace(MILD.second, kernel=(11, 41), wide=25),
    scale=8,
)
"""OMGSR-F's for crops of 1024 px, as its code has it: larger kernels, and x8."""

EMBEDDED = Degradation(
    first=Stage(
        blur_sigma=(0.2, 2.4),
        blur_probability=0.9,
        sinc=0.0,
        resize=(0.8, 1.1),
        resize_odds=None,
        gaussian=(0.0, 3.0),
        poisson=(0.0, 0.2),
        noise_probability=0.3,
        jpeg=(80.0, 98.0),
        jpeg_probability=0.2,
    ),
    second=Stage(
        blur_sigma=(0.2, 0.8),
        blur_probability=0.2,
        sinc=0.0,
        resize=(0.9, 1.1),
        resize_odds=None,
        gaussian=(0.0, 3.0),
        poisson=(0.0, 0.2),
        noise_probability=0.3,
        jpeg=(85.0, 100.0),
        jpeg_probability=0.3,
    ),
    final_sinc=0.0,
    resizers=("lanczos",),
    codec="libjpeg",
    rounded=False,
)
"""What a camera or a good web picture has been through; the embedded model keeps the LR's own band."""

NONE = Degradation(scale=1, rounded=False)
"""The picture itself: for the stages that learn from clean pictures."""

DEGRADATIONS = {
    "none": NONE,
    "omgsr": OMGSR,
    "omgsr-f": OMGSR_F,
    "s3diff": MILD,
    "osediff": REAL_ESRGAN,
    "real-esrgan": REAL_ESRGAN,
    "embedded": EMBEDDED,
}

"""Measures of one picture against its ground truth that need no downloaded weights.

Pictures are (1, 3, H, W) float32 in [0, 1] and should hold what an 8-bit file would (`quantised`). Where it is not said
otherwise a measure looks at BT.601 limited-range luma, as the field's tables do (OP4KSR, arXiv 2605.13457, section 4).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ImageError, NotMeasurable
from ..lattice.autocorrelation import autocorrelation_loss
from ..lattice.inspector import inspect
from ..picture.luma import LIMITED_RANGE

_SSIM_WINDOW = 11
_MS_SSIM_SIDE = 161
_VIF_SIDE = 41


def luma(x_bchw: Tensor) -> Tensor:
    """BT.601 limited-range Y, (B, 1, H, W) in [16, 235] / 255."""
    weights = x_bchw.new_tensor(LIMITED_RANGE)
    return (torch.einsum("bchw,c->bhw", x_bchw, weights)[:, None] + 16) / 255


def quantised(x_bchw: Tensor) -> Tensor:
    """What an 8-bit file would hold."""
    return (x_bchw.clamp(0, 1) * 255).round() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise ratio of luma in dB; infinite for equal pictures."""
    error = (luma(a).double() - luma(b).double()).square().mean()
    return float(-10 * torch.log10(error))


def psnr_of_colour(a: Tensor, b: Tensor) -> float:
    """The same of all channels at once, in dB."""
    return float(-10 * torch.log10((a - b).double().square().mean()))


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of luma (Wang et al. 2004): Gaussian window of 11 px, sigma 1.5, where it lies inside.

    As in pyiqa, with which the field's tables are made, luma is rounded to 8 bits as by MATLAB, and places where it is
    negative count as 0. Taken in float64: in float32 a picture against itself has less than 1.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_side(a, _SSIM_WINDOW, "SSIM")
    a, b = (quantised(luma(x.double())) for x in (a, b))
    full = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)[1]
    edge = _SSIM_WINDOW // 2  # torchmetrics pads by reflection and averages over that too
    return float(full[..., edge:-edge, edge:-edge].clamp_min(0).mean())


def ms_ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of luma over five scales (Wang et al. 2003)."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    _check_side(a, _MS_SSIM_SIDE, "MS-SSIM")
    return float(multiscale_structural_similarity_index_measure(luma(a.double()), luma(b.double()), data_range=1.0))


def vif(a: Tensor, b: Tensor) -> float:
    """Visual information fidelity of luma in the pixel domain (Sheikh and Bovik 2006)."""
    from torchmetrics.functional.image import visual_information_fidelity

    _check_side(a, _VIF_SIDE, "VIF")
    return float(visual_information_fidelity(luma(a.double()) * 255, luma(b.double()) * 255))


def gmsd(a: Tensor, b: Tensor) -> float:
    """Gradient magnitude similarity deviation of luma (Xue et al. 2014); 0 for equal pictures."""
    _check_side(a, 4, "GMSD")
    ga, gb = _gradient(luma(a)), _gradient(luma(b))
    return float(((2 * ga * gb + 170) / (ga**2 + gb**2 + 170)).std())


def _gradient(y: Tensor) -> Tensor:
    """Prewitt gradient magnitude of luma in 0 to 255, at half the size."""
    kernel = torch.tensor([[1.0, 0, -1]] * 3)[None, None] / 3
    x = F.avg_pool2d(y * 255, 2)
    return (F.conv2d(x, kernel, padding=1) ** 2 + F.conv2d(x, kernel.mT, padding=1) ** 2).sqrt()


def l_ap(a: Tensor, b: Tensor) -> float:
    """L_AP (OP4KSR, arXiv 2605.13457): squared difference of the autocorrelations at lags 8 to 40 px, of RGB."""
    return float(autocorrelation_loss(a, b))


def periodicity(a: Tensor, truth: Tensor | None = None) -> float:
    """The periodicity inspector's score, 0 (no lattice) to 1; with a ground truth, of what that does not explain.

    Raises NotMeasurable where the truth shows something else, or the picture is too small.
    """
    try:
        return inspect(a[0], None if truth is None else truth[0]).score
    except ImageError as error:
        raise NotMeasurable(str(error)) from error


def _check_side(x: Tensor, side: int, name: str) -> None:
    if min(x.shape[-2:]) < side:
        raise ImageError(f"{name} needs sides of {side} px or more, got {x.shape[-1]}x{x.shape[-2]} px.")

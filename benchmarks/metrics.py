"""Full-reference metrics on luma, as the field reports them. Pictures are (1, 3, H, W) in [0, 1]."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
    visual_information_fidelity,
)

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "ms_ssim": True, "vif": True, "gmsd": False}


def luma(x_bchw: Tensor) -> Tensor:
    """BT.601 limited-range Y, (1, 1, H, W) in [16, 235] / 255."""
    weights = x_bchw.new_tensor([65.481, 128.553, 24.966])
    return (torch.einsum("bchw,c->bhw", x_bchw, weights)[:, None] + 16) / 255


def quantised(x_bchw: Tensor) -> Tensor:
    """What an 8-bit file would hold."""
    return (x_bchw.clamp(0, 1) * 255).round() / 255


def gmsd(a: Tensor, b: Tensor) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014) of two luma pictures in [0, 1]."""
    kernel = torch.tensor([[1.0, 0, -1]] * 3)[None, None] / 3

    def gradient(x: Tensor) -> Tensor:
        x = F.avg_pool2d(x * 255, 2)
        return (F.conv2d(x, kernel, padding=1) ** 2 + F.conv2d(x, kernel.mT, padding=1) ** 2).sqrt()

    ga, gb = gradient(a), gradient(b)
    return float(((2 * ga * gb + 170) / (ga**2 + gb**2 + 170)).std())


def all_metrics(picture: Tensor, truth: Tensor) -> dict[str, float]:
    """The five metrics of HIGHER_IS_BETTER."""
    a, b = luma(quantised(picture)), luma(quantised(truth))
    return {
        "psnr": float(-10 * torch.log10((a - b).pow(2).mean())),
        "ssim": float(structural_similarity_index_measure(a, b, data_range=1.0)),
        "ms_ssim": float(multiscale_structural_similarity_index_measure(a, b, data_range=1.0)),
        "vif": float(visual_information_fidelity(a * 255, b * 255)),
        "gmsd": gmsd(a, b),
    }


def lattice_decibels(picture: Tensor, period: int = 32, patch: int = 128) -> float:
    """Phase-locked energy of a `period`-px lattice over what chance alone would leave, in dB (0: none).

    Luma is high-passed and clipped to 3/255, so that flat areas speak and edges hardly do. Spectra of
    patches that start at multiples of `patch` px are averaged as complex numbers: a lattice locked to
    the origin adds up, content does not. The ratio is taken over the lattice points (k, l)/period with
    k or l odd, against the power that N patches of random phase would keep, 1/N of their mean power.
    """
    y = luma(picture)[0, 0] * 255
    fine = (y - F.avg_pool2d(y[None, None], 9, 1, 4, count_include_pad=False)[0, 0]).clamp(-3, 3)
    patches = fine.unfold(0, patch, patch).unfold(1, patch, patch).reshape(-1, patch, patch)
    window = torch.hann_window(patch, periodic=True)
    spectra = torch.fft.fft2(patches * window[:, None] * window)
    together = spectra.mean(0).abs() ** 2
    by_chance = (spectra.abs() ** 2).mean(0) / len(patches)
    index = torch.arange(patch)
    on = index % (patch // period) == 0
    odd = index % (2 * patch // period) == patch // period
    points = (on[:, None] & on) & (odd[:, None] | odd)
    return float(10 * torch.log10(together[points].sum() / by_chance[points].sum()))

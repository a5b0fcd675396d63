"""Adversarial loss on the features of a frozen network, one spectrally normalised head per level, with DiffAugment.

As OMGSR has it (arXiv 2508.08227): the first three stages of a DINOv3 ConvNeXt, heads whose strides are blur-pooled
(arXiv 1904.11486), binary cross-entropy with soft targets 0.8 and 0, losses summed over the levels, and DiffAugment
(arXiv 2006.10738).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ...picture.precision import at_least_single

REAL, FAKE = 0.8, 0.0
LEVELS = 3
"""Stages of the backbone that are looked at, the finest first."""

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def discriminator_loss(real: list[Tensor], fake: list[Tensor], kind: str = "bce") -> Tensor:
    """What the heads learn from their logits of real and of made pictures: summed over levels, a scalar."""
    parts = []
    for r, f in zip(real, fake, strict=True):
        if kind == "hinge":
            parts.append((F.relu(1 - at_least_single(r)).mean() + F.relu(1 + at_least_single(f)).mean()) / 2)
        else:
            parts.append((_bce(r, REAL) + _bce(f, FAKE)) / 2)
    return torch.stack(parts).sum()


def generator_loss(fake: list[Tensor], kind: str = "bce") -> Tensor:
    """What the made pictures learn: to be taken for real. Summed over levels, a scalar."""
    return torch.stack([-at_least_single(f).mean() if kind == "hinge" else _bce(f, REAL) for f in fake]).sum()


def _bce(logits: Tensor, target: float) -> Tensor:
    logits = at_least_single(logits)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def diff_augment(x_bchw: Tensor, seeds: Sequence[int]) -> Tensor:
    """Random brightness, saturation, contrast, shift by up to an eighth, and a cut-out of half a side; differentiable.

    A seed per picture: equal seeds give equal changes, so that real and made pictures can be changed alike.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def dice(low: float, high: float) -> Tensor:
        numbers = torch.stack([torch.rand(1, 1, 1, generator=generator) for generator in generators])
        return (low + (high - low) * numbers).to(x_bchw)

    x = x_bchw + dice(-0.5, 0.5)
    x = _towards(x, x.mean(1, keepdim=True), dice(0, 2))
    x = _towards(x, x.mean((1, 2, 3), keepdim=True), dice(0.5, 1.5))
    height, width = x.shape[-2:]
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    down, across = ((dice(-1, 1) * side / 8).round().long().view(-1, 1) for side in (height, width))
    i, j = rows + down, columns + across
    inside = ((i >= 0) & (i < height))[:, :, None] & ((j >= 0) & (j < width))[:, None]
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    i, j = i.clamp(0, height - 1)[:, :, None], j.clamp(0, width - 1)[:, None]
    x = x.permute(0, 2, 3, 1)[batch, i, j].permute(0, 3, 1, 2) * inside[:, None]
    top, left = ((dice(0, 1) * side).view(-1, 1) for side in (height, width))
    cut = ((rows - top).abs() < height / 4)[:, :, None] & ((columns - left).abs() < width / 4)[:, None]
    return x * ~cut[:, None]


def _towards(x: Tensor, centre: Tensor, share: Tensor) -> Tensor:
    return centre + (x - centre) * share


class Discriminator(nn.Module):
    """A frozen network that gives feature maps, and a small head on each: pictures in [0, 1] -> logits per level."""

    def __init__(self, features: nn.Module, widths: list[int]):
        super().__init__()
        self.features = features.requires_grad_(False).eval()
        self.heads = nn.ModuleList(_head(width) for width in widths)

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        mean, deviation = (image_bchw.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _DEVIATION))
        maps = self.features((image_bchw - mean) / deviation)
        return [head(x.float()) for head, x in zip(self.heads, maps, strict=True)]

    def train(self, mode: bool = True) -> "Discriminator":
        """The features stay in evaluation mode."""
        super().train(mode)
        self.features.eval()
        return self


class PatchCritic(nn.Module):
    """A PatchGAN that sees 70 px (Isola et al. 2017): pictures in [0, 1] -> logits of overlapping patches.

    Spectrally normalised where the original has batch norms, so that a picture's logits do not depend on its batch.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for source, to, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            layers += [spectral_norm(nn.Conv2d(source * width, to * width, 4, stride, 1)), nn.LeakyReLU(0.2)]
        self.heads = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 1))

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        return [self.heads(image_bchw * 2 - 1).float()]


def _head(width: int) -> nn.Sequential:
    inner = min(width, 256)
    return nn.Sequential(
        spectral_norm(nn.Conv2d(width, inner, 3, padding=1)),
        nn.LeakyReLU(0.2),
        BlurPool(inner),
        spectral_norm(nn.Conv2d(inner, inner, 3, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(inner, 1, 1)),
    )


class BlurPool(nn.Module):
    """Halves the sides of (B, C, h, w) behind a binomial blur, so that what a head says hardly changes with a shift."""

    kernel: Tensor

    def __init__(self, width: int):
        super().__init__()
        taps = torch.tensor([0.125, 0.375, 0.375, 0.125])
        self.register_buffer("kernel", (taps[:, None] * taps).expand(width, 1, 4, 4).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 2, 1, 2), mode="replicate")
        return F.conv2d(padded, self.kernel.to(x.dtype), stride=2, groups=x.shape[1])

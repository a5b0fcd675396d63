"""Stage d: the detail network (op4ksr_core.compensation): a faithful one, then its texture.

The faithful one learns from a sharp teacher, whose output is one picture, a function of the small one, and from the
truth. Its texture comes from a small conditional GAN on the high band. Three guards stand beside that: a high-passed,
normalised L_AP at the network's own pitches (4 px and its multiples), without which it makes a lattice; LDL
(arXiv 2203.09195), which punishes what the net draws otherwise than its average does and is far from the truth; and the
soft-area guard, which punishes detail where the truth has none.
"""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from op4ksr_core.model.compensation import HighFrequencyCompensation, network_of
from op4ksr_core.picture.soft_areas import luma
from op4ksr_core.train.losses.detail import (
    LUMA_SHIPPED,
    colour_error,
    low,
    scale_detail,
    soft_guard,
)

from .crop_pool import HeldOut, enlarged
from .crops import Restorer, Source
from .figures import energy_and_correlation, lattice, psnr
from .loop import Figures, Loop, read, write
from .networks import half_where_fast

WIDTH, BLOCKS = 64, 10

CROPS = {"cpu": 8, "cuda": 64}
"""Crops a step."""

TRUTH = 8.0
"""Weight of the truth's squared error beside the target's L1."""

COLOUR = 1.0
"""Weight of the L1 of the colour differences, which brightness does not see."""

SOFT_WEIGHT = 4.0
"""Weight of detail that is stronger than the truth's where that is soft."""

LAGS = (1, 2, 3, 4, 8, 12, 16, 32)
"""px; the pitches of PixelShuffle (4), of the VAE (16) and of a token (32) are among them."""


LDL = 1.0
"""Weight of `artefacts`."""


def new_network(start: Path | None = None) -> HighFrequencyCompensation:
    """The network of `start`, else a new one by Kaiming: with torch's default nothing is learned in ten minutes."""
    if start is not None:
        return network_of(read(start)).to(memory_format=torch.channels_last)
    module = HighFrequencyCompensation(WIDTH, BLOCKS)
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, a=0.25)
            nn.init.zeros_(part.bias)
            if name.endswith("second"):
                part.weight.data *= 0.3
    module.tail.weight.data *= 0.05
    return module.to(memory_format=torch.channels_last)


def forward(module: nn.Module, lr: Tensor, picture: Tensor) -> Tensor:
    """The picture with its detail, in bfloat16 where a CPU has it."""
    with half_where_fast(lr.device):
        return picture + module(lr, picture.contiguous(memory_format=torch.channels_last)).float()


def correlations(x: Tensor) -> Tensor:
    """(B, 3, H, W) -> (lags, 2, B): autocorrelation of the high-passed picture over its variance."""
    x = x - _binomial(x)
    rows = [
        torch.stack([(x[..., k:, :] * x[..., :-k, :]).mean((1, 2, 3)), (x[..., k:] * x[..., :-k]).mean((1, 2, 3))])
        for k in LAGS
    ]
    return torch.stack(rows) / (x.square().mean((1, 2, 3)) + 1e-5)


def guard(made: Tensor, truth: Tensor) -> Tensor:
    """High-passed, normalised L_AP."""
    return (correlations(made) - correlations(truth)).square().mean()


def artefacts(made: Tensor, average: Tensor, truth: Tensor) -> Tensor:
    """After LDL (arXiv 2203.09195; not compared with its code): L1 to the truth, weighted by how much its residual
    varies in 7x7 px, where the averaged network is nearer to the truth."""
    residual = luma((made - truth).abs())[:, None]
    smoother = luma((average - truth).abs())[:, None]
    mean = F.avg_pool2d(residual, 7, 1, 3)
    local = (F.avg_pool2d(residual.square(), 7, 1, 3) - mean.square()).clamp(min=0)
    whole = residual.var((1, 2, 3), keepdim=True) ** 0.2
    weight = (whole * local * (residual > smoother)).detach()
    return (weight * (made - truth).abs()).mean()


def _binomial(x: Tensor) -> Tensor:
    line = x.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])


class Critic(nn.Module):
    """Judges the high band of a picture beside the enlarged small one, in patches."""

    def __init__(self, width: int = 32):
        super().__init__()

        def conv(source: int, to: int, kernel: int, stride: int) -> nn.Module:
            return spectral_norm(nn.Conv2d(source, to, kernel, stride, 1))

        leak = nn.LeakyReLU(0.2)
        self.layers = nn.Sequential(
            conv(6, width, 3, 1), leak, conv(width, 2 * width, 4, 2), leak, conv(2 * width, 2 * width, 3, 1), leak,
            conv(2 * width, 4 * width, 4, 2), leak, conv(4 * width, 1, 3, 1),
        )  # fmt: skip

    def forward(self, picture: Tensor, up: Tensor) -> Tensor:
        return self.layers(torch.cat([picture - low(picture), up - 0.5], 1)).float()


def figures_of(held_out: HeldOut, restorer: Restorer) -> Callable[[nn.Module], Figures]:
    """Of the held-out crops. The score asks for right detail, and punishes a lattice and, a little, too faint or too
    strong detail, which `scale` can mend; `without` is the right detail of the picture that the network is given."""
    lr, hr = held_out.lr, held_out.hr
    picture = torch.cat([restorer(*pair) for pair in zip(lr.split(8), hr.split(8), strict=True)])
    _, without = energy_and_correlation(picture, hr)

    def figures(module: nn.Module) -> Figures:
        with torch.no_grad():
            made = torch.cat([forward(module, *part) for part in zip(lr.split(8), picture.split(8), strict=True)])
        energy, correlation = energy_and_correlation(made, hr)
        grid = lattice(made, hr)
        score = correlation - 0.002 * abs(energy) - 0.2 * grid
        values = {
            "psnr": psnr(made, hr),
            "hf_energy_db": energy,
            "hf_correlation": correlation,
            "without": without,
            "lattice": grid,
        }
        return values | {"score": score}

    return figures


def train_faithful(
    run: Path,
    name: str,
    minutes: float,
    start: Path | None,
    source: Source,
    figures: Callable[[nn.Module], Figures],
    device: torch.device,
    rate: float | None = None,
    teach: float = 1.0,
) -> None:
    """L1 to the teacher's picture (`teach` of it, the rest the truth); where that is clearly wrong (0.06 and more), the
    truth's mean wins."""
    rate = rate or (3e-4 if start is None else 1e-4)  # from 1e-3 on it diverges
    module = new_network(start).to(device)
    settings = {"width": module.head.out_channels, "blocks": len(module.body), "teach": teach}
    loop = Loop(name, run, module, minutes, rate, settings, muon=(4,))

    def loss(rng: random.Random, step: int) -> Tensor:
        batch = source(rng, CROPS[device.type])
        made, target = forward(loop.module, batch.lr, batch.picture), batch.hr.lerp(batch.target, teach)
        near = (made - target).abs().mean() + TRUTH * (made - batch.hr).square().mean()
        shown = batch.picture + LUMA_SHIPPED * (made - batch.picture)
        return near + COLOUR * colour_error(made, batch.hr) + SOFT_WEIGHT * soft_guard(shown, batch.hr)

    loop.train(loss, figures)


def train_textured(
    run: Path,
    name: str,
    minutes: float,
    start: Path | None,
    source: Source,
    figures: Callable[[nn.Module], Figures],
    device: torch.device,
    rate: float = 2e-4,
    near: float = 1.0,
    gan: float = 0.01,
    periodicity: float = 2.0,
) -> None:
    """The GAN on the high band, the truth and its low band beside it, L_AP as its guard."""
    if start is None:
        raise SystemExit("Texture begins with a faithful network: name its weights with --start.")
    critic = Critic().to(device, memory_format=torch.channels_last)
    against = torch.optim.Adam(critic.parameters(), 4e-4, betas=(0.5, 0.99))
    module = new_network(start).to(device)
    settings = {"width": module.head.out_channels, "blocks": len(module.body), "gan": gan, "periodicity": periodicity}
    settings |= {"lags": list(LAGS), "near": near}
    extra = {"critic": critic, "against": against}
    loop = Loop(name, run, module, minutes, rate, settings, 0.99, (0.5, 0.99), extra)

    def loss(rng: random.Random, step: int) -> Tensor:
        batch = source(rng, CROPS[device.type] * 3 // 4)
        up = enlarged(batch.lr)
        made = forward(loop.module, batch.lr, batch.picture)
        with half_where_fast(device):
            real, fake = critic(batch.hr, up), critic(made.detach(), up)
        judged = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        against.zero_grad()
        judged.backward()
        against.step()
        critic.requires_grad_(False)
        with half_where_fast(device):
            opinion = critic(made, up).mean()
        critic.requires_grad_(True)
        with torch.no_grad():
            average = forward(loop.average, batch.lr, batch.picture)
        close = near * (made - batch.target).abs().mean() + (low(made) - low(batch.hr)).abs().mean()
        close = close + COLOUR * colour_error(made, batch.hr) + SOFT_WEIGHT * soft_guard(made, batch.hr)
        guarded = periodicity * guard(made, batch.hr) + LDL * artefacts(made, average, batch.hr)
        return close + guarded - gan * min(1.0, step / 150) * opinion

    loop.train(loss, figures)


def grow(start: Path, to: Path, width: int = WIDTH, blocks: int = BLOCKS) -> None:
    """A network of `width` channels and `blocks` blocks that adds what a smaller one adds: its weights, new channels
    that nothing reads yet, and new blocks behind its own that change nothing yet."""
    old = dict(network_of(read(start)).named_modules())
    grown = HighFrequencyCompensation(width, blocks)
    with torch.no_grad():
        for name, layer in grown.named_modules():
            if not isinstance(layer, nn.Conv2d):
                continue
            nn.init.kaiming_normal_(layer.weight, a=0.25)
            nn.init.zeros_(layer.bias)
            if name not in old:
                if name.endswith("second"):
                    layer.weight.zero_()
                continue
            own = old[name]
            rows, columns = own.weight.shape[:2]
            layer.weight[:rows].zero_()
            layer.weight[:rows, :columns] = own.weight
            layer.weight[rows:] *= 0.3 if name.endswith("second") else 1.0
            layer.bias[:rows] = own.bias
    write(to, grown.state_dict())


def scale(start: Path, to: Path, luma: float, chroma: float) -> None:
    """The network's detail times `luma` in brightness and `chroma` in colour, by its last convolution.

    L1 makes detail fainter than it is; more of it in colour draws fringes.
    """
    module = network_of(read(start))
    scale_detail(module, luma, chroma)
    write(to, module.state_dict())


def average(first: Path, second: Path, share: float, to: Path) -> None:
    """(1 - share) of the first network's weights and share of the second's: between faithful and textured."""
    a, b = (read(path) for path in (first, second))
    write(to, {key: value.lerp(b[key], share) for key, value in a.items()})

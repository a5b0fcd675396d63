"""One step of Stable Diffusion's UNets, whose kind of prediction differs from a flow's.

z_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, abar the cumulative product of 1 - beta; the UNet predicts eps
(`epsilon`) or v = sqrt(abar) eps - sqrt(1 - abar) x0 (`v_prediction`). OSEDiff (arXiv 2406.08177) and TVT (2507.20291)
read the latent of the enlarged picture as z_t and take x0 in one step; it is neither noised nor scaled.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import SettingError
from ..settings import UpscaleSettings, check_choice, check_range
from .interfaces import PictureEncoder, Unet

Prediction = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)

TRAIN_STEPS = 1000
_BETAS = (0.00085, 0.012)

FEATURE_SIDE = 518
"""px that DINOv2 sees a picture at: 37x37 tokens of 14 px and one for the whole. F2IDiff-SR's paper does not say."""

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def alpha_bars() -> Tensor:
    """abar of the 1000 timesteps, float64: Stable Diffusion's schedule, linear in the root of beta."""
    first, last = (beta**0.5 for beta in _BETAS)
    betas = torch.linspace(first, last, TRAIN_STEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def alpha_bar(timestep: int) -> float:
    """abar at a timestep from 0 to 999. Raises SettingError outside."""
    return float(alpha_bars()[int(check_range("The timestep", timestep, 0, TRAIN_STEPS - 1))])


def check_one_step(settings: UpscaleSettings) -> None:
    """Raises SettingError where the settings ask for what only a flow model has."""
    asked = [
        name
        for name, wanted in (
            ("theta or scheme (rope)", settings.rope is not None),
            (f"{settings.steps} steps", settings.steps > 1),
            (f"noise {settings.noise:g}", settings.noise > 0),
        )
        if wanted
    ]
    if asked:
        raise SettingError(
            f"A Stable Diffusion UNet takes one step and has no RoPE: leave out {', '.join(asked)}, or use a FLUX "
            "model."
        )


def clean(z_t: Tensor, prediction: Tensor, bar: Tensor | float, kind: Prediction = "epsilon") -> Tensor:
    """x0 of a state z_t and what the UNet predicts of it, float32; `bar` is abar, a number or shaped to broadcast.

    At timestep 999 of `epsilon` x0 is a difference of numbers 15 times as large, which bfloat16 cannot hold.
    """
    check_choice("The prediction", kind, PREDICTIONS)
    bar = torch.as_tensor(bar, dtype=torch.float32, device=z_t.device)
    z, p = z_t.float(), prediction.float()
    if kind == "v_prediction":
        return bar.sqrt() * z - (1 - bar).sqrt() * p
    return (z - (1 - bar).sqrt() * p) / bar.sqrt()


def noised(x0: Tensor, noise: Tensor, bar: Tensor | float) -> Tensor:
    """The state of a clean latent at abar."""
    bar = torch.as_tensor(bar, dtype=torch.float32, device=x0.device)
    return bar.sqrt() * x0 + (1 - bar).sqrt() * noise


def target(x0: Tensor, noise: Tensor, bar: Tensor, kind: Prediction) -> Tensor:
    """What a UNet of this kind is trained to predict of `noised`: the noise, or v."""
    return noise if kind == "epsilon" else bar.sqrt() * noise - (1 - bar).sqrt() * x0


def noised_at_random(
    x0: Tensor, seeds: Tensor, stream: int, bars: Tensor, span: tuple[float, float] = (0.0, 1.0)
) -> tuple[Tensor, Tensor, Tensor]:
    """(state, timesteps, noise) of clean latents at timesteps in `span`, a share of all; each sample's from its own
    seed and stream. `bars` is abar of every timestep."""
    generators = [torch.Generator().manual_seed(int(seed) + 7_919 * stream) for seed in seeds]
    low, high = (round(TRAIN_STEPS * share) for share in span)
    at = torch.stack([torch.randint(low, high, (), generator=g) for g in generators]).to(x0.device)
    noise = torch.stack([torch.randn(x0.shape[1:], generator=g) for g in generators]).to(x0)
    return noised(x0, noise, bars[at].view(-1, 1, 1, 1)), at, noise


def unet_prediction(unet: Unet, z: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
    """What a diffusers UNet predicts, float32, in the shape of z (B, 4, h, w).

    timestep is (B,), condition (1 or B, L, D).
    """
    dtype = unet.dtype
    tokens = condition.to(z.device, dtype).expand(len(z), -1, -1)
    predicted: Tensor = unet(z.to(dtype), timestep, encoder_hidden_states=tokens).sample
    return predicted.float()


def picture_tokens(extractor: PictureEncoder, picture_bchw: Tensor) -> Tensor:
    """DINOv2's tokens (B, 1370, D), float32, of pictures (B, 3, H, W) in [0, 1]: what F2IDiff-SR is conditioned by."""
    size = (FEATURE_SIDE, FEATURE_SIDE)
    small = F.interpolate(picture_bchw, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (small.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _DEVIATION))
    tokens: Tensor = extractor(pixel_values=(small - mean) / deviation).last_hidden_state
    return tokens.float()

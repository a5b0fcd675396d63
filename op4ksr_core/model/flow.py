"""Mid-timestep flow matching in FLUX's convention, and FLUX's token packing.

z_sigma = (1 - sigma) z_HR + sigma * eps; the transformer predicts v = eps - z_HR. OP4KSR
(arXiv 2605.13457) reads the low-resolution latent as the state at sigma_mid and takes one step:
z_HR = z_LR - sigma * v(z_LR, sigma). The latent goes in unscaled, with no noise added.
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from ..errors import SettingError
from ..settings import check_range, check_sigma
from .interfaces import Transformer

Velocity = Callable[[Tensor, float], Tensor]
"""(latent (B, C, H, W), sigma in (0, 1]) -> velocity of the same shape."""


def pack(z: Tensor) -> Tensor:
    """Latent (B, C, 2h, 2w) -> tokens (B, h*w, 4C), channel order (c, ph, pw)."""
    return rearrange(z, "b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=2, pw=2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, h*w, 4C) -> latent (B, C, height, width); height = 2h and width = 2w in latent px."""
    return rearrange(tokens, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=height // 2, w=width // 2, ph=2, pw=2)


def image_ids(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Positions (h*w, 3) as (0, row, column) of the tokens of a (height, width) latent, float32."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return rearrange(torch.stack([torch.zeros_like(rows), rows, columns]), "a h w -> (h w) a").float().to(device)


def transformer_velocity(
    model: Transformer, z: Tensor, sigma: Tensor, prompt: Tensor, pooled: Tensor, guidance: float = 1.0
) -> Tensor:
    """v(z, sigma) of a diffusers FLUX transformer, float32, in the shape of the latent z (B, C, H, W).

    sigma is (B,) in (0, 1]; prompt (1, L, D) and pooled (1, P) are shared by the batch; guidance is left out for
    models that have no such input.
    """
    batch, _, height, width = z.shape
    dtype = model.dtype
    tokens = model(
        hidden_states=pack(z).to(dtype),
        timestep=sigma,
        guidance=torch.full((batch,), guidance, device=z.device) if model.config.guidance_embeds else None,
        encoder_hidden_states=prompt.to(z.device, dtype).expand(batch, -1, -1),
        pooled_projections=pooled.to(z.device, dtype).expand(batch, -1),
        img_ids=image_ids(height, width, z.device),
        txt_ids=torch.zeros(prompt.shape[1], 3, device=z.device),
        return_dict=False,
    )[0]
    return unpack(tokens.float(), height, width)


def sigma_schedule(sigma_mid: float, steps: int = 1) -> list[float]:
    """steps + 1 sigmas, evenly spaced from sigma_mid down to 0."""
    check_sigma(sigma_mid)
    if steps < 1:
        raise SettingError(f"At least one step is needed, got {steps}.")
    return [sigma_mid * (steps - i) / steps for i in range(steps + 1)]


def draw_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Gaussian noise on the CPU, float32: the same for the same seed on every device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def add_noise(z: Tensor, eps: Tensor, sigma: float, noise: float) -> Tensor:
    """The start of the flow: (1 - n) z_LR + n ((1 - sigma) z_LR + sigma * eps), n = noise in [0, 1].

    At 0 the latent goes in as it is (OP4KSR). At 1 it is the state that a flow model without such an adapter
    was trained on (SDEdit, arXiv 2108.01073, in flow matching's form).
    """
    amount = check_range("Noise", noise, 0, 1) * sigma
    return z * (1 - amount) + eps * amount if amount else z


def noised_start(z: Tensor, sigma: float, noise: float, seed: int) -> Tensor:
    """The latent with `noise` times sigma's own noise, drawn from `seed`; itself at 0."""
    return add_noise(z, draw_noise(z.shape, seed).to(z), sigma, noise) if noise else z


def euler(z: Tensor, velocity: Velocity, sigmas: Sequence[float]) -> Tensor:
    """Euler integration of dz/dsigma = v from sigmas[0] to sigmas[-1]; two sigmas are OP4KSR's one step."""
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        z = z + (following - sigma) * velocity(z, sigma)
    return z


def clean_latent(z_sigma: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The flow's estimate of z_HR: z_sigma - sigma * v; sigma is (B,)."""
    return z_sigma - sigma.view(-1, 1, 1, 1) * velocity


def estimate_sigma(pairs: Sequence[tuple[Tensor, Tensor]], grid: int = 1000) -> float:
    """OMGSR's mid-timestep (arXiv 2508.08227): argmin over sigma of mean |SNR_sigma - SNR_LR|.

    `pairs` holds (z_HR, z_LR) latents of equal shape. SNR_sigma = (1-sigma)^2 E[z_HR^2] / sigma^2,
    SNR_LR = E[z_HR^2] / E[(z_LR - z_HR)^2]. The search runs over sigma = 1/grid .. 1.
    """
    if not pairs:
        raise SettingError("At least one latent pair is needed to estimate sigma.")
    sigmas = torch.arange(1, grid + 1, dtype=torch.float64) / grid
    error = torch.zeros_like(sigmas)
    for z_hr, z_lr in pairs:
        power = z_hr.double().pow(2).mean()
        distance = (z_lr.double() - z_hr.double()).pow(2).mean()
        if distance == 0:
            raise SettingError("The two latents of a pair are identical, so there is no sigma to estimate.")
        error += ((1 - sigmas) ** 2 * power / sigmas**2 - power / distance).abs()
    return float(sigmas[error.argmin()])

"""L_vae, OMGSR's latent representation refinement (arXiv 2508.08227)."""

from torch import Tensor
from torch.nn import functional as F

from ...picture.precision import at_least_single


def latent_refinement_loss(z_lr: Tensor, z_hr: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """MSE between z_LR and (1 - sigma) z_HR + sigma * noise, shapes equal: a scalar.

    Draws the encoder of the low-resolution picture towards the state at the mid-timestep. z_HR
    comes from the frozen VAE and is detached; gradients reach only z_LR.
    """
    state = (1 - sigma) * z_hr.detach() + sigma * noise
    return F.mse_loss(at_least_single(z_lr), at_least_single(state))

"""Small models of FLUX's shape with random weights, and what tests measure with."""

import torch

TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 128,
    "num_attention_heads": 1,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}


def make_transformer(**changes):
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(1)
    return FluxTransformer2DModel(**TRANSFORMER | changes).requires_grad_(False).eval()


def make_vae(**changes):
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    return AutoencoderKL(**VAE | changes).requires_grad_(False).eval()


def psnr(a, b):
    return float(-10 * torch.log10((a - b).pow(2).mean()))

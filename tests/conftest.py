"""Small models of FLUX's shape with random weights, and pictures to try them on."""

import warnings

import pytest
import torch
from comfy_server import comfyui, server  # noqa: F401
from places import DEMO, REALSR

from op4ksr_core.images import read_picture

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


def pytest_collection_modifyitems(items):
    """The longest file first, so that two workers end together."""
    items.sort(key=lambda item: item.path.name != "test_workflows.py")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def make_transformer(**changes):
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(1)
    return FluxTransformer2DModel(**TRANSFORMER | changes).requires_grad_(False).eval()


def make_vae(**changes):
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    return AutoencoderKL(**VAE | changes).requires_grad_(False).eval()


@pytest.fixture
def transformer():
    return make_transformer()


@pytest.fixture
def vae():
    return make_vae()


@pytest.fixture(scope="session")
def photo():
    """The bundled photo, (1, 3, 512, 512)."""
    return read_picture(DEMO).rgb


@pytest.fixture(scope="session")
def embedded():
    from op4ksr_core.pipeline import Upscaler

    return Upscaler.from_embedded()


@pytest.fixture
def realsr():
    """Pairs of the RealSR test photos: ((lr, hr) paths)."""
    pairs = list(zip(sorted((REALSR / "lr").glob("*")), sorted((REALSR / "hr").glob("*")), strict=True))
    if not pairs:
        warnings.warn(f"{REALSR} is not here: the tests on real photo pairs do not run", stacklevel=1)
        pytest.skip(f"NO REAL PHOTO PAIRS at {REALSR}")
    return pairs


def psnr(a, b):
    return float(-10 * torch.log10((a - b).pow(2).mean()))

"""Our own FLUX layers are diffusers' own, to rounding, and running the bundled model imports no diffusers."""

import subprocess
import sys

import pytest
import torch
from builders import TRANSFORMER, make_transformer

from op4ksr_core.model import flow
from op4ksr_core.model.plain_flux import FluxTransformer
from op4ksr_core.model.vae import decode, encode, finish_vae
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.weights.configs import transformer_config
from op4ksr_core.weights.loading import load_transformer, load_vae
from op4ksr_core.weights.prompt_files import load_prompt


@pytest.mark.parametrize("guidance", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_transformer_is_diffusers(guidance, dtype):
    theirs = make_transformer(guidance_embeds=guidance).eval().to(dtype)
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    ours = FluxTransformer(**transformer_config(shapes, "flux")).eval().to(dtype)
    ours.load_state_dict(theirs.state_dict())
    torch.manual_seed(1)
    z = torch.randn(2, TRANSFORMER["in_channels"] // 4, 8, 12)
    prompt = torch.randn(1, 5, TRANSFORMER["joint_attention_dim"])
    pooled = torch.randn(1, TRANSFORMER["pooled_projection_dim"])
    with torch.no_grad():
        made = [flow.transformer_velocity(m, z, torch.full((2,), 0.3), prompt, pooled, 3.0) for m in (ours, theirs)]
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(made[0], made[1], rtol=tolerance, atol=tolerance * float(made[1].abs().max()))


def test_the_bundled_transformer_is_diffusers():
    prompt, pooled = load_prompt(EMBEDDED / "prompt.safetensors")
    torch.manual_seed(1)
    z, sigma = torch.randn(1, 64, 16, 8), torch.full((1,), 0.3)
    with torch.no_grad():
        ours, theirs = (
            flow.transformer_velocity(load_transformer(EMBEDDED / "transformer", plain=plain), z, sigma, prompt, pooled)
            for plain in (True, False)
        )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_bundled_autoencoder_is_diffusers(photo):
    ours, theirs = (finish_vae(load_vae(EMBEDDED / "vae", plain=plain)) for plain in (True, False))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    picture = photo[..., :96, :160].contiguous()
    with torch.no_grad():
        z = encode(theirs, picture)
        torch.testing.assert_close(encode(ours, picture), z, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(decode(ours, z), decode(theirs, z), rtol=1e-4, atol=1e-4)


def test_the_bundled_model_is_run_without_diffusers():
    """Its import is most of the time in which a command starts."""
    code = (
        "import sys, torch; from op4ksr_core import Upscaler; Upscaler.from_embedded()(torch.rand(1, 3, 16, 16));"
        "sys.exit(any(name.split('.')[0] in ('diffusers', 'transformers', 'peft') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

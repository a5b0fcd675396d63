"""NaN and infinity are errors that name the phase; the finder names the layer before it happens."""

import pytest
import torch
from builders import make_vae

from benchmarks.vae_ranges import largest_outputs
from op4ksr_core.errors import PrecisionError
from op4ksr_core.model import vae as v
from op4ksr_core.model.finite import check_finite
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PASSES, Execution

LARGEST = torch.finfo(torch.float16).max


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_is_found(bad):
    x = torch.zeros(3, 4)
    assert check_finite(x, "It", torch.float16, "") is x
    x[1, 2] = bad
    with pytest.raises(PrecisionError, match=r"^It .*float16.*65504.*Do this\."):
        check_finite(x, "It", torch.float16, "Do this.")
    with pytest.raises(PrecisionError, match="^It .*bfloat16.*damaged"):
        check_finite(x, "It", torch.bfloat16, "Do this.")


def test_a_large_picture_of_large_numbers_is_no_overflow_of_the_sum():
    assert check_finite(torch.full((10, 1000), 60000.0, dtype=torch.float16), "It", torch.float16, "") is not None


def hot_vae(name, factor):
    """A VAE one of whose layers gives numbers beyond float16."""
    vae = v.make_inference_only(v.make_lean(v.make_f16(make_vae())))
    layer = vae.get_submodule(name)
    layer.weight *= factor
    return vae


@pytest.mark.parametrize("name", ["decoder.up_blocks.1.resnets.0.conv1", "decoder.conv_in"])
def test_the_finder_names_the_layer_that_float16_cannot_run(name):
    vae = hot_vae(name, 1e7)
    z = torch.randn(1, 16, 4, 6)
    with torch.inference_mode(), largest_outputs(vae) as found:
        assert bool(v.decode(vae, z).isfinite().all())
    unsafe = [layer for layer, most in found.items() if most > LARGEST]
    assert unsafe[0] == name and len(found) > 30
    first = []
    for layer_name, layer in vae.half().named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(
                lambda _m, _x, out, n=layer_name: first.append(n) if not bool(out.isfinite().all()) else None
            )
    with torch.inference_mode():
        v.decode(vae, z.half())
    assert first[0] == name


def test_bfloat16_runs_what_float16_cannot():
    z = torch.randn(1, 16, 4, 6)
    for dtype, safe in ((torch.float16, False), (torch.bfloat16, True)):
        vae = hot_vae("decoder.conv_in", 1e7).to(dtype)
        with torch.inference_mode():
            assert bool(v.decode(vae, z.to(dtype)).isfinite().all()) == safe


@pytest.mark.parametrize("how", PASSES)
@pytest.mark.parametrize(("part", "says"), [("encoder", "encoder"), ("decoder", "decoder")])
def test_the_upscaler_says_which_phase_failed_and_what_to_do(photo, how, part, says):
    """In float16 on a CPU: slow, but it overflows as a card does."""
    upscaler = Upscaler.from_embedded(device="cpu", dtype=torch.float16, execution=Execution(vae_pass=how))
    with upscaler.host.vae.use("resident") as vae:
        getattr(vae, part).conv_in.weight *= 1e6
    with pytest.raises(PrecisionError, match=f"{says}.*float16.*--dtype"):
        upscaler(photo[..., 128:160, 128:160])


def test_the_embedded_model_is_safe_in_float16(photo):
    """Its own activations, on a real picture, and the picture that comes of it."""
    lr = photo[..., 128:160, 128:160]
    exact, low = (Upscaler.from_embedded(device="cpu", dtype=dtype)(lr) for dtype in (torch.float32, torch.float16))
    upscaler = Upscaler.from_embedded(device="cpu", execution=Execution(vae_pass="whole"))
    with upscaler.host.vae.use("resident") as vae, largest_outputs(vae) as found:
        upscaler(lr)
    assert max(found.values()) < LARGEST / 100
    assert 255 * float((exact - low).abs().max()) < 1

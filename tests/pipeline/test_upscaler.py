import copy
import math
import re
from dataclasses import replace

import pytest
import torch
from builders import make_transformer, make_vae
from model_files import write_model, write_omgsr_adapters, write_prompt
from torch import nn

from op4ksr_core.errors import Cancelled, ImageError, MemoryPlanError, SettingError, WeightsError
from op4ksr_core.geometry import Scale, Size
from op4ksr_core.model import flow
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.picture.resample import crop, lanczos, pad_reflect, resize
from op4ksr_core.pipeline import memory
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS, RopeSettings, UpscaleSettings
from op4ksr_core.weights.prompt_files import load_prompt

BARE = UpscaleSettings(fidelity=0.0)


@pytest.fixture
def folder(tmp_path, transformer, vae):
    return write_model(tmp_path / "model", transformer, vae)


@pytest.fixture
def upscaler(folder):
    return Upscaler.from_pretrained(folder, settings=BARE, device="cpu")


def plain_diffusers(folder, image, scale=4.0, settings=BARE):
    """The method written out on diffusers' own modules: interpolate + conv, its attention, its packing."""
    from diffusers import FluxPipeline

    transformer, vae = make_transformer(), make_vae()
    transformer.pos_embed = RotaryEmbedding(settings.rope)
    vae.encoder.conv_in.stride = (2, 2)
    vae.decoder.conv_out = nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), copy.deepcopy(vae.decoder.conv_out)
    )
    target = Size(*(int(side * scale + 0.5) for side in image.shape[-2:]))
    padded = Size(*(-(-side // 32) * 32 for side in (target.height, target.width)))
    x = pad_reflect(resize(image, target), padded)
    prompt, pooled = load_prompt(folder / "prompt.safetensors")
    with torch.no_grad():
        z = (vae.encode(x * 2 - 1).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
        height, width = z.shape[-2:]
        eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(settings.seed or 0))
        n = settings.noise
        z = (1 - n) * z + n * ((1 - settings.sigma) * z + settings.sigma * eps)
        sigmas = flow.sigma_schedule(settings.sigma, settings.steps)
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            v = transformer(
                hidden_states=FluxPipeline._pack_latents(z, len(z), 16, height, width),
                timestep=torch.full((len(z),), sigma),
                guidance=torch.full((len(z),), settings.guidance),
                encoder_hidden_states=prompt.expand(len(z), -1, -1),
                pooled_projections=pooled.expand(len(z), -1),
                img_ids=FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float32),
                txt_ids=torch.zeros(prompt.shape[1], 3),
                return_dict=False,
            )[0]
            z = z + (following - sigma) * FluxPipeline._unpack_latents(v, 8 * height, 8 * width, 8)
        raw = vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor).sample * 0.5 + 0.5
    return crop(raw, target).clamp(0, 1)


@pytest.mark.parametrize(
    ("size", "scale"), [((16, 16), 4), ((13, 29), 4), ((9, 8), 4), ((40, 11), 1.7), ((31, 37), 0.5)]
)
def test_equals_the_method_on_plain_diffusers(folder, upscaler, size, scale):
    image = torch.rand(2, 3, *size)
    ours = upscaler(image, Scale(scale))
    assert ours.shape[-2:] == tuple(max(1, int(side * scale + 0.5)) for side in size)
    torch.testing.assert_close(ours, plain_diffusers(folder, image, scale), rtol=0, atol=2e-4)


@pytest.mark.parametrize(("size", "scale"), [((1, 1), 4), ((7, 1), 3), ((40, 3), 1.7), ((1, 200), 4)])
def test_a_side_below_8_px_is_enlarged_by_lanczos(upscaler, size, scale):
    image = torch.rand(1, 3, *size)
    ours = upscaler(image, Scale(scale))
    torch.testing.assert_close(ours, lanczos(image, Size(*ours.shape[-2:])).clamp(0, 1))
    assert upscaler.host.vae.module is None and upscaler.host.transformer.module is None, "a model was loaded"


@pytest.mark.parametrize(
    "settings",
    [
        replace(BARE, sigma=0.7),
        replace(BARE, steps=3),
        replace(BARE, guidance=4.0),
        replace(BARE, noise=1.0, steps=2),
        replace(BARE, noise=0.3),
        replace(BARE, rope=RopeSettings(theta=10_000.0, scheme="resonance-yarn", base_tokens=1)),
    ],
)
def test_every_setting_acts_as_on_plain_diffusers(folder, upscaler, settings):
    image = torch.rand(1, 3, 20, 24)
    ours = upscaler(image, settings=settings)
    torch.testing.assert_close(ours, plain_diffusers(folder, image, settings=settings), rtol=0, atol=3e-4)
    assert float((ours - upscaler(image)).abs().max()) > 1e-3


def test_a_batch_equals_its_pictures(upscaler):
    images = torch.rand(3, 3, 16, 24)
    singles = torch.cat([upscaler(image[None]) for image in images])
    torch.testing.assert_close(upscaler(images), singles, rtol=0, atol=1e-4)


def test_seed_samples_the_posterior(upscaler):
    image = torch.rand(1, 3, 16, 16)
    a, b = (upscaler(image, settings=replace(BARE, posterior_seed=s)) for s in (1, 1))
    assert torch.equal(a, b) and not torch.equal(a, upscaler(image)) and torch.equal(upscaler(image), upscaler(image))


def test_fidelity_and_colour_act(upscaler):
    image = torch.rand(1, 3, 16, 16) * 0.5 + 0.25
    faithful = upscaler(image, settings=replace(BARE, fidelity=1.0))
    assert float((resize(faithful, Size(16, 16)) - image).abs().mean()) < 0.01
    for colour in ("wavelet", "adain"):
        fixed = upscaler(image, settings=replace(BARE, colour=colour))
        error = (fixed.mean((2, 3)) - image.mean((2, 3))).abs().max()
        assert float(error) < float((upscaler(image).mean((2, 3)) - image.mean((2, 3))).abs().max())


def test_adapters_change_the_picture(folder, tmp_path):
    write_omgsr_adapters(tmp_path, make_transformer(), make_vae())
    image = torch.rand(1, 3, 16, 16)

    def out(scale):
        return Upscaler.from_pretrained(folder, adapters=[tmp_path], adapter_scale=scale, settings=BARE, device="cpu")(
            image
        )

    base = Upscaler.from_pretrained(folder, settings=BARE, device="cpu")(image)
    torch.testing.assert_close(out(0.0), base, rtol=0, atol=1e-5)
    assert float((out(1.0) - base).abs().max()) > 5e-3


def test_parts_can_be_named_one_by_one(folder, tmp_path):
    moved = tmp_path / "elsewhere"
    (folder / "transformer").rename(moved)
    pieces = {"transformer": moved, "vae": folder / "vae", "prompt": folder / "prompt.safetensors"}
    image = torch.rand(1, 3, 8, 8)
    assert Upscaler.from_pretrained(**pieces, settings=BARE, device="cpu")(image).shape == (1, 3, 32, 32)
    with pytest.raises(WeightsError, match="vae"):
        Upscaler.from_pretrained(transformer=moved, prompt=pieces["prompt"])
    with pytest.raises(WeightsError, match=re.escape(str(folder / "transformer"))):
        Upscaler.from_pretrained(folder, settings=BARE, device="cpu")(image)


def test_prompt_of_another_model(folder):
    write_prompt(folder / "prompt.safetensors", width=99)
    with pytest.raises(WeightsError, match=r"prompt\.safetensors.*\b99\b.*\b24\b"):
        Upscaler.from_pretrained(folder, device="cpu")(torch.rand(1, 3, 8, 8))
    (folder / "prompt.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"prompt\.safetensors.*embed-prompt"):
        Upscaler.from_pretrained(folder, device="cpu")


def test_vae_of_another_model(tmp_path, transformer):
    folder = write_model(tmp_path / "model", transformer, make_vae(latent_channels=4))
    with pytest.raises(WeightsError, match="16 latent channels.*VAE 4"):
        Upscaler.from_pretrained(folder, device="cpu")(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("image", "names"),
    [
        (torch.rand(3, 8, 8), "3, 8, 8"),
        (torch.rand(1, 4, 8, 8), "1, 4, 8, 8"),
        (torch.rand(1, 3, 0, 8), "1, 3, 0, 8"),
        (torch.full((1, 3, 8, 8), float("nan")), "got nan"),
        (torch.rand(1, 3, 8, 8) * 0 + 255, "got 255"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
    ],
)
def test_bad_pictures(upscaler, image, names):
    with pytest.raises(ImageError, match=names):
        upscaler(image)


@pytest.mark.parametrize(
    "change",
    [
        {"sigma": 0.0},
        {"sigma": 1.5},
        {"steps": 0},
        {"guidance": -1.0},
        {"colour": "hsv"},
        {"fidelity": 2.0},
        {"seed": -1},
        {"noise": 1.5},
        {"noise": float("nan")},
    ],
)
def test_bad_settings(change):
    [(name, value)] = change.items()
    with pytest.raises(SettingError, match=f"{name}.*got {re.escape(repr(value))}"):
        replace(BARE, **change)


def test_presets_are_the_papers():
    assert PRESETS["op4ksr"].rope == RopeSettings(theta=100.0, scheme="plain") and PRESETS["op4ksr"].sigma == 0.3
    assert PRESETS["ultraflux"].rope == RopeSettings(theta=10_000.0, scheme="resonance-yarn")
    assert PRESETS["omgsr"].sigma == pytest.approx(1 / (1 + 755 / 244 * math.exp(-1.15)), abs=1e-7)


def test_progress_counts_every_block(upscaler):
    seen = []
    upscaler(torch.rand(1, 3, 8, 8), settings=replace(BARE, steps=2), progress=lambda *args: seen.append(args))
    for phase in ("encode", "transform", "decode"):
        counts = [done for name, done, _ in seen if name == phase]
        total = {total for name, _, total in seen if name == phase}
        assert total == {max(counts)} and counts == list(range(max(counts) + 1))
    assert max(done for name, done, _ in seen if name == "transform") == 2 * 3


@pytest.mark.parametrize("phase", ["encode", "transform", "decode"])
def test_cancel_within_a_block_and_go_on(upscaler, phase):
    calls = []

    def cancel(name, done, total):
        calls.append(name)
        if name == phase and done == 1:
            raise Cancelled("enough")

    image = torch.rand(1, 3, 8, 8)
    expected = upscaler(image)
    with pytest.raises(Cancelled):
        upscaler(image, progress=cancel)
    assert calls[-1] == phase and calls.count(phase) == 2
    assert torch.equal(upscaler(image), expected)


def four_times(height, width):
    return Scale(4).frame(Size(height, width))


def _available(monkeypatch, available):
    monkeypatch.setattr(memory, "host_bytes", lambda: available)


@pytest.mark.long
def test_short_memory_holds_one_model_at_a_time(monkeypatch, folder):
    image = torch.rand(1, 3, 16, 16)
    roomy = Upscaler.from_pretrained(folder, settings=BARE, device="cpu")
    expected = roomy(image)
    assert roomy.last_memory_plan.residency == "resident"
    tight = Upscaler.from_pretrained(folder, settings=BARE, device="cpu")
    full = tight.plan(four_times(16, 16)).memory
    held_now = tight.host.vae.held_bytes  # planning loads the VAE
    _available(monkeypatch, full.weights + max(full.encode, full.transform, full.decode) - held_now - 1)
    held = []

    def watch(phase, done, total):
        held.append((phase, tight.host.transformer.module is not None, tight.host.vae.module is not None))

    assert torch.equal(tight(image, progress=watch), expected)
    assert tight.last_memory_plan.residency == "reload"
    assert not any(transformer and vae for phase, transformer, vae in held)


@pytest.mark.long
def test_room_is_made_after_a_roomy_call(monkeypatch, upscaler):
    """Both models stay loaded after a small picture; a larger one that cannot afford it drops them first."""
    upscaler(torch.rand(1, 3, 8, 8))
    assert upscaler.host.transformer.module is not None
    plan = upscaler.plan(four_times(16, 16)).memory
    work = max(plan.encode, plan.transform, plan.decode)
    held = upscaler.host.transformer.held_bytes + upscaler.host.vae.held_bytes
    _available(monkeypatch, plan.weights + work - held - 1)
    seen = []
    upscaler(torch.rand(1, 3, 16, 16), progress=lambda *_: seen.append(upscaler.host.transformer.module is not None))
    assert upscaler.last_memory_plan.residency == "reload" and not seen[0] and any(seen)


def test_running_out_after_all_is_named(monkeypatch, upscaler):
    def exhausted(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(upscaler.host, "decode", exhausted)
    with pytest.raises(MemoryPlanError, match="8x8 -> 32x32"):
        upscaler(torch.rand(1, 3, 8, 8))


def test_what_does_not_fit_is_refused_with_the_estimate(monkeypatch, upscaler):
    with upscaler.host.vae.use("resident"):
        pass  # the VAE is there, and must not be counted twice
    _available(monkeypatch, 1e9)
    with pytest.raises(MemoryPlanError, match=r"30000x30 -> 120000x120.*GB"):
        upscaler(torch.rand(1, 3, 30, 30_000))
    monkeypatch.undo()


def test_it_is_refused_before_a_model_is_loaded(monkeypatch, folder):
    """Reading a model takes seconds for the bundled one and minutes for FLUX."""
    fresh = Upscaler.from_pretrained(folder, settings=BARE, device="cpu")
    for part in (fresh.host.vae, fresh.host.transformer):
        monkeypatch.setattr(part, "use", lambda *_: pytest.fail("a model was loaded"))
    _available(monkeypatch, 1e9)
    with pytest.raises(MemoryPlanError, match="30000x30 -> 120000x120.*GB"):
        fresh.plan(four_times(30, 30_000))
    assert fresh.latent_factor == 16


def test_the_check_can_be_skipped(monkeypatch, folder):
    _available(monkeypatch, 0.0)
    careless = Upscaler.from_pretrained(folder, settings=BARE, device="cpu", check_memory=False)
    assert careless(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)


def test_f8_models_run_too(tmp_path, transformer, vae):
    folder = write_model(tmp_path / "model", transformer, vae, stride=1)
    upscaler = Upscaler.from_pretrained(folder, settings=BARE, device="cpu")
    assert upscaler.latent_factor == 8
    assert upscaler.plan(four_times(10, 10)).size.padded == Size(48, 48)
    assert upscaler(torch.rand(1, 3, 10, 10)).shape == (1, 3, 40, 40)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(folder):
    image = torch.rand(1, 3, 32, 32)
    cpu = Upscaler.from_pretrained(folder, settings=BARE, device="cpu")(image)
    exact = Upscaler.from_pretrained(folder, settings=BARE, device="cuda", dtype=torch.float32)(image)
    torch.testing.assert_close(exact, cpu, rtol=0, atol=2e-2)
    half = Upscaler.from_pretrained(folder, settings=BARE, device="cuda")
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half(image), cpu, rtol=0, atol=0.1)


def test_a_target_that_is_none_is_an_error(embedded):
    with pytest.raises(SettingError, match="target.*'4x'"):
        embedded(torch.rand(1, 3, 8, 8), "4x")

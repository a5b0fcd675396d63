"""OSEDiff, TVT and F2IDiff-SR: our pipeline against diffusers' own modules and scheduler, on small random weights."""

import shutil
from dataclasses import replace

import pytest
import torch
from unet_models import make_d4, make_sd_vae, make_tvt_unet, make_unet, put_loras, write_sd_folder

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError, WeightsError
from op4ksr_core.geometry import Scale, Size
from op4ksr_core.model import diffusion
from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.picture.write import write_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS, with_window

BARE = replace(PRESETS["osediff"], colour="none", posterior_seed=None)


@pytest.fixture(scope="module")
def osediff(tmp_path_factory):
    """(folder of the base, osediff.pkl, the UNet and the VAE with their adapters)."""
    root = tmp_path_factory.mktemp("osediff")
    write_sd_folder(root / "base", make_unet(), make_sd_vae())
    unet, vae = make_unet(), make_sd_vae()
    torch.save(put_loras(unet, vae), root / "osediff.pkl")
    return root / "base", root / "osediff.pkl", unet, vae


@pytest.fixture(scope="module")
def converted(osediff):
    path = osediff[1].with_suffix(".safetensors")
    assert cli.main(["convert", str(osediff[1]), "-o", str(path)]) == 0
    return path


def by_diffusers(unet, vae, prompt, picture, timestep):
    """The published order of work, with diffusers' scheduler."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    with torch.no_grad():
        z = vae.encode(picture * 2 - 1).latent_dist.mode() * 0.18215
        predicted = unet(z, torch.tensor([timestep]), encoder_hidden_states=prompt).sample
        x0 = scheduler.step(predicted, timestep, z).pred_original_sample
        return vae.decode(x0 / 0.18215).sample * 0.5 + 0.5


def prompt_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "prompt.safetensors")["prompt_embeds"]


@pytest.mark.long
def test_osediff_is_what_diffusers_and_peft_make_of_its_file(osediff, converted):
    folder, _, unet, vae = osediff
    small = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(1))
    wanted = by_diffusers(unet, vae, prompt_of(folder), resize(small, Size(64, 128)), 999).clamp(0, 1)
    upscaler = Upscaler.from_pretrained(folder, adapters=[converted], settings=BARE, device="cpu")
    assert float((upscaler(small) - wanted).abs().max()) < 1e-3
    plain = Upscaler.from_pretrained(folder, settings=BARE, device="cpu")
    assert float((plain(small) - wanted).abs().mean()) > 1e-2  # the adapter matters


def test_sizes_off_the_units_multiples_are_padded(osediff, converted):
    upscaler = Upscaler.from_pretrained(osediff[0], adapters=[converted], device="cpu")
    assert upscaler.settings == PRESETS["osediff"]
    assert upscaler(torch.rand(2, 3, 9, 31), Scale(3)).shape == (2, 3, 27, 93)
    assert upscaler.host.multiple_px == 64


@pytest.mark.long
def test_tiles_with_an_overlap_give_the_size_and_differ_little(osediff, converted):
    upscaler = Upscaler.from_pretrained(osediff[0], adapters=[converted], device="cpu")
    small = torch.rand(1, 3, 160, 32)
    settings = replace(upscaler.settings, window=256, window_overlap=64)
    whole, tiled = upscaler(small), upscaler(small, settings=settings)
    assert tiled.shape == (1, 3, 640, 128) and float((tiled - whole).abs().mean()) < 0.1
    assert not torch.equal(tiled, upscaler(small, settings=replace(settings, window_overlap=128)))
    with pytest.raises(SettingError, match="256 px.*overlap of 256"):
        replace(settings, window_overlap=256)


def test_what_a_unet_cannot_do_is_refused(osediff, tmp_path, capsys):
    from op4ksr_core.picture.read import Picture
    from op4ksr_core.picture.write import write_picture

    write_picture(tmp_path / "a.png", Picture(torch.rand(1, 3, 16, 24)))
    words = ["upscale", str(tmp_path / "a.png"), "--model", str(osediff[0]), "-o", str(tmp_path / "b.png"), "--fp8"]
    assert cli.main(words) == 2 and "are for FLUX transformers" in capsys.readouterr().err
    words[-1:] = ["--theta", "100", "--steps", "2"]
    assert cli.main(words) == 1
    assert "leave out theta or scheme (rope), 2 steps, or use a FLUX model" in capsys.readouterr().out
    merged = ["merge", "--model", str(osediff[0]), "-o", str(tmp_path / "m")]
    assert cli.main(merged) == 2 and "merge is for FLUX folders" in capsys.readouterr().err


def test_the_posterior_is_sampled_by_its_seed(osediff):
    upscaler = Upscaler.from_pretrained(osediff[0], device="cpu")
    small = torch.rand(1, 3, 16, 16)
    first, again = upscaler(small), upscaler(small)
    other = upscaler(small, settings=replace(upscaler.settings, posterior_seed=1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.long
def test_tvt_runs_its_own_autoencoder_and_five_levels(tmp_path):
    unet, vae = make_tvt_unet(), make_d4()
    folder = write_sd_folder(tmp_path / "tvt", unet, vae)
    small = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        moments = vae.quant_conv(vae.encoder(resize(small, Size(64, 64)) * 2 - 1))
        z = moments.chunk(2, 1)[0] * 0.18215
        x0 = diffusion.clean(
            z, unet(z, torch.tensor([1]), encoder_hidden_states=prompt_of(folder)).sample, diffusion.alpha_bar(1)
        )
        wanted = vae.decoder(vae.post_quant_conv(x0 / 0.18215)) * 0.5 + 0.5
    upscaler = Upscaler.from_pretrained(folder, settings=replace(BARE, timestep=1), device="cpu")
    assert upscaler.latent_factor == 4 and upscaler.host.multiple_px == 64
    assert float((upscaler(small) - wanted.clamp(0, 1)).abs().max()) < 1e-4


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(9)
    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=518, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


def test_f2idiff_is_conditioned_by_the_picture(tmp_path, dino):
    folder = write_sd_folder(tmp_path / "sd", make_unet(), make_sd_vae())
    upscaler = Upscaler.from_pretrained(folder, features=dino, settings=replace(BARE, timestep=999), device="cpu")
    a, b = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    assert upscaler.host.features_of(resize(a, Size(64, 64))).shape == (1, 37 * 37 + 1, 24)
    both = upscaler(torch.cat([a, b]))
    assert torch.allclose(both[:1], upscaler(a), atol=1e-4) and torch.allclose(both[1:], upscaler(b), atol=1e-4)


@pytest.mark.long
def test_the_command_line_takes_each_family(osediff, converted, dino, tmp_path, capsys):
    from op4ksr_core.picture.read import Picture
    from op4ksr_core.picture.write import write_picture

    write_picture(tmp_path / "a.png", Picture(torch.rand(1, 3, 16, 24)))
    words = ["upscale", str(tmp_path / "a.png"), "--model", str(osediff[0])]
    assert cli.main([*words, "--adapter", str(converted), "-o", str(tmp_path / "o.png")]) == 0
    assert cli.main([*words, "--dino", str(dino), "--preset", "f2idiff", "-o", str(tmp_path / "f.png")]) == 0
    tvt = write_sd_folder(tmp_path / "tvt", make_tvt_unet(), make_d4())
    words[3] = str(tvt)
    assert cli.main([*words, "--preset", "tvt", "-o", str(tmp_path / "t.png")]) == 0
    assert (tmp_path / "o.png").is_file() and (tmp_path / "f.png").is_file() and (tmp_path / "t.png").is_file()
    assert cli.main(["upscale", str(tmp_path / "a.png"), "--dino", str(dino), "-o", str(tmp_path / "n.png")]) == 2


@pytest.mark.parametrize("kind", diffusion.PREDICTIONS)
@pytest.mark.parametrize("timestep", [1, 500, 999])
def test_the_clean_latent_comes_back_from_a_perfect_prediction(kind, timestep):
    x0, noise = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    bar = diffusion.alpha_bar(timestep)
    state = diffusion.noised(x0, noise, torch.tensor(bar))
    predicted = noise if kind == "epsilon" else bar**0.5 * noise - (1 - bar) ** 0.5 * x0
    found = diffusion.clean(state, predicted, bar, kind)
    assert float((found - x0).abs().max()) < 1e-4


def test_the_schedule_is_stable_diffusions():
    assert diffusion.alpha_bar(999) == pytest.approx(0.0046601, abs=1e-6)
    assert diffusion.alpha_bar(1) ** 0.5 == pytest.approx(0.999148, abs=1e-5)
    with pytest.raises(SettingError, match="timestep.*1000"):
        diffusion.alpha_bar(1000)


@pytest.mark.long
def test_the_base_that_predicts_v_is_refused(tmp_path, converted):
    folder = write_sd_folder(tmp_path / "v", make_unet(), make_sd_vae(), prediction="v_prediction")
    upscaler = Upscaler.from_pretrained(folder, adapters=[converted], settings=BARE, device="cpu")
    with pytest.raises(WeightsError, match="predicts v"):
        upscaler(torch.rand(1, 3, 16, 16))


def test_a_damaged_config_is_named(tmp_path, osediff, capsys):
    folder = tmp_path / "damaged"
    shutil.copytree(osediff[0], folder)
    (folder / "unet" / "config.json").write_text('{"block_out_channels": "x"}')
    write_picture(tmp_path / "a.png", Picture(torch.rand(1, 3, 16, 16)))
    assert cli.main(["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--model", str(folder)]) == 1
    assert "block_out_channels = 'x'; it must list the channels" in capsys.readouterr().out


def test_another_width_of_dino_or_prompt_is_refused(tmp_path, osediff, dino):
    folder = write_sd_folder(tmp_path / "sd", make_unet(cross_attention_dim=40), make_sd_vae())
    upscaler = Upscaler.from_pretrained(folder, features=dino, settings=BARE, device="cpu")
    with pytest.raises(WeightsError, match="24 wide.*40"):
        upscaler(torch.rand(1, 3, 16, 16))


@pytest.mark.long
def test_in_windows_dino_sees_each_windows_own_picture(tmp_path, dino):
    """F2IDiff-SR's features are those of each patch; its preset works in windows of 256 px, the side of its crops.
    A picture of 512 px has nine windows, half over each other."""
    folder = write_sd_folder(tmp_path / "sd", make_unet(), make_sd_vae())
    assert PRESETS["f2idiff"].window == 256
    settings = replace(PRESETS["f2idiff"], colour="none", posterior_seed=None)
    upscaler = Upscaler.from_pretrained(folder, features=dino, settings=settings, device="cpu")
    small = torch.rand(1, 3, 128, 128)
    seen, conditions = [], []
    extractor, unet = upscaler.host._extractor, upscaler.host.transformer
    extractor.register_forward_pre_hook(
        lambda module, _, named: seen.append(named["pixel_values"].clone()), with_kwargs=True
    )
    with unet.use("resident") as network:
        network.register_forward_pre_hook(
            lambda module, _, named: conditions.append(named["encoder_hidden_states"].clone()), with_kwargs=True
        )
    upscaler(small)
    assert len(seen) == len(conditions) == 9
    large = resize(small, Size(512, 512))
    for number, (top, left) in enumerate((y, x) for y in (0, 128, 256) for x in (0, 128, 256)):
        own = large[..., top : top + 256, left : left + 256]
        wanted = diffusion.picture_tokens(extractor, own)
        assert torch.allclose(conditions[number], wanted, atol=1e-4), (top, left)
    del seen[:]
    upscaler(small, settings=replace(settings, window=0))
    assert len(seen) == 1


def test_the_windows_of_a_preset_share_32_latent_px():
    """OSEDiff's and TVT's tiles: 96 latent px that share 32, whatever the VAE's factor."""
    assert PRESETS["osediff"].window_overlap == 8 * 32 and PRESETS["tvt"].window_overlap == 4 * 32
    assert PRESETS["osediff"].window_weights == "gaussian"
    assert with_window(PRESETS["osediff"], 768).window_overlap == 256
    assert with_window(PRESETS["osediff"], 256).window_overlap == 0  # half

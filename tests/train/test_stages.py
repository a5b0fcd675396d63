"""TVT's VAE in its two stages and F2IDiff-SR's prior train at small size, resume, and give what the upscaler runs."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from trainings import log_of, run_training
from unet_models import make_d4, make_sd_vae, make_unet, write_dino, write_photos, write_sd_folder

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError, WeightsError
from op4ksr_core.geometry import Size
from op4ksr_core.model.vae import downscale_factor
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS as UPSCALE
from op4ksr_core.train.checkpoint import checkpoints
from op4ksr_core.train.gan import adaptive_weight
from op4ksr_core.train.losses.adversarial import PatchCritic
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.settings import LossWeights
from op4ksr_core.train.strategies.prior import PriorStrategy
from op4ksr_core.train.strategies.vae import VaeStrategy
from op4ksr_core.weights.unet_sources import UNetSources, load_sd_vae, prediction_of


@pytest.fixture(scope="module")
def made(tmp_path_factory, photo):
    """Pictures, a Stable Diffusion folder without a prompt, DINOv2, and a UNet that is only described."""
    root = tmp_path_factory.mktemp("stages")
    write_photos(root / "photos", photo)
    write_sd_folder(root / "sd", make_unet(), make_sd_vae())
    (root / "sd" / "prompt.safetensors").unlink()
    write_dino(root / "dino")
    shutil.copytree(root / "sd", root / "described")
    (root / "described" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    return root


def settings_of(name, **changes):
    small = {"batch": 2, "per_device": 2, "crop": 64, "precision": "no", "checkpointing": False, "steps": 20}
    preset = PRESETS[name]
    return replace(preset, **small | {"losses": replace(preset.losses, lpips=0.0), "learning_rate": 1e-3} | changes)


def train(settings, sources, made, run, **options):
    return run_training(settings, sources, made / "photos", run, **options)


def vae_sources(made, vae=None):
    return UNetSources.find(made / "sd", vae=vae, conditioned=False)


def prior_sources(made, folder="described"):
    return UNetSources.find(made / folder, features=made / "dino")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), [("tvt-decoder", "l1"), ("f2idiff-prior", "denoising")])
def test_twenty_steps_lower_the_loss_and_a_stopped_run_resumes(name, loss, made, tmp_path):
    sources = prior_sources(made) if name == "f2idiff-prior" else vae_sources(made)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(settings_of(name), sources, made, whole) == 20
    values = [line[loss] for line in log_of(whole)]
    assert sum(values[-5:]) < 0.9 * sum(values[:5])
    train(settings_of(name), sources, made, cut, stop_after=5)
    train(settings_of(name), sources, made, cut, stop_after=8)
    for a, b in zip(log_of(whole)[:8], log_of(cut)[:8], strict=True):
        assert a["total"] == pytest.approx(b["total"], rel=1e-4)


@pytest.mark.long
def test_a_vae_made_in_two_stages_is_what_tvt_runs(made, tmp_path):
    """D4 behind the 8x encoder, then E4 behind D4; the second stage leaves D4 as it was."""
    first, second = tmp_path / "decoder", tmp_path / "encoder"
    train(settings_of("tvt-decoder", steps=2), vae_sources(made), made, first)
    assert {"l1", "adversarial", "critic"} <= log_of(first)[-1].keys()
    half = checkpoints(first)[-1] / "vae"
    train(settings_of("tvt-encoder", steps=2), vae_sources(made, half), made, second)
    whole = checkpoints(second)[-1] / "vae"
    with pytest.raises(WeightsError, match=f"{re.escape(str(half))}.*encoder"):
        load_sd_vae(half)
    vae, d4 = load_sd_vae(whole), VaeStrategy.load(vae_sources(made, half), settings_of("tvt-encoder")).vae
    assert downscale_factor(vae) == 4 and list(vae.config.block_out_channels) == [32, 32, 32]
    for name, value in d4.decoder.state_dict().items():
        torch.testing.assert_close(vae.decoder.state_dict()[name], value)
    write_sd_folder(tmp_path / "tvt", make_unet(), vae)
    upscaler = Upscaler.from_pretrained(tmp_path / "tvt", settings=UPSCALE["tvt"], device="cpu")
    assert upscaler.latent_factor == 4 and upscaler(torch.rand(1, 3, 16, 24), 4).shape == (1, 3, 64, 96)


def test_the_decoder_stage_sees_latents_of_the_8x_encoder(made):
    model = VaeStrategy.load(vae_sources(made), settings_of("tvt-decoder"))
    made_of = model(torch.rand(1, 3, 64, 64), Size(64, 64))
    assert made_of.z.shape == (1, 4, 16, 16) and made_of.picture.shape == (1, 3, 64, 64)
    names = model.trainable()
    assert names and all(name.startswith(("vae.decoder.", "vae.post_quant_conv.")) for name in names)


def test_the_adaptive_weight_makes_both_losses_pull_alike(made):
    last = VaeStrategy.load(vae_sources(made), settings_of("tvt-decoder")).last_layer
    weight = adaptive_weight(2 * (3 * last).sum(), (0.01 * last).sum(), last)
    assert float(weight) == pytest.approx(600, rel=0.01) and not weight.requires_grad


@pytest.mark.long
def test_the_prior_is_what_f2idiff_starts_from(made, tmp_path):
    train(settings_of("f2idiff-prior", steps=2), prior_sources(made), made, tmp_path / "run")
    unet = checkpoints(tmp_path / "run")[-1] / "unet"
    assert prediction_of(unet) == "epsilon" and (unet.parent / "scheduler" / "scheduler_config.json").is_file()
    upscaler = Upscaler.from_pretrained(
        made / "sd", transformer=unet, features=made / "dino", settings=UPSCALE["f2idiff"], device="cpu"
    )
    assert upscaler(torch.rand(1, 3, 16, 16), 4).shape == (1, 3, 64, 64)


def test_a_share_of_the_conditions_is_dropped(made, tmp_path):
    seen = []
    for share in (0.0, 1.0):
        model = PriorStrategy.load(prior_sources(made), settings_of("f2idiff-prior", drop_condition=share))
        model.transformer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
        )
        with torch.no_grad():
            model(torch.rand(2, 3, 64, 64), torch.tensor([1, 2]))
    assert float(seen[0].abs().min(2).values.max()) > 0 and float(seen[1].abs().max()) == 0


def test_the_patch_critic_judges_patches():
    critic = PatchCritic(8)
    (logits,) = critic(torch.rand(2, 3, 96, 128))
    assert logits.shape == (2, 1, 10, 14)


def test_what_does_not_fit_a_stage_is_refused(made, tmp_path):
    with pytest.raises(SettingError, match="stage encoder .*--loss-refinement"):
        replace(PRESETS["tvt-encoder"], losses=LossWeights(l1=1.0))
    with pytest.raises(SettingError, match="stage encoder .*got omgsr"):
        replace(PRESETS["tvt-encoder"], degradation="omgsr")
    with pytest.raises(SettingError, match="captions .*stage encoder"):
        replace(PRESETS["tvt-encoder"], captions=True)
    with pytest.raises(SettingError, match=f"--dino.*got {re.escape(str(made / 'dino'))}"):
        UNetSources.find(made / "sd", features=made / "dino", conditioned=False)
    with pytest.raises(WeightsError, match=f"{re.escape(str(EMBEDDED / 'vae'))} .*16x"):
        load_sd_vae(EMBEDDED / "vae")
    with pytest.raises(SettingError, match="gan_adaptive.*decoder and encoder"):
        replace(PRESETS["osediff"], gan_adaptive=True)
    with pytest.raises(WeightsError, match="d4/vae .*4x.*8x.*--vae"):
        write_sd_folder(tmp_path / "d4", make_unet(), make_d4())
        VaeStrategy.load(UNetSources.find(tmp_path / "d4", conditioned=False), settings_of("tvt-decoder"))
    with pytest.raises(WeightsError, match="sd/vae .*decoder stage.*--vae"):
        VaeStrategy.load(vae_sources(made), settings_of("tvt-encoder"))
    train(settings_of("tvt-decoder", steps=1), vae_sources(made), made, tmp_path / "half")
    half = checkpoints(tmp_path / "half")[-1] / "vae"
    state = load_file(half / "diffusion_pytorch_model.safetensors")
    for lost in ("post_quant_conv.weight", "decoder.conv_out.bias"):
        kept = {key: value for key, value in state.items() if key != lost}
        save_file(kept, half / "diffusion_pytorch_model.safetensors")
        with pytest.raises(WeightsError, match=f"missing: {lost}"):
            VaeStrategy.load(vae_sources(made, half), settings_of("tvt-encoder"))
    shutil.copytree(made / "described", tmp_path / "pickled")
    (tmp_path / "pickled" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"weights")
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.bin.*pickle"):
        PriorStrategy.load(UNetSources.find(tmp_path / "pickled", features=made / "dino"), settings_of("f2idiff-prior"))
    with pytest.raises(WeightsError, match="DINOv2.*--dino"):
        PriorStrategy.load(UNetSources.find(made / "sd", conditioned=False), settings_of("f2idiff-prior"))


@pytest.mark.long
def test_the_command_needs_no_prompt_for_a_vae(made, tmp_path, capsys):
    words = ["train", str(made / "photos"), "-o", str(tmp_path / "run"), "--model", str(made / "sd")]
    words += ["--preset", "tvt-decoder", "--crop", "64", "--batch", "1", "--steps", "1", "--precision", "no"]
    assert cli.main([*words, "--loss-lpips", "0", "--device", "cpu"]) == 0
    assert "trained from step 0 to 1" in capsys.readouterr().out
    words[words.index("--model") + 1] = "embedded"
    words[3] = str(tmp_path / "other")
    assert cli.main([*words, "--loss-lpips", "0", "--device", "cpu"]) == 2
    assert "is Stable Diffusion's: name its diffusers folder" in capsys.readouterr().err

"""The memory plan of Stable Diffusion's families against what autograd really keeps, and against the papers' sizes."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from saved_tensors import really_kept
from unet_models import UNET, VAE, make_d4, make_sd_vae, make_tvt_unet, make_unet, write_dino, write_sd_folder

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError
from op4ksr_core.train.memory import kept_for_backward, largest_crop, meta_model, plan_training
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.strategies.choose import load_strategy
from op4ksr_core.train.strategies.unet import UNetStrategy
from op4ksr_core.weights.unet_sources import UNetSources

pytestmark = pytest.mark.long

CROP = 64


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of each family, DINOv2, a negative prompt, and a UNet that is only described."""
    root = tmp_path_factory.mktemp("unet-memory")
    write_sd_folder(root / "osediff", make_unet(), make_sd_vae())
    write_sd_folder(root / "tvt", make_tvt_unet(), make_d4())
    write_dino(root / "dino")
    shutil.copytree(root / "osediff", root / "f2idiff-prior")
    (root / "f2idiff-prior" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    save_file({"prompt_embeds": torch.randn(1, 7, 24)}, root / "negative.safetensors")
    return root


def settings_of(preset, made, **changes):
    losses = replace(PRESETS[preset].losses, lpips=0.0, adversarial=0.0)
    small = {"per_device": 2, "crop": CROP, "precision": "no", "checkpointing": False, "losses": losses}
    return replace(PRESETS[preset], negative=str(made / "negative.safetensors"), **small | changes)


def sources_of(preset, made):
    if preset == "tvt-decoder":
        return UNetSources.find(made / "osediff", conditioned=False)
    if preset.startswith("f2idiff"):
        folder = preset if preset == "f2idiff-prior" else "osediff"
        return UNetSources.find(made / folder, features=made / "dino")
    return UNetSources.find(made / preset)


def batch_of(settings):
    small = settings.crop // settings.scale
    return {
        "lr": torch.rand(2, 3, small, small),
        "hr": torch.rand(2, 3, settings.crop, settings.crop),
        "seed": torch.tensor([3, 4]),
    }


@pytest.mark.parametrize("preset", ["osediff", "tvt", "f2idiff", "f2idiff-prior", "tvt-decoder"])
def test_the_plan_without_weights_is_what_autograd_keeps_and_what_the_model_holds(preset, made):
    settings, sources = settings_of(preset, made), sources_of(preset, made)
    model, plan = load_strategy(sources, settings), plan_training(meta_model(sources, settings), settings)
    assert plan.activations == pytest.approx(really_kept(model, *model.inputs(batch_of(settings))), rel=0.03)
    regulariser = model.distillation.weights() if model.distillation else {}
    learned = [*model.trainable().values(), *regulariser.values()]
    assert plan.trained == 16 * sum(p.numel() for p in learned)
    assert plan.frozen == sum(4 * p.numel() for p in model.parameters() if not p.requires_grad)


def test_with_checkpointing_it_is_the_blocks_inputs_and_the_largest_block(made):
    sources, settings = sources_of("osediff", made), settings_of("osediff", made, checkpointing=True)
    model = load_strategy(sources, settings)
    inputs = model.inputs(batch_of(settings))
    outside = really_kept(model, *inputs)
    plan = plan_training(meta_model(sources, settings), settings)
    whole = kept_for_backward(model, inputs, False)
    assert outside < plan.activations < 0.7 * whole


def test_the_published_sizes_are_in_the_plan():
    """OSEDiff (arXiv 2406.08177) trains 8.49 M weights with the regulariser; Stable Diffusion 2.1's UNet has 866 M."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    wide = {"block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": [5, 10, 20, 20]}
    settings = replace(PRESETS["osediff"], losses=replace(PRESETS["osediff"].losses, lpips=0.0), per_device=1)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET | wide | {"cross_attention_dim": 1024}).to(torch.bfloat16)
        vae = AutoencoderKL(**VAE | {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2})
        model = UNetStrategy(unet, vae, torch.zeros(1, 77, 1024), replace(settings, whole_layers=""))
    first = sum(p.numel() for p in (unet.conv_in.base_layer.weight, unet.conv_in.base_layer.bias))
    plan = plan_training(model, settings)
    print(plan)
    assert plan.trained_parameters + first == pytest.approx(8.49e6, abs=5e3)
    vae_bytes = 4 * sum(p.numel() for n, p in vae.named_parameters() if ".lora_" not in n)
    encoder = 4 * sum(p.numel() for p in model.hr_encoder.parameters())
    assert (plan.frozen - vae_bytes - encoder) / 2 == pytest.approx(866e6, abs=1e6)


def test_the_command_prints_the_plan_and_refuses_to_share_a_unet(made, capsys):
    command = ["train", "--model", str(made / "osediff"), "--loss-lpips", "0"]
    assert cli.main([*command, "--preset", "osediff", "--crop", "256", "--plan"]) == 0
    assert "memory plan per GPU" in capsys.readouterr().out
    assert cli.main([*command, "--preset", "osediff", "--plan", "--shard", "--processes", "2"]) == 2
    assert "--shard" in capsys.readouterr().err


def test_the_largest_crop_of_a_unet_fits(made):
    sources, settings = sources_of("osediff", made), settings_of("osediff", made)
    model = meta_model(sources, settings)
    room = plan_training(model, settings, 512).total + 1
    assert largest_crop(model, settings, room, most=768) == 512
    with pytest.raises(SettingError):
        plan_training(model, settings, shards=2)

"""TVT (arXiv 2507.20291) by its numbers: what is trained, how large its parts are and what they compute."""

import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from unet_models import UNET, VAE, make_d4, make_sd_vae, make_tvt_unet, make_unet

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError, WeightsError
from op4ksr_core.geometry import Size
from op4ksr_core.model.vae import NoMiddle
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.strategies.unet import UNetStrategy
from op4ksr_core.weights.ce_unet import ce_unet_config, make_ce_unet
from op4ksr_core.weights.unet_adapters import find_unet_adapter
from op4ksr_core.weights.unet_sources import load_unet

SD21 = UNET | {
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
}
SD_VAE = VAE | {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}


def on_meta(make, **config):
    with torch.device("meta"):
        return make(**config)


def new_unet(**config):
    from diffusers import UNet2DConditionModel

    return on_meta(UNet2DConditionModel, **config)


def new_vae(**config):
    from diffusers import AutoencoderKL

    return on_meta(AutoencoderKL, **config)


def new_d4():
    three = {name: VAE[name][:3] for name in ("down_block_types", "up_block_types")}
    vae = new_vae(**SD_VAE | three | {"block_out_channels": [128, 256, 256]})
    vae.encoder.mid_block = vae.decoder.mid_block = NoMiddle()
    return vae


def tera_macs(run, scores=True):
    """Multiply-adds of a call, in 10^12; without `scores` attention's products of activations are left out, as the
    papers' counter leaves them out."""
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        run()
    operations = counted.get_flop_counts()["Global"]
    kept = [count for kind, count in operations.items() if scores or str(kind) != "aten.bmm"]
    return sum(kept) / 2e12


def millions(parameters):
    return sum(p.numel() for p in parameters) / 1e6


def settings_of(preset, **changes):
    losses = replace(PRESETS[preset].losses, lpips=0.0, vsd=0.0)
    return replace(PRESETS[preset], losses=losses, precision="no", checkpointing=False, **changes)


def test_the_sizes_of_vae_d4_are_the_papers():
    d4 = new_d4()
    picture, z = torch.zeros(1, 3, 512, 512, device="meta"), torch.zeros(1, 4, 128, 128, device="meta")
    assert millions(d4.parameters()) == pytest.approx(15.16, abs=0.005)
    assert tera_macs(lambda: (d4.encoder(picture), d4.decoder(z))) == pytest.approx(1.115, abs=0.0005)


@pytest.mark.long
@pytest.mark.parametrize(
    ("config", "macs"), [(SD21, 1.3504), (ce_unet_config(SD21), 0.7326)], ids=["SD 2.1", "CE-UNet"]
)
def test_the_unets_compute_what_the_paper_counts(config, macs):
    """Both on the 128x128 latent of a 512-px picture under VAE-D4."""
    unet = new_unet(**config)
    z, prompt = torch.zeros(1, 4, 128, 128, device="meta"), torch.zeros(1, 77, 1024, device="meta")
    at = torch.ones(1, device="meta")
    assert tera_macs(lambda: unet(z, at, encoder_hidden_states=prompt), scores=False) == pytest.approx(macs, abs=5e-5)


@pytest.mark.long
def test_osediff_trains_8_49_million_weights():
    """OSEDiff (arXiv 2406.08177) counts the step and VSD's regulariser together: rank 4 on UNet, encoder and UNet
    again, and conv_in."""
    settings = replace(settings_of("osediff"), losses=PRESETS["osediff"].losses)
    model = UNetStrategy(new_unet(**SD21), new_vae(**SD_VAE), None, settings)
    trained = [*model.trainable().values(), *model.distillation.weights().values()]
    assert millions(trained) == pytest.approx(8.49, abs=0.005)


@pytest.mark.long
def test_tvt_trains_30_06_million_more_than_conv_in_and_nothing_of_the_vae():
    def trained(**changes):
        model = UNetStrategy(new_unet(**ce_unet_config(SD21)), new_d4(), None, settings_of("tvt", **changes))
        return model.trainable()

    own, first = trained(), trained(whole_layers="conv_in")
    assert millions(own.values()) - millions(first.values()) == pytest.approx(30.06, abs=0.005)
    assert not [name for name in own if name.startswith("vae.")]
    assert {"transformer.up_blocks.4.resnets.0.norm1.weight", "transformer.conv_out.base_layer.bias"} <= own.keys()


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(SettingError, match=r"whole_layers.*'up_blocks\.7'"):
        UNetStrategy(make_tvt_unet(), make_d4(), None, settings_of("tvt", whole_layers="conv_in up_blocks.7"))


@pytest.mark.slow
def test_the_ce_unet_has_the_blocks_of_its_unet(tmp_path):
    base = make_unet()
    base.save_pretrained(tmp_path / "sd" / "unet")
    assert cli.main(["convert", str(tmp_path / "sd"), "-o", str(tmp_path / "tvt"), "--to", "ce-unet"]) == 0
    made = load_unet(tmp_path / "tvt", torch.float32)
    assert made.config.block_out_channels == [32, 32, 64, 128, 128]
    own, new = base.state_dict(), made.state_dict()
    for theirs, ours in (
        ("conv_in.weight", "conv_in.weight"),
        ("down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.conv1.weight"),
        ("down_blocks.0.resnets.0.conv1.weight", "down_blocks.1.resnets.0.conv1.weight"),
        ("down_blocks.3.resnets.1.conv2.bias", "down_blocks.4.resnets.1.conv2.bias"),
        ("up_blocks.3.resnets.0.conv1.weight", "up_blocks.3.resnets.0.conv1.weight"),
        ("up_blocks.3.resnets.1.conv1.weight", "up_blocks.4.resnets.0.conv1.weight"),
        ("up_blocks.3.attentions.2.proj_out.weight", "up_blocks.4.attentions.2.proj_out.weight"),
    ):
        assert torch.equal(own[theirs], new[ours]), ours
    x = torch.randn(1, 32, 4, 4)
    upsampled = made.up_blocks[3].upsamplers[0](x)
    assert torch.allclose(upsampled, x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    z = torch.randn(1, 4, 16, 16)
    assert made(z, 1, encoder_hidden_states=torch.randn(1, 7, 24)).sample.shape == z.shape


def test_a_unet_without_its_levels_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="attention_head_dim is 8"):
        ce_unet_config(SD21 | {"attention_head_dim": 8})
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path))):
        make_ce_unet(tmp_path)


def test_a_tvt_checkpoint_holds_the_whole_layers_and_no_half_for_the_vae(tmp_path):
    model = UNetStrategy(make_tvt_unet(), make_d4(), torch.zeros(1, 7, 24), settings_of("tvt"))
    model.export()(tmp_path)
    found = find_unet_adapter(tmp_path / "adapters.safetensors")
    assert found.family == "tvt" and set(found.lora) == {"unet"}
    blocks = {".".join(key.split(".")[:2]) for key in found.layers["unet"]}
    wanted = {"down_blocks.0", "up_blocks.3", "up_blocks.4", "conv_in.weight", "conv_in.bias"}
    assert blocks == wanted | {"conv_out.weight", "conv_out.bias"}


@pytest.mark.slow
def test_vsd_distils_from_a_unet_of_its_own(tmp_path):
    """TVT's code: the frozen and the regularised network are Stable Diffusion's UNet, on 64x64 quadrants."""
    settings = replace(settings_of("tvt"), losses=PRESETS["tvt"].losses)
    prior = make_unet()
    model = UNetStrategy(
        make_tvt_unet(), make_d4(), torch.randn(1, 7, 24), settings, torch.randn(1, 7, 24), prior=prior
    )
    z = torch.randn(1, 4, 16, 16, requires_grad=True)
    restored = model(torch.rand(1, 3, 16, 16), Size(64, 64))._replace(z=z)
    assert model.distillation.unet is prior
    seeds = torch.tensor([3])
    model.distillation.loss(restored, seeds).backward()
    assert float(z.grad.abs().sum()) > 0
    assert model.distillation.weights().keys() and all(key.startswith("prior.") for key in model.distillation.weights())
    with model.distillation.active("regulariser"):
        model.distillation.regulariser_loss(restored, seeds).backward()
    grads = [p.grad for p in model.distillation.weights().values() if p.grad is not None]
    assert any(float(g.abs().sum()) > 0 for g in grads)
    assert not [name for name in model.trainable() if name.startswith("prior.")]


def test_the_sd_vae_keeps_its_lora_in_osediff():
    model = UNetStrategy(make_unet(), make_sd_vae(), torch.zeros(1, 7, 24), settings_of("osediff"))
    assert [name for name in model.trainable() if name.startswith("vae.quant_conv")]

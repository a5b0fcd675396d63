"""Small models of Stable Diffusion's shape with random weights, and OSEDiff's and TVT's files for them."""

import json

import torch
from safetensors.torch import save_file

from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.write import write_picture

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [32, 64, 128, 128],
    "layers_per_block": 2,
    "attention_head_dim": [1, 2, 4, 4],
    "cross_attention_dim": 24,
    "use_linear_projection": True,
    "norm_num_groups": 32,
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 32, 64, 64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}


def make_unet(**changes):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(5)
    return UNet2DConditionModel(**UNET | changes).requires_grad_(False).eval()


def make_tvt_unet(**changes):
    """Its first and last block come twice: five levels."""
    return make_unet(
        down_block_types=["CrossAttnDownBlock2D"] * 4 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 4,
        block_out_channels=[32, 32, 64, 128, 128],
        attention_head_dim=[1, 1, 2, 4, 4],
        **changes,
    )


def make_sd_vae(**changes):
    from diffusers import AutoencoderKL

    torch.manual_seed(6)
    return AutoencoderKL(**VAE | changes).requires_grad_(False).eval()


def make_d4():
    """TVT's VAE: three levels, no middle block."""
    from op4ksr_core.model.vae import NoMiddle

    vae = make_sd_vae(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[32, 64, 64],
    )
    vae.encoder.mid_block = vae.decoder.mid_block = NoMiddle()
    return vae


def write_sd_folder(folder, unet, vae, prediction="epsilon", tokens=7):
    """A diffusers folder with UNet, VAE, scheduler and prompt."""
    unet.save_pretrained(folder / "unet")
    (folder / "vae").mkdir(parents=True)
    state = {key: value.contiguous() for key, value in vae.state_dict().items()}
    save_file(state, folder / "vae" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (folder / "vae" / "config.json").write_text(json.dumps({"scaling_factor": 0.18215, "norm_num_groups": 32}))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"prediction_type": prediction}))
    generator = torch.Generator().manual_seed(7)
    width = unet.config.cross_attention_dim
    save_file({"prompt_embeds": torch.randn(1, tokens, width, generator=generator)}, folder / "prompt.safetensors")
    return folder


UNET_WORDS = (
    "to_k to_q to_v to_out.0 conv conv1 conv2 conv_in conv_shortcut conv_out proj_out proj_in ff.net.2 ff.net.0.proj"
).split()
VAE_WORDS = "conv1 conv2 conv_in conv_shortcut conv conv_out to_k to_q to_v to_out.0".split()


def unet_modules(unet):
    """The modules that get a LoRA, in OSEDiff's three groups."""
    groups = {"encoder": [], "decoder": [], "others": []}
    for name, _ in unet.named_parameters():
        if name.endswith("bias") or "norm" in name or not any(word in name for word in UNET_WORDS):
            continue
        first = name.split(".")[0]
        group = {"down_blocks": "encoder", "conv_in": "encoder", "up_blocks": "decoder", "conv_out": "decoder"}
        groups[group.get(first, "others")].append(name.removesuffix(".weight"))
    return groups


def vae_modules(vae):
    """The modules of the encoder and of quant_conv that get one."""
    names = [n for n, _ in vae.named_parameters() if not n.endswith("bias") and "norm" not in n]
    inside = [n for n in names if n.startswith("encoder.") and any(word in n for word in VAE_WORDS)]
    return [n.removesuffix(".weight") for n in [*inside, *(n for n in names if n.startswith("quant_conv"))]]


def put_loras(unet, vae, rank=4):
    """OSEDiff's adapters on both, B not zero, and another conv_in; in place. Returns what its file holds."""
    from peft import LoraConfig

    groups, encoder = unet_modules(unet), vae_modules(vae)
    for group, modules in groups.items():
        unet.add_adapter(LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=modules), f"default_{group}")
    vae.add_adapter(LoraConfig(r=rank, init_lora_weights="gaussian", target_modules=encoder), "default_encoder")
    generator = torch.Generator().manual_seed(8)
    for model in (unet, vae):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    base = unet.conv_in.base_layer
    base.weight.data += 0.02 * torch.randn(base.weight.shape, generator=generator)
    unet.set_adapter([f"default_{group}" for group in groups])
    held = {f"unet_lora_{group}_modules": modules for group, modules in groups.items()}
    held |= {"vae_lora_encoder_modules": encoder, "rank_unet": rank, "rank_vae": rank}
    held["state_dict_unet"] = {k: v for k, v in unet.state_dict().items() if "lora" in k or "conv_in" in k}
    held["state_dict_vae"] = {k: v for k, v in vae.state_dict().items() if "lora" in k}
    return held


def write_photos(folder, photo):
    """Three crops of a photo, 160 px a side."""
    folder.mkdir()
    for n in range(3):
        write_picture(folder / f"{n}.png", Picture(photo[..., 90 * n : 90 * n + 160, 40:200]))


def write_dino(folder):
    """A DINOv2 of one layer, 24 wide, in transformers' folder."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(9)
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=518, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)

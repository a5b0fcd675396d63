"""Writes small models to disk in every layout that the loader reads."""

import json
import shutil

import torch
from builders import TRANSFORMER, make_transformer, make_vae
from places import ROOT
from safetensors.torch import save_file

OMGSR_TRANSFORMER = (
    "x_embedder attn.to_q attn.to_k attn.to_v attn.to_out.0 attn.add_q_proj attn.add_k_proj attn.add_v_proj "
    "attn.to_add_out ff.net.0.proj ff.net.2 ff_context.net.0.proj ff_context.net.2"
).split()
OMGSR_ENCODER = "conv1 conv2 conv_in conv_shortcut conv conv_out to_q to_k to_v to_out.0".split()


def contiguous(state):
    return {k: v.contiguous() for k, v in state.items()}


def write_model(folder, transformer, vae, stride=2):
    """A diffusers folder with transformer, VAE (its config saying `stride`) and prompt."""
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"stride": stride}))
    write_prompt(folder / "prompt.safetensors")
    return folder


def write_prompt(path, width=TRANSFORMER["joint_attention_dim"], pooled=TRANSFORMER["pooled_projection_dim"]):
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "prompt_embeds": torch.randn(1, 5, width, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, pooled, generator=generator),
    }
    save_file(tensors, path)
    return path


def add_lora(model, targets, rank=4, alpha=4, **settings):
    """Injects a LoRA with non-zero B into `model`; returns (peft model, peft's own state dict)."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    torch.manual_seed(4)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights="gaussian", **settings)
    wrapped = get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return wrapped, get_peft_model_state_dict(wrapped)


def write_omgsr_adapters(folder, transformer, vae):
    """flux_adapter and vae_encoder_adapter as peft saves them; returns the two wrapped models."""
    flux, _ = add_lora(transformer, OMGSR_TRANSFORMER)
    encoder, _ = add_lora(vae.encoder, OMGSR_ENCODER)
    flux.save_pretrained(folder / "flux_adapter")
    encoder.save_pretrained(folder / "vae_encoder_adapter")
    return flux.eval(), encoder.eval()


def to_ldm(state):
    """A slow, separate writer of BFL's VAE layout for four levels."""
    out = {}
    for key, value in state.items():
        key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        for i in range(4):
            key = key.replace(f"down_blocks.{i}.resnets", f"down.{i}.block")
            key = key.replace(f"down_blocks.{i}.downsamplers.0", f"down.{i}.downsample")
            key = key.replace(f"up_blocks.{i}.resnets", f"up.{3 - i}.block")
            key = key.replace(f"up_blocks.{i}.upsamplers.0", f"up.{3 - i}.upsample")
        key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        for a, b in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            key = key.replace(f"mid_block.attentions.0.{a}", f"mid.attn_1.{b}")
        out[key] = value[:, :, None, None] if "attn_1" in key and value.ndim == 2 else value
    return out


def write_probe_model(base):
    """What the probes inside ComfyUI read: the extension, and a small model, its VAE at 16x, and at 8x in `f8`."""
    (base / "op4ksr").symlink_to(ROOT)
    vae = {"norm_num_groups": 32, "block_out_channels": [32, 32, 64, 64]}
    folder = write_model(base / "model", make_transformer(num_attention_heads=2), make_vae(**vae))
    shutil.copytree(folder / "transformer", folder / "f8" / "transformer")
    write_model(folder / "f8", make_transformer(num_attention_heads=2), make_vae(**vae), stride=1)
    return folder

"""Random weights in the places, and under the names, that the example workflows ask for.

The transformers are small or shallow; ComfyUI's own loaders know FLUX by its full widths, so that those files have
them (T5's, all zeros, is a sparse file).
"""

import json
import struct
import subprocess
from pathlib import Path

import torch
from builders import make_transformer, make_vae
from comfy_server import python_of
from model_files import contiguous, write_model, write_omgsr_adapters, write_prompt
from safetensors.torch import save_file
from unet_models import make_d4, make_sd_vae, make_tvt_unet, make_unet, put_loras, write_sd_folder

from op4ksr_core.weights.key_layouts import transformer_to_bfl, vae_to_ldm

FLUX_VAE = {"block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32, "layers_per_block": 2}


def write_stand_ins(base):
    """Everything below a ComfyUI base directory that workflows/*.json name."""
    models = base / "models"
    _write_ultraflux(models)
    _write_flux_dev(models)
    _write_relatives(models, base / "input")
    write_esrgan(models / "upscale_models" / "RealESRGAN_x4plus.safetensors")
    write_prompt(base / "input" / "flux_fixed_prompt.safetensors", 4096, 768)


def write_esrgan(path, width=8, growth=32):
    """An ESRGAN of one block that enlarges by the nearest pixel, roughly: its first and last layers pass on RGB."""

    def conv(state, name, source, to):
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.zeros(to, source, 3, 3), torch.zeros(to)
        for channel in range(min(3, source, to)):
            state[f"{name}.weight"][channel, channel, 1, 1] = 1

    state = {}
    conv(state, "conv_first", 3, width)
    for dense in (1, 2, 3):
        for layer in range(5):
            to = width if layer == 4 else growth
            conv(state, f"body.0.rdb{dense}.conv{layer + 1}", width + layer * growth, to)
            state[f"body.0.rdb{dense}.conv{layer + 1}.weight"] *= 0
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(state, name, width, width)
    state["conv_body.weight"] *= 0
    conv(state, "conv_last", width, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def _write_ultraflux(models):
    """A small UltraFlux-v1 in diffusers' folders, sharded, stride 2 in its VAE's config, and OP4KSR adapters for it."""
    folder = models / "diffusers" / "UltraFlux-v1"
    size = {"num_attention_heads": 2, "joint_attention_dim": 4096, "pooled_projection_dim": 768}
    vae = {"norm_num_groups": 32, "block_out_channels": [32, 32, 64, 64]}
    write_model(folder, make_transformer(**size), make_vae(**vae))
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    make_transformer(**size).save_pretrained(folder / "transformer", max_shard_size="1MB")
    write_omgsr_adapters(models / "loras" / "op4ksr", make_transformer(**size), make_vae(**vae))


def _write_relatives(models, inputs):
    """Small Stable Diffusion and TVT folders, their adapters as published, and a prompt for both."""
    base = write_sd_folder(models / "diffusers" / "stable-diffusion-2-1-base", make_unet(), make_sd_vae())
    write_sd_folder(models / "diffusers" / "tvt", make_tvt_unet(), make_d4())
    write_sd_folder(models / "diffusers" / "f2idiff", make_unet(cross_attention_dim=1024), make_sd_vae())
    (models / "clip_vision").mkdir(exist_ok=True)
    write_zeros(models / "clip_vision" / "dinov2_large.safetensors", dino_shapes(), "F16")
    (base / "prompt.safetensors").rename(inputs / "sd_prompt.safetensors")
    torch.save(put_loras(make_unet(), make_sd_vae()), models / "loras" / "osediff.pkl")
    held = put_loras(make_tvt_unet(), make_sd_vae())
    torch.save({key: value for key, value in held.items() if "vae" not in key}, models / "loras" / "model_TVT.pkl")


def _write_flux_dev(models):
    """FLUX.1-dev with two blocks instead of 57, its VAE, its two text encoders, and OMGSR-F adapters for it."""
    size = {"num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768}
    size |= {"num_single_layers": 1}
    transformer = make_transformer(**size).bfloat16()
    for kind in ("diffusion_models", "vae", "text_encoders"):
        (models / kind).mkdir(parents=True, exist_ok=True)
    state = contiguous(transformer_to_bfl(transformer.state_dict()))
    save_file(state, models / "diffusion_models" / "flux1-dev.safetensors")
    vae = make_vae(**FLUX_VAE)
    save_file(contiguous(vae_to_ldm(vae.state_dict())), models / "vae" / "ae.safetensors")
    write_omgsr_adapters(models / "loras" / "OMGSR-F-1024", transformer, vae)
    write_zeros(models / "text_encoders" / "t5xxl_fp8_e4m3fn.safetensors", t5_shapes(), "F8_E4M3")
    write_zeros(models / "text_encoders" / "clip_l.safetensors", clip_shapes(), "F16")


def write_seedvr2(server, scratch):
    """SeedVR2 3B and its VAE of zeros, under the names that its template asks for; ComfyUI tells the shapes."""
    script = Path(__file__).with_name("seedvr2_shapes.py")
    comfyui = server.comfyui
    subprocess.run([python_of(comfyui), script, comfyui, scratch / "shapes.json"], check=True, capture_output=True)
    shapes = json.loads((scratch / "shapes.json").read_text())
    for folder, name, part in (
        ("diffusion_models", "seedvr2_3b_int8_convrot.safetensors", "dit"),
        ("vae", "seedvr2_ema_vae_fp16.safetensors", "vae"),
    ):
        (server.base / "models" / folder).mkdir(exist_ok=True)
        write_zeros(server.base / "models" / folder / name, shapes[part], "F16")


def write_zeros(path, shapes, dtype):
    """A safetensors file of zeros that takes no room on the disk."""
    width = {"F8_E4M3": 1, "F16": 2}[dtype]
    header, end = {}, 0
    for name, shape in shapes.items():
        size = width * int(torch.Size(shape).numel())
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def dino_shapes():
    """DINOv2-large, as transformers names it."""
    width = 1024
    shapes = {"embeddings.cls_token": (1, 1, width), "embeddings.mask_token": (1, width)}
    shapes |= {"embeddings.position_embeddings": (1, 1370, width)}
    shapes |= {"embeddings.patch_embeddings.projection.weight": (width, 3, 14, 14)}
    shapes |= {"embeddings.patch_embeddings.projection.bias": (width,)}
    shapes |= {"layernorm.weight": (width,), "layernorm.bias": (width,)}
    for number in range(24):
        layer = f"encoder.layer.{number}"
        linear = {f"attention.attention.{x}": (width, width) for x in ("query", "key", "value")}
        linear |= {
            "attention.output.dense": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }
        for name, shape in linear.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        for n in (1, 2):
            shapes |= {f"{layer}.norm{n}.{x}": (width,) for x in ("weight", "bias")}
            shapes[f"{layer}.layer_scale{n}.lambda1"] = (width,)
    return shapes


def t5_shapes():
    """T5-XXL's encoder."""
    shapes = {"shared.weight": (32128, 4096), "encoder.final_layer_norm.weight": (4096,)}
    for block in range(24):
        layer = f"encoder.block.{block}.layer"
        shapes |= {f"{layer}.0.SelfAttention.{x}.weight": (4096, 4096) for x in "qkvo"}
        shapes |= {f"{layer}.{i}.layer_norm.weight": (4096,) for i in (0, 1)}
        shapes |= {f"{layer}.1.DenseReluDense.{x}.weight": (10240, 4096) for x in ("wi_0", "wi_1")}
        shapes[f"{layer}.1.DenseReluDense.wo.weight"] = (4096, 10240)
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, 64)
    return shapes


def clip_shapes():
    """CLIP-L's text encoder."""
    shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, 768),
        "text_model.embeddings.position_embedding.weight": (77, 768),
    }
    for block in range(12):
        layer = f"text_model.encoder.layers.{block}"
        linears = {f"self_attn.{x}_proj": (768, 768) for x in ("q", "k", "v", "out")}
        linears |= {"mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
        for name, shape in linears.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}.{name}.{x}": (768,) for x in ("weight", "bias")}
    return shapes | {f"text_model.final_layer_norm.{x}": (768,) for x in ("weight", "bias")}

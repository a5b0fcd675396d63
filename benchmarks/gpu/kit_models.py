"""Model files of random weights, written with ComfyUI's own classes: python kit_models.py MODELS INPUT DEVICE [--tiny]

Run with ComfyUI and its packages on PYTHONPATH. FLUX is 3072 wide, since ComfyUI's loader knows no other width.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

AXES = [16, 56, 56]
TOKENS, CONTEXT, POOLED = 512, 4096, 768
E4M3_LARGEST = 448.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path)
    parser.add_argument("input", type=Path)
    parser.add_argument("device")
    parser.add_argument("--tiny", action="store_true", help="one double and one single block")
    arguments = parser.parse_args()
    tell_comfyui(arguments.device)
    torch.manual_seed(0)
    for name in ("diffusion_models", "vae"):
        (arguments.models / name).mkdir(exist_ok=True)
    flux = flux_state(arguments.device, *((1, 1) if arguments.tiny else (2, 4)))
    for name, state in (("bf16", flux), ("e4m3", to_e4m3(flux)), ("scaled", to_scaled_e4m3(flux))):
        save(state, arguments.models / "diffusion_models" / f"flux_{name}.safetensors")
    save(vae_state(arguments.device), arguments.models / "vae" / "flux_vae.safetensors")
    tokens = 8 if arguments.tiny else TOKENS
    prompt = {"prompt_embeds": torch.randn(1, tokens, CONTEXT), "pooled_prompt_embeds": torch.randn(1, POOLED)}
    save(prompt, arguments.input / "kit_prompt.safetensors")


def tell_comfyui(device: str) -> None:
    """ComfyUI reads its options when it is first imported, if it is told to."""
    import comfy.options

    sys.argv = [sys.argv[0], "--cpu"] if device == "cpu" else sys.argv[:1]
    comfy.options.enable_args_parsing()


def save(state: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.cpu().contiguous() for name, value in state.items()}, path)


def filled(module: torch.nn.Module, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """A state of the module's shapes: norms pass on, biases are 0, other weights keep their input's deviation."""
    state = {}
    for name, value in module.state_dict().items():
        if value.ndim > 1:
            weight = torch.randn(value.shape, device=device, dtype=dtype)
            state[name] = weight.div_(math.sqrt(value[0].numel()))
        elif "norm" in name and not name.endswith("bias"):
            state[name] = torch.ones(value.shape, device=device, dtype=dtype)
        else:
            state[name] = torch.zeros(value.shape, device=device, dtype=dtype)
    return state


def flux_state(device: str, double: int, single: int) -> dict[str, Tensor]:
    """FLUX.1-dev's layers in BFL's names, bfloat16."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    shape = {
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": POOLED,
        "context_in_dim": CONTEXT,
        "hidden_size": sum(AXES) * 24,
        "mlp_ratio": 4.0,
        "num_heads": 24,
        "depth": double,
        "depth_single_blocks": single,
        "axes_dim": AXES,
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
    }
    empty = Flux(**shape, dtype=torch.bfloat16, device="meta", operations=comfy.ops.disable_weight_init)
    return filled(empty, device, torch.bfloat16)


def is_product(name: str, value: Tensor) -> bool:
    """Whether fp8 files hold this tensor in 8 bits: the blocks' matrices."""
    return value.ndim == 2 and "blocks." in name


def to_e4m3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The blocks' matrices as plain e4m3."""
    return {name: value.to(torch.float8_e4m3fn) if is_product(name, value) else value for name, value in state.items()}


def to_scaled_e4m3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The blocks' matrices as e4m3 with a scale each, in ComfyUI's layout: weight_scale, and comfy_quant as JSON."""
    layout = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    out = {}
    for name, value in state.items():
        if not is_product(name, value):
            out[name] = value
            continue
        layer = name.removesuffix(".weight")
        scale = value.float().abs().max() / E4M3_LARGEST
        out[name] = (value.float() / scale).to(torch.float8_e4m3fn)
        out[f"{layer}.weight_scale"] = scale
        out[f"{layer}.comfy_quant"] = layout.clone()
    return out


def vae_state(device: str) -> dict[str, Tensor]:
    """FLUX.1's autoencoder at its full width, in BFL's names, bfloat16."""
    from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder

    shape = {
        "double_z": True,
        "z_channels": 16,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    with torch.device("meta"):
        halves = torch.nn.ModuleDict({"encoder": Encoder(**shape), "decoder": Decoder(**shape)})
    return filled(halves, device, torch.bfloat16)


if __name__ == "__main__":
    main()

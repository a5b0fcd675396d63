"""What a model is, read off its files' headers and config.json: widths, depths, scales, compression."""

import math
import re
from pathlib import Path

import torch

from ..errors import SettingError, WeightsError
from ..settings import HEADS
from . import key_layouts
from .files import WeightFiles, find_model, is_number

FLUX_VAE = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "norm_num_groups": 32}
"""FLUX.1's numbers, used for a single VAE file, which cannot carry them."""


_SCALES = (1e-3, 1e3)


Shapes = dict[str, tuple[int, ...]]


def transformer_config(shapes: Shapes, path: str | Path) -> dict:
    """diffusers' FluxTransformer2DModel settings, read off the tensor shapes (diffusers' layout).

    Raises WeightsError, which names `path`, where a tensor is missing.
    """

    def blocks(kind: str) -> int:
        numbers = [int(m[1]) for key in shapes if (m := re.match(rf"{kind}\.(\d+)\.", key))]
        return max(numbers) + 1 if numbers else 0

    try:
        width, channels = shapes["x_embedder.weight"]
        single = blocks("single_transformer_blocks")
        norm = f"{'single_' if single else ''}transformer_blocks.0.attn.norm_q.weight"
        head = shapes[norm][0]
        return {
            "patch_size": 1,
            "in_channels": channels,
            "num_layers": blocks("transformer_blocks"),
            "num_single_layers": single,
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": shapes["context_embedder.weight"][1],
            "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
            "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
            "axes_dims_rope": (16, (head - 16) // 2, (head - 16) // 2),
        }
    except KeyError as error:
        raise WeightsError(f"{path} holds no FLUX transformer: the tensor {error.args[0]} is missing.") from error


def vae_config(shapes: Shapes, given: dict | None, path: str | Path) -> dict:
    """diffusers' AutoencoderKL settings: structure from the shapes, the numbers from `given` or FLUX.1.

    Raises WeightsError, which names `path`, where a tensor is missing, and on a number that cannot be.
    """
    numbers = FLUX_VAE | {key: given[key] for key in FLUX_VAE if given and given.get(key) is not None}
    for name, value in numbers.items():
        if not is_number(value) or not math.isfinite(value) or (name != "shift_factor" and value <= 0):
            raise WeightsError(f"The VAE's config.json has {name} = {value!r}; it must be a finite number above 0.")
    if not _SCALES[0] <= numbers["scaling_factor"] <= _SCALES[1]:
        raise WeightsError(
            f"The VAE's config.json has scaling_factor = {numbers['scaling_factor']!r}; latents scaled by less than "
            f"{_SCALES[0]:g} or more than {_SCALES[1]:g} are no VAE's. Correct the config.json."
        )
    try:
        levels = [int(m[1]) for key in shapes if (m := re.match(r"encoder\.down_blocks\.(\d+)\.", key))]
        ups = 1 + max(levels, default=0)
        first = [int(m[1]) for key in shapes if (m := re.match(r"encoder\.down_blocks\.0\.resnets\.(\d+)\.", key))]
        channels = [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(ups)]
        latent = shapes["decoder.conv_in.weight"][1]
    except KeyError as error:
        raise WeightsError(f"{path} holds no FLUX-shaped VAE: the tensor {error.args[0]} is missing.") from error
    return numbers | {
        "down_block_types": ["DownEncoderBlock2D"] * ups,
        "up_block_types": ["UpDecoderBlock2D"] * ups,
        "block_out_channels": channels,
        "layers_per_block": max(first) + 1,
        "latent_channels": latent,
        "mid_block_add_attention": "decoder.mid_block.attentions.0.to_q.weight" in shapes,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def header_shapes(path: str | Path) -> Shapes:
    """Shape of every tensor of a transformer or autoencoder, by diffusers' names, from the files' headers alone."""
    shapes = find_model(path).shapes()
    for foreign, convert in (
        (key_layouts.is_bfl_transformer, key_layouts.transformer_to_diffusers),
        (key_layouts.is_ldm_vae, key_layouts.vae_to_diffusers),
    ):
        if foreign(set(shapes)):
            with torch.device("meta"):
                converted = convert({key: torch.empty(shape) for key, shape in shapes.items()})
            return {key: tuple(value.shape) for key, value in converted.items()}
    return shapes


def vae_layout(path: str | Path, f16: bool | None = None) -> tuple[tuple[int, ...], int]:
    """(channels of each level, picture px per latent px) of an autoencoder, from the files' headers alone.

    Raises WeightsError and SettingError as `load_vae` does.
    """
    files = find_model(path, "VAE")
    strided = is_strided(files, f16)
    channels = tuple(vae_config(header_shapes(path), files.config, path)["block_out_channels"])
    return channels, 2 ** (len(channels) - 1) * (2 if strided else 1)


def is_strided(files: WeightFiles, f16: bool | None) -> bool:
    if f16 is not None:
        said = files.config.get("stride") if files.config else None
        if said in (1, 2) and (said == 2) != f16:
            raise SettingError(
                f"{files.origin} compresses {8 * said}x by its config.json; {16 if f16 else 8}x was asked for. Leave "
                "--vae-factor (f16=) out, or correct the config.json."
            )
        return f16
    if files.config is None:
        raise SettingError(
            f"{files.origin} does not say whether it compresses 8x or 16x. Say so: f16=True (UltraFlux, OP4KSR) "
            "or f16=False (FLUX.1); on the command line --vae-factor 16 or 8."
        )
    return strided_by(files.config)


def strided_by(config: dict) -> bool:
    """Whether a VAE's config.json says stride 2 (F16). Raises WeightsError where it says neither 1 nor 2."""
    stride = config.get("stride", 1)
    if stride not in (1, 2):
        raise WeightsError(f"The VAE's config.json has stride = {stride!r}; it must be 1 (F8) or 2 (F16).")
    return stride == 2


def head_by(config: dict) -> str:
    """The F16 head that a VAE's config.json names; auto where it names none. Raises WeightsError on another name."""
    head = config.get("head", "auto")
    if head not in HEADS:
        raise WeightsError(f"The VAE's config.json has head = {head!r}; it must be one of {', '.join(HEADS)}.")
    return str(head)

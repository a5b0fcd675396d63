"""TVT's CE-UNet from the UNet of Stable Diffusion 2.1 (arXiv 2507.20291, section 3.3).

The first and the last block come twice, so that the UNet takes the latents of a 4x VAE at the cost of an 8x one.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from .files import find_weights
from .unet_sources import new_unet


def ce_unet_config(config: dict) -> dict:
    """The config.json of the CE-UNet by that of the UNet it is made from. Raises WeightsError where a level is
    missing."""
    first = ("down_block_types", "block_out_channels", "attention_head_dim")
    made = dict(config)
    for name in (*first, "up_block_types"):
        levels = config.get(name)
        if not isinstance(levels, list) or len(levels) < 2:
            raise WeightsError(f"A CE-UNet is made from a UNet that names each level; {name} is {levels!r}.")
        made[name] = [levels[0], *levels] if name in first else [*levels, levels[-1]]
    return made


def make_ce_unet(folder: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """The CE-UNet with the weights of a UNet's folder, in evaluation mode. Raises WeightsError.

    What the UNet has not is ours, for the paper does not say how it starts: in the new last block the first layer
    takes the second one's weights, whose shapes are the right ones, and the new upsampler starts as nearest x2.
    """
    files = find_weights(folder)
    if files.config is None:
        raise WeightsError(f"{folder} has no config.json, which says how the UNet is built.")
    with torch.device("meta"):
        unet = new_unet(Path(folder), ce_unet_config(files.config))
    last = len(files.config["up_block_types"]) - 1
    state = {name: _start_of(name, last, value, files.tensors()) for name, value in unet.state_dict().items()}
    unet.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    return unet.requires_grad_(False).eval()


def _start_of(name: str, last: int, wanted: Tensor, base: dict[str, Tensor]) -> Tensor:
    upsampler = f"up_blocks.{last}.upsamplers.0.conv."
    if name.startswith(upsampler):
        return _identity(wanted.shape)
    source = _source_of(name, last)
    if source not in base or base[source].shape != wanted.shape:
        raise WeightsError(f"The UNet has no {source} of the shape {list(wanted.shape)} for the CE-UNet's {name}.")
    return base[source]


def _source_of(name: str, last: int) -> str:
    """The layer of the UNet that a layer of the CE-UNet is copied from."""
    kind, _, rest = name.partition(".")
    if kind == "down_blocks":
        level, _, rest = rest.partition(".")
        return f"down_blocks.{max(0, int(level) - 1)}.{rest}"
    new_block = f"up_blocks.{last + 1}."
    if not name.startswith(new_block):
        return name
    inside = name.removeprefix(new_block).replace("resnets.0.", "resnets.1.", 1)
    return f"up_blocks.{last}.{inside}"


def _identity(shape: torch.Size) -> Tensor:
    """A convolution's weight (C, C, 3, 3) that changes nothing, or its bias (C,)."""
    value = torch.zeros(shape)
    if len(shape) > 1:
        value[range(shape[0]), range(shape[0]), shape[2] // 2, shape[3] // 2] = 1
    return value

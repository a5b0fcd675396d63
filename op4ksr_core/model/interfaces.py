"""What the core asks of models that come from elsewhere: diffusers, ComfyUI or a checkpoint of its own.

Their layers differ too much for one type, so a part that is walked through is `Any` here.
"""

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn


class Vae(Protocol):
    """An autoencoder laid out as diffusers' AutoencoderKL: `encoder`, `decoder`, scaling and shift in `config`."""

    encoder: Any
    decoder: Any
    config: Any

    def modules(self) -> Iterator[nn.Module]: ...

    def requires_grad_(self, requires_grad: bool) -> object: ...

    def eval(self) -> object: ...

    def to(self, *, memory_format: torch.memory_format) -> object: ...


AnyVae = TypeVar("AnyVae", bound=Vae)


class Transformer(Protocol):
    """diffusers' FluxTransformer2DModel, or what is called as it and has its two lists of blocks."""

    transformer_blocks: Any
    single_transformer_blocks: Any
    config: Any

    @property
    def dtype(self) -> torch.dtype: ...

    def requires_grad_(self, requires_grad: bool) -> object: ...

    def eval(self) -> object: ...

    def __call__(self, **inputs: object) -> Any: ...


AnyTransformer = TypeVar("AnyTransformer", bound=Transformer)


class Unet(Protocol):
    """diffusers' UNet2DConditionModel, or what is called as it."""

    @property
    def dtype(self) -> torch.dtype: ...

    def __call__(self, sample: Tensor, timestep: Tensor, *, encoder_hidden_states: Tensor) -> Any: ...


class PictureEncoder(Protocol):
    """A vision transformer as `transformers` calls it: DINOv2."""

    def __call__(self, *, pixel_values: Tensor) -> Any: ...

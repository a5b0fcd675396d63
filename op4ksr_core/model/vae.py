"""FLUX-shaped autoencoders at 16x compression (F16), with exact, lighter forms of their layers.

UltraFlux's F16 VAE is FLUX.1's AutoencoderKL with a stride-2 `conv_in` and a nearest x2 before
`conv_out`; keys and shapes of the weights do not change. Every class here is an exact rewrite of
the plain form (equal to float32 rounding) and keeps the parameter's name and object, so state
dicts, adapters and training see no difference.

A VAE here is any module with `encoder`, `decoder`, `config.scaling_factor` and
`config.shift_factor`, laid out as diffusers' AutoencoderKL.
"""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import SettingError
from ..settings import Head, check_choice
from .group_norm import by_triton, make_exact, norm_silu
from .interfaces import AnyVae, Vae
from .layer_weights import weights_of
from .wide_attention import wide_attention

# 1-D taps of a 3-tap kernel after nearest x2: phase 0 sees low-res pixels (-1, 0), phase 1 sees (0, 1).
_FOLD_2 = ([[1.0, 0, 0], [0, 1, 1]], [[1.0, 1, 0], [0, 0, 1]])
# The same on a common 3-tap window (-1, 0, 1).
_FOLD_3 = ([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1.0, 1, 0], [0, 0, 1]])


class PhaseUpsample(nn.Module):
    """Nearest x2 followed by a 3x3 convolution, as four 2x2 convolutions of the small input.

    16/36 of the multiplications and no enlarged input. (B, C, h, w) -> (B, D, 2h, 2w).
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, *_args: object) -> Tensor:
        # One row and column more than is wanted: cheaper than a padded copy of the input or windows of it.
        return self._phases(x, 1, x.shape[2])

    def rows(self, window: Tensor) -> Tensor:
        """The same for a strip that brings one row above and one below: (B, C, h + 2, w) -> (B, D, 2h, 2w)."""
        return self._phases(window, 0, window.shape[2] - 2)

    def _phases(self, x: Tensor, padding: int, height: int) -> Tensor:
        with weights_of(self.conv, x) as (weight, bias):
            return self._folded(x, padding, height, weight, bias)

    @staticmethod
    def _folded(x: Tensor, padding: int, height: int, weight: Tensor, bias: Tensor | None) -> Tensor:
        fold = weight.new_tensor(_FOLD_2)
        phases = torch.einsum("atd,bue,ocde->aboctu", fold, fold, weight)
        batch, _, _, width = x.shape
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        size = (batch, weight.shape[0], 2 * height, 2 * width)
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)
        for a in range(2):
            for b in range(2):
                whole = F.conv2d(x, phases[a, b].contiguous(memory_format=layout), bias, padding=(padding, 1))
                out[:, :, a::2, b::2] = whole[:, :, a : a + height, b : b + width]
        return out


class SubPixelHead:
    """Nearest x2 followed by a 3x3 convolution to few channels, as one convolution and a pixel shuffle.

    (B, C, h, w) -> (B, D, 2h, 2w). `partitioned` gives UltraFlux's published decode, one pixel down
    and right of `centered`, with row and column 0 from the zero padding. Made by `sub_pixel_head` out of a convolution
    of any class, which it remains: whatever loads, patches or casts that convolution's weights works on the head too.
    """

    mode: str

    @property
    def reach(self) -> tuple[int, int]:
        """Rows that a strip must bring along, above and below."""
        return (1, 1) if self.mode == "centered" else (2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "centered":
            return self._shuffled(x, (1, 1))
        return self.rows(F.pad(x, (0, 0, *self.reach)))

    def rows(self, window: Tensor) -> Tensor:
        """The same for a strip that brings `reach` rows along."""
        if self.mode == "centered":
            return self._shuffled(window, (0, 1))
        height, width = 2 * (window.shape[-2] - sum(self.reach)), 2 * window.shape[-1]
        shuffled = self._shuffled(F.pad(window, self.reach), (0, 0))
        return shuffled[..., 1 : height + 1, 1 : width + 1]

    def _shuffled(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        with weights_of(self, x) as (weight, bias):
            fold = weight.new_tensor(_FOLD_3)
            kernel = torch.einsum("atd,bue,ocde->oabctu", fold, fold, weight).flatten(0, 2)
            repeated = None if bias is None else bias.repeat_interleave(4)
            return F.pixel_shuffle(F.conv2d(x, kernel, repeated, padding=padding), 2)


@cache
def _head_class(base: type[nn.Conv2d]) -> type[nn.Conv2d]:
    return type(SubPixelHead.__name__, (SubPixelHead, base), {})


def sub_pixel_head(conv: nn.Conv2d, mode: str = "centered") -> nn.Conv2d:
    """The F16 head of a decoder's last convolution; both share their parameters. Raises SettingError."""
    check_choice("The F16 head", mode, get_args(Head))
    head = copy.copy(conv)
    head._parameters = dict(conv._parameters)
    head.__class__ = _head_class(type(conv))  # type: ignore[arg-type]
    head.mode = mode  # type: ignore[assignment]
    return head


class LeanResidual(nn.Module):
    """A residual block of an autoencoder without its copies: the sum is written over the second convolution's result.

    (B, C, h, w) -> (B, D, h, w). Takes over the layers of diffusers' block, under their names.
    """

    conv_shortcut: nn.Module | None

    def __init__(self, block: Any):
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = block.norm1, block.conv1, block.norm2, block.conv2
        self.nonlinearity, self.conv_shortcut = block.nonlinearity, block.conv_shortcut
        self.compiled: Callable[..., Tensor] | None = None

    def activated(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        """SiLU of a group norm."""
        if self.compiled is not None:
            return self.compiled(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        if by_triton(x):
            return norm_silu(norm, x)
        activated: Tensor = self.nonlinearity(norm(x))
        return activated

    def forward(self, x: Tensor, temb: None = None) -> Tensor:
        first = self.conv1(self.activated(self.norm1, x))
        hidden: Tensor = self.conv2(self.activated(self.norm2, first))
        return hidden.add_(x if self.conv_shortcut is None else self.conv_shortcut(x))


class LeanAttention:
    """Processor for the mid block's attention: never holds the full (tokens x tokens) score matrix."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> Tensor:
        batch, channels, height, width = hidden_states.shape
        tokens = rearrange(hidden_states, "b c h w -> b c (h w)")
        tokens = rearrange(attn.group_norm(tokens), "b c n -> b n c")
        q, k, v = (
            rearrange(f(tokens), "b n (heads c) -> b heads n c", heads=attn.heads)
            for f in (attn.to_q, attn.to_k, attn.to_v)
        )
        mixed = rearrange(wide_attention(q, k, v), "b heads n c -> b n (heads c)")
        mixed = attn.to_out[1](attn.to_out[0](mixed))
        change: Tensor = rearrange(mixed, "b n c -> b c n").reshape(batch, channels, height, width)
        rescale: float = attn.rescale_output_factor
        return (change + hidden_states) / rescale


class NoMiddle(nn.Module):
    """Stands where VAE-D4 has no middle block: nothing in it, nothing done."""

    def __init__(self) -> None:
        super().__init__()
        self.resnets, self.attentions = nn.ModuleList(), nn.ModuleList()

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


def make_f16(vae: AnyVae, head: str = "centered") -> AnyVae:
    """Turns an F8 VAE into an F16 one in place and returns it; the weights decide whether it is right.

    `head` is centered or partitioned. Raises SettingError if `conv_in` is strided already.
    """
    if is_f16(vae):
        raise SettingError("This VAE is F16 already: its conv_in has stride 2.")
    new_head = sub_pixel_head(vae.decoder.conv_out, head)
    vae.encoder.conv_in.stride = (2, 2)
    vae.decoder.conv_out = new_head
    return vae


def is_f16(vae: Vae) -> bool:
    """Whether the encoder's first convolution has stride 2."""
    return tuple(vae.encoder.conv_in.stride) == (2, 2)


def make_lean(vae: AnyVae) -> AnyVae:
    """Swaps a VAE's upsamplers, residual blocks and mid attention for their exact lighter forms, in place."""
    for block in vae.decoder.up_blocks:
        for i, upsampler in enumerate(block.upsamplers or []):
            if not isinstance(upsampler, PhaseUpsample):
                block.upsamplers[i] = PhaseUpsample(upsampler.conv)
    levels = (*vae.encoder.down_blocks, vae.encoder.mid_block, vae.decoder.mid_block, *vae.decoder.up_blocks)
    for block in levels:
        for i, resnet in enumerate(block.resnets):
            if not isinstance(resnet, LeanResidual) and resnet.output_scale_factor == 1:
                block.resnets[i] = LeanResidual(resnet)
    for part in (vae.encoder, vae.decoder):
        for attention in part.mid_block.attentions:
            if attention is not None:
                attention.set_processor(LeanAttention())
    return vae


def make_inference_only(vae: AnyVae) -> AnyVae:
    """Freezes a VAE, makes its group norms exact, and lets its activations overwrite their input.

    That saves one full-size tensor.
    """
    vae.requires_grad_(False)
    vae.eval()
    make_exact(vae)
    for module in vae.modules():
        if isinstance(module, nn.SiLU):
            module.inplace = True
    return vae


def finish_vae(vae: AnyVae) -> AnyVae:
    """Lean layers and no gradients: the form that the pipeline runs. Adapters come before this."""
    return make_inference_only(make_lean(vae))


def compile_norms(vae: AnyVae) -> AnyVae:
    """Makes one kernel of each lean residual block's group norms and activations, through torch.compile; in place.

    It keeps a map's memory layout, which PyTorch's own group norm on CUDA changes and the next convolution changes
    back. Works on the passes that run the blocks themselves, so `whole`.
    """
    compiled = torch.compile(_silu_of_norm, dynamic=True)
    for module in vae.modules():
        if isinstance(module, LeanResidual):
            module.compiled = compiled
    return vae


def _silu_of_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def downscale_factor(vae: Vae) -> int:
    """Picture pixels per latent pixel: 8 for FLUX.1's VAE, 16 once made F16."""
    doublings = len(vae.decoder.up_blocks) - 1 + is_f16(vae)
    return 1 << doublings


def encode(vae: Vae, image_bchw: Tensor, sample_seed: int | None = None) -> Tensor:
    """Picture (B, 3, H, W) in [0, 1] -> latent (B, C, H/f, W/f), shifted and scaled for the transformer.

    H and W are multiples of the VAE's factor f. Takes the posterior's mode, or a sample drawn on
    the CPU from `sample_seed` (equal on every device).
    """
    moments = vae.encoder(image_bchw * 2 - 1)
    if (quant_conv := getattr(vae, "quant_conv", None)) is not None:
        moments = quant_conv(moments)
    z = posterior_latent(moments, sample_seed) - (vae.config.shift_factor or 0.0)
    return z * float(vae.config.scaling_factor)


def posterior_latent(moments: Tensor, sample_seed: int | None = None) -> Tensor:
    """An encoder's mean and log variance (B, 2C, h, w) -> latent (B, C, h, w): the mode, or a sample whose noise is
    drawn for the whole batch on the CPU from `sample_seed`."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean if sample_seed is None else mean + _noise_like(mean, sample_seed) * _std(log_variance)


def _std(log_variance: Tensor) -> Tensor:
    return torch.exp(0.5 * log_variance.clamp(-30, 20))


def _noise_like(z: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(z.shape, generator=generator).to(z)


def decode(vae: Vae, z: Tensor) -> Tensor:
    """Latent (B, C, h, w) -> picture (B, 3, f*h, f*w), about [0, 1], not clamped."""
    z = z / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    if (post_quant_conv := getattr(vae, "post_quant_conv", None)) is not None:
        z = post_quant_conv(z)
    picture: Tensor = vae.decoder(z)
    return picture * 0.5 + 0.5

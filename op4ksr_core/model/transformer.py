"""A FLUX transformer's layers with fewer copies, for inference: exact rewrites, equal to rounding.

In diffusers' layers a modulated norm (AdaLN) is three passes over the tokens, RoPE eight, and each activation makes a
copy; at full size and 4096 px the lean ones move 1.6 times fewer bytes beside their products
(`benchmarks/traffic.py`). Every class here takes over layers of diffusers' under their names, so that state dicts,
adapters, 8-bit layers, streaming and torch.compile see no difference.
"""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .interfaces import AnyTransformer


class FoldedNorm(nn.Module):
    """AdaLN-Zero with its scale and shift as the norm's own weights: one pass over the tokens instead of three.

    (B, N, C), emb (B, C) -> modulated (B, N, C) and the rest of what the embedding says, each (B, C): in a double block
    the attention's gate, the MLP's shift, scale and gate; in a single block the gate.
    """

    def __init__(self, norm: Any):
        super().__init__()
        self.silu, self.linear, self.eps = norm.silu, norm.linear, norm.norm.eps

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, ...]:
        embedded = self.linear(self.silu(emb))
        shift, scale, *others = embedded.chunk(embedded.shape[1] // x.shape[2], dim=1)
        return modulated(x, shift, scale, self.eps), *others


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """layer_norm(x) (1 + scale) + shift, for x (B, N, C), shift and scale (B, C)."""
    width = x.shape[-1:]
    if len(x) == 1:
        return F.layer_norm(x, width, 1 + scale[0], shift[0], eps)
    return torch.addcmul(shift[:, None], F.layer_norm(x, width, eps=eps), 1 + scale[:, None])


class OverwritingGELU(nn.Module):
    """GELU, tanh approximation, over its input; behind a linear layer of its own (`proj`) where it is given one."""

    def __init__(self, proj: nn.Module | None = None):
        super().__init__()
        if proj is not None:
            self.proj = proj

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.proj(x) if hasattr(self, "proj") else x
        activated: Tensor = torch.ops.aten.gelu_(hidden, approximate="tanh")
        return activated


class LeanAttention:
    """Processor for FLUX's attention: QK-norm and RoPE without the copies."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        q, k, v = (_heads(f(hidden_states), attn.heads) for f in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        if encoder_hidden_states is not None:
            projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            text_q, text_k, text_v = (_heads(f(encoder_hidden_states), attn.heads) for f in projections)
            pairs = ((attn.norm_added_q(text_q), q), (attn.norm_added_k(text_k), k), (text_v, v))
            q, k, v = (torch.cat(pair, dim=1) for pair in pairs)
        if image_rotary_emb is not None:
            q, k = (turned(x, *image_rotary_emb) for x in (q, k))
        q, k, v = (rearrange(x, "b n heads c -> b heads n c") for x in (q, k, v))
        mixed = rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n c -> b n (heads c)")
        if encoder_hidden_states is None:
            return mixed
        text, image = mixed.tensor_split([encoder_hidden_states.shape[1]], dim=1)
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(text)


def _heads(x: Tensor, heads: int) -> Tensor:
    return rearrange(x, "b n (heads c) -> b n heads c", heads=heads)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on (B, N, heads, C), over `x` itself where that is float32; cos and sin (N, C) as FLUX lays them out.

    Channels 2i and 2i + 1 are one complex number, turned by its token's phase.
    """
    pairs = rearrange(x.float(), "b n heads (c two) -> b n heads c two", two=2)
    cos, sin = (table[None, :, None, ::2] for table in (cos, sin))
    if torch.compiler.is_compiling():  # which fuses real products and knows no complex ones
        real, imaginary = pairs.unbind(-1)
        out = torch.stack((real * cos - imaginary * sin, imaginary * cos + real * sin), -1)
    else:
        out = torch.view_as_real(torch.view_as_complex(pairs).mul_(torch.complex(cos, sin)))
    return out.flatten(-2).to(x.dtype)


def make_lean_transformer(model: AnyTransformer) -> AnyTransformer:
    """Swaps the layers of a FLUX transformer's blocks for their lean forms, in place, and returns it.

    For inference only: activations are overwritten.
    """
    for block in model.transformer_blocks:
        block.norm1, block.norm1_context = FoldedNorm(block.norm1), FoldedNorm(block.norm1_context)
        for feed_forward in (block.ff, block.ff_context):
            feed_forward.net[0] = OverwritingGELU(feed_forward.net[0].proj)
    for block in model.single_transformer_blocks:
        block.norm, block.act_mlp = FoldedNorm(block.norm), OverwritingGELU()
    for block in (*model.transformer_blocks, *model.single_transformer_blocks):
        block.attn.set_processor(LeanAttention())
    model.requires_grad_(False)
    model.eval()
    return model

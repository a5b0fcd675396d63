"""The bundled model's shapes, chosen by seconds at 4096 px against figures."""

from typing import Any

import torch
from torch import Tensor, nn

from op4ksr_core.model import flow
from op4ksr_core.model.precision import half_is_fast
from op4ksr_core.model.rope import RotaryEmbedding, plain_frequencies
from op4ksr_core.model.vae import make_f16
from op4ksr_core.settings import RopeSettings

VAE_CONFIG: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [24, 48, 96, 192],
    "layers_per_block": 1,
    "latent_channels": 64,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "sample_size": 4096,
}
DIT_CONFIG: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 256,
    "num_layers": 1,
    "num_single_layers": 3,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 64,
    "guidance_embeds": False,
    "axes_dims_rope": [16, 56, 56],
}
PROMPT_TOKENS = 4
SIGMA_MID, THETA = 0.3, 100.0

NEIGHBOURS = (((-1, 0), (1, 0)), ((0, -1), (0, 1)))
"""(rows, columns) to the neighbour that each head of the last two blocks looks at."""

PAIRS, SHARPNESS = slice(8, 15), 5.0
"""Pairs of an axis that choose the neighbour, and the factor of the normalised queries and keys: a token beside the
neighbour is 2.2 nats below it."""


def half_where_fast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast on CUDA and on a CPU that has bfloat16; on others, which only emulate it, nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half_is_fast(device))


def new_vae() -> Any:
    """An F16 AutoencoderKL with random weights."""
    from diffusers import AutoencoderKL

    vae = make_f16(AutoencoderKL(**VAE_CONFIG))
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            _initialise(name, module)
    return vae


def _initialise(name: str, conv: nn.Conv2d) -> None:
    """Residual convolutions by Kaiming, the second ones faint; all others mix their input's px by orthogonal rows.

    So the untrained encoder folds 16x16 px into a latent px without losing scale; with diffusers' own initialisation
    the first minutes learn nothing (23.4 in place of 20.8 dB after 75 s).
    """
    nn.init.zeros_(conv.bias)
    if name.endswith(("conv1", "conv2")):
        nn.init.kaiming_normal_(conv.weight)
        conv.weight.data *= 0.2 if name.endswith("conv2") else 1.0
        return
    middle = conv.kernel_size[0] // 2
    taps = [(middle, middle)]
    if conv.stride[0] == 2:  # the 2x2 block that becomes one px
        first = conv.padding[0]
        taps = [(first + i, first + j) for i in (0, 1) for j in (0, 1)]
    rows = nn.init.orthogonal_(torch.empty(conv.out_channels, conv.in_channels * len(taps)))
    rows *= max(1.0, conv.out_channels / rows.shape[1]) ** 0.5
    conv.weight.data.normal_(0, 0.02)
    for part, (i, j) in zip(rows.unflatten(1, (len(taps), -1)).unbind(1), taps, strict=True):
        conv.weight.data[:, :, i, j] += part


class KnownPositions(nn.Module):
    """RotaryEmbedding that keeps what it found for each size of latent: it computes on the CPU, where a GPU would have
    to wait for it in every step."""

    size: tuple[int, int]

    def __init__(self, theta: float):
        super().__init__()
        self.rotary = RotaryEmbedding(RopeSettings(theta=theta))
        self.kept: dict[tuple[tuple[int, int], int, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        key = self.size, len(ids), ids.device
        if key not in self.kept:
            self.kept[key] = self.rotary(ids)
        return self.kept[key]


class Restorer(nn.Module):
    """The transformer and its learned prompt: z (B, 64, h, w) of the enlarged small picture -> restored z."""

    def __init__(self, theta: float = THETA):
        from diffusers import FluxTransformer2DModel

        super().__init__()
        self.dit = FluxTransformer2DModel(**DIT_CONFIG)
        self.dit.pos_embed = KnownPositions(theta)
        nn.init.zeros_(self.dit.proj_out.weight)
        nn.init.zeros_(self.dit.proj_out.bias)
        self.prompt = nn.Parameter(torch.randn(1, PROMPT_TOKENS, DIT_CONFIG["joint_attention_dim"]) * 0.1)
        self.pooled = nn.Parameter(torch.randn(1, DIT_CONFIG["pooled_projection_dim"]) * 0.1)
        self.look_at_neighbours()

    def look_at_neighbours(self) -> None:
        """Sets each head of the last two blocks on one neighbour of its token, and keeps it there.

        A query that is the same for all tokens, turned by as much as RoPE turns a key OFFSET tokens away, meets that
        key best: so biases alone choose the neighbour (as in ConViT, arXiv 2103.10697). They use the pairs that step by
        more than 5 degrees a token under theta 100 and not under 10,000.
        """
        axes, width = DIT_CONFIG["axes_dims_rope"], DIT_CONFIG["attention_head_dim"]
        for block, offsets in zip(self.dit.single_transformer_blocks[-len(NEIGHBOURS) :], NEIGHBOURS, strict=True):
            queries, keys = (torch.zeros(len(offsets), width // 2, dtype=torch.complex64) for _ in range(2))
            for head, offset in enumerate(offsets):
                first = axes[0] // 2
                for channels, tokens in zip(axes[1:], offset, strict=True):
                    steps = plain_frequencies(channels, THETA)[PAIRS]
                    pairs = slice(first + PAIRS.start, first + PAIRS.stop)
                    queries[head, pairs], keys[head, pairs] = torch.polar(torch.ones_like(steps), steps * tokens), 1.0
                    first += channels // 2
            attention = block.attn
            with torch.no_grad():
                for layer, norm, start in (
                    (attention.to_q, attention.norm_q, queries),
                    (attention.to_k, attention.norm_k, keys),
                ):
                    layer.weight.zero_()
                    layer.bias.copy_(torch.view_as_real(start).flatten())
                    norm.weight.fill_(SHARPNESS)
                    layer.requires_grad_(False)
                    norm.requires_grad_(False)

    def forward(self, z: Tensor) -> Tensor:
        sigma = torch.full((len(z),), SIGMA_MID, device=z.device)
        self.dit.pos_embed.size = tuple(z.shape[-2:])
        return z - SIGMA_MID * flow.transformer_velocity(self.dit, z, sigma, self.prompt, self.pooled)

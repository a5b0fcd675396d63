"""FLUX's transformer and autoencoder in plain torch, for inference: what the bundled model is run with.

The same layers under diffusers' names, in their lean forms from the start (`transformer`, `vae`), equal to diffusers'
own to rounding. Importing diffusers' two classes takes eight seconds of processor time; this takes none. Whatever
trains, compiles or merges adapters goes through diffusers.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..settings import RopeSettings
from .rope import RotaryEmbedding
from .transformer import FoldedNorm, LeanAttention, OverwritingGELU, modulated
from .vae import LeanResidual, PhaseUpsample

_EPS = 1e-6
_TIME_CHANNELS = 256
_LARGEST_PERIOD = 10_000.0


def _modulation(width: int, parts: int) -> FoldedNorm:
    """AdaLN-Zero whose embedding says `parts` vectors."""
    layers = {"silu": nn.SiLU(), "linear": nn.Linear(width, parts * width), "norm": SimpleNamespace(eps=_EPS)}
    return FoldedNorm(SimpleNamespace(**layers))


class Attention(nn.Module):
    """Attention over the picture's tokens, and over the prompt's with weights of their own where `joint`."""

    def __init__(self, width: int, heads: int, joint: bool):
        super().__init__()
        self.heads, self.processor = heads, LeanAttention()
        names = ["to_q", "to_k", "to_v"] + (["add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"] if joint else [])
        for name in names:
            setattr(self, name, nn.Linear(width, width))
        for name in ["norm_q", "norm_k"] + (["norm_added_q", "norm_added_k"] if joint else []):
            setattr(self, name, nn.RMSNorm(width // heads, _EPS))
        if joint:
            self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], text: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        return self.processor(self, x, text, image_rotary_emb=rope)


class FeedForward(nn.Module):
    """Four times as wide, GELU between."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList(
            [OverwritingGELU(nn.Linear(width, 4 * width)), nn.Identity(), nn.Linear(4 * width, width)]
        )

    def forward(self, x: Tensor) -> Tensor:
        activated, _, narrowed = self.net
        made: Tensor = narrowed(activated(x))
        return made


class DoubleBlock(nn.Module):
    """Picture and prompt, each with its own weights, in one attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm1_context = _modulation(width, 6), _modulation(width, 6)
        self.attn = Attention(width, heads, joint=True)
        self.ff, self.ff_context = FeedForward(width), FeedForward(width)

    def forward(self, text: Tensor, x: Tensor, emb: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        normed, *picture = self.norm1(x, emb)
        normed_text, *prompt = self.norm1_context(text, emb)
        mixed, mixed_text = self.attn(normed, rope, normed_text)
        return self._end(text, mixed_text, prompt, self.ff_context), self._end(x, mixed, picture, self.ff)

    @staticmethod
    def _end(x: Tensor, mixed: Tensor, parts: list[Tensor], feed_forward: nn.Module) -> Tensor:
        gate, shift, scale, last_gate = parts
        x = torch.addcmul(x, gate[:, None], mixed)
        return torch.addcmul(x, last_gate[:, None], feed_forward(modulated(x, shift, scale, _EPS)))


class SingleBlock(nn.Module):
    """Prompt and picture as one sequence; attention and MLP side by side."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm = _modulation(width, 3)
        self.proj_mlp, self.act_mlp = nn.Linear(width, 4 * width), OverwritingGELU()
        self.proj_out = nn.Linear(5 * width, width)
        self.attn = Attention(width, heads, joint=False)

    def forward(self, text: Tensor, x: Tensor, emb: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        both = torch.cat([text, x], 1)
        normed, gate = self.norm(both, emb)
        made = torch.cat([self.attn(normed, rope), self.act_mlp(self.proj_mlp(normed))], 2)
        both = torch.addcmul(both, gate[:, None], self.proj_out(made))
        return both[:, : text.shape[1]], both[:, text.shape[1] :]


class TwoLayers(nn.Module):
    """A number's or a vector's embedding."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(channels, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return made


class FluxTransformer(nn.Module):
    """FLUX's transformer of any width and depth, called as diffusers' FluxTransformer2DModel is.

    `config` holds what `weights.configs.transformer_config` reads off the weights. `pos_embed` places the tokens:
    plain RoPE at theta 10,000 if nothing else is put there.
    """

    def __init__(self, **config: Any):
        super().__init__()
        self.config = SimpleNamespace(**config)
        heads, width = config["num_attention_heads"], config["num_attention_heads"] * config["attention_head_dim"]
        self.pos_embed: nn.Module = RotaryEmbedding(RopeSettings(theta=10_000.0), config["axes_dims_rope"])
        self.x_embedder = nn.Linear(config["in_channels"], width)
        self.context_embedder = nn.Linear(config["joint_attention_dim"], width)
        self.time_text_embed = nn.ModuleDict(
            {
                "timestep_embedder": TwoLayers(_TIME_CHANNELS, width),
                "text_embedder": TwoLayers(config["pooled_projection_dim"], width),
            }
        )
        if config["guidance_embeds"]:
            self.time_text_embed["guidance_embedder"] = TwoLayers(_TIME_CHANNELS, width)
        self.transformer_blocks = nn.ModuleList(DoubleBlock(width, heads) for _ in range(config["num_layers"]))
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(width, heads) for _ in range(config["num_single_layers"])
        )
        self.norm_out = nn.ModuleDict({"linear": nn.Linear(width, 2 * width)})
        self.proj_out = nn.Linear(width, config["in_channels"])

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_out.weight.dtype

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        guidance: Tensor | None,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        x, text = self.x_embedder(hidden_states), self.context_embedder(encoder_hidden_states)
        emb = self._timed("timestep_embedder", timestep) + self.time_text_embed["text_embedder"](pooled_projections)
        if guidance is not None:
            emb = emb + self._timed("guidance_embedder", guidance)
        rope = self.pos_embed(torch.cat([txt_ids, img_ids]))
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            text, x = block(text, x, emb, rope)
        scale, shift = self.norm_out["linear"](F.silu(emb)).chunk(2, dim=1)
        return (self.proj_out(modulated(x, shift, scale, _EPS)),)

    def _timed(self, name: str, value: Tensor) -> Tensor:
        made: Tensor = self.time_text_embed[name](sinusoids(value.to(self.dtype) * 1000).to(self.dtype))
        return made


def sinusoids(value: Tensor, channels: int = _TIME_CHANNELS) -> Tensor:
    """(B,) -> (B, channels): cosines, then sines, of the value times frequencies from 1 down to about 1/10,000."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=value.device) / half
    phases = value.float()[:, None] * torch.exp(-math.log(_LARGEST_PERIOD) * steps)
    return torch.cat([phases.cos(), phases.sin()], 1)


def _residual(channels_in: int, channels: int, groups: int) -> LeanResidual:
    return LeanResidual(
        SimpleNamespace(
            norm1=nn.GroupNorm(groups, channels_in, _EPS),
            conv1=nn.Conv2d(channels_in, channels, 3, padding=1),
            norm2=nn.GroupNorm(groups, channels, _EPS),
            conv2=nn.Conv2d(channels, channels, 3, padding=1),
            nonlinearity=nn.SiLU(),
            conv_shortcut=None if channels_in == channels else nn.Conv2d(channels_in, channels, 1),
        )
    )


class Halved(nn.Module):
    """A 3x3 convolution of stride 2 with zeros below and to the right."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return made


class Level(nn.Module):
    """One level of a half: its residual blocks, then a change of size, if there is one."""

    def __init__(self, resnets: list[LeanResidual], name: str = "", change: nn.Module | None = None):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = [None] * max(0, len(resnets) - 1)
        self.downsamplers = self.upsamplers = None
        if change is not None:
            setattr(self, name, nn.ModuleList([change]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.resnets, *(self.downsamplers or ()), *(self.upsamplers or ())):
            x = layer(x)
        return x


class Half(nn.Module):
    """An encoder (`down`) or a decoder of the autoencoder, without attention in its middle."""

    def __init__(self, channels: list[int], layers: int, ends: tuple[int, int], groups: int, down: bool):
        super().__init__()
        order = channels if down else channels[::-1]
        self.conv_in = nn.Conv2d(ends[0], order[0], 3, padding=1)
        levels, before = [], order[0]
        for number, width in enumerate(order):
            resnets = [_residual(before if n == 0 else width, width, groups) for n in range(layers)]
            last = number == len(order) - 1
            change = None if last else Halved(width) if down else PhaseUpsample(nn.Conv2d(width, width, 3, padding=1))
            levels.append(Level(resnets, "downsamplers" if down else "upsamplers", change))
            before = width
        middle = order[-1] if down else order[0]
        self.mid_block = Level([_residual(middle, middle, groups) for _ in range(2)])
        setattr(self, "down_blocks" if down else "up_blocks", nn.ModuleList(levels))
        self.conv_norm_out = nn.GroupNorm(groups, order[-1], _EPS)
        self.conv_out = nn.Conv2d(order[-1], ends[1], 3, padding=1)
        self.is_encoder = down

    def forward(self, x: Tensor) -> Tensor:
        levels: Any = self.down_blocks if self.is_encoder else self.up_blocks
        x = self.conv_in(x)
        if not self.is_encoder:
            x = self.mid_block(x)
        for level in levels:
            x = level(x)
        if self.is_encoder:
            x = self.mid_block(x)
        made: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return made


class Autoencoder(nn.Module):
    """FLUX's autoencoder of any width without attention and quant convolutions, laid out as diffusers' AutoencoderKL.

    `config` holds what `weights.configs.vae_config` reads off the weights.
    """

    def __init__(self, **config: Any):
        super().__init__()
        self.config = SimpleNamespace(**config)
        channels, layers = list(config["block_out_channels"]), config["layers_per_block"]
        groups, latent = config["norm_num_groups"], config["latent_channels"]
        self.encoder = Half(channels, layers, (3, 2 * latent), groups, down=True)
        self.decoder = Half(channels, layers + 1, (latent, 3), groups, down=False)

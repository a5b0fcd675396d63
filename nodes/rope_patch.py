"""The core's RoPE on a FLUX MODEL, as a patch of a clone."""

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..op4ksr_core.errors import SettingError
from ..op4ksr_core.model.rope import RotaryEmbedding
from ..op4ksr_core.settings import RopeSettings


class PositionEmbedding(nn.Module):
    """ComfyUI's FLUX position embedder with the core's RoPE: ids (B, N, 3) -> (B, 1, N, D/2, 2, 2), float32."""

    def __init__(self, settings: RopeSettings, axes_dim: list[int]):
        super().__init__()
        self.rotary = RotaryEmbedding(settings, axes_dim)

    def forward(self, ids: Tensor) -> Tensor:
        cos, sin = (part[:, ::2] for part in self.rotary(ids[0]))
        matrices = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
        return matrices[None, None].expand(ids.shape[0], -1, -1, -1, -1, -1)


def rope_of(model: ModelPatcher) -> tuple[RopeSettings, list[int]]:
    """How this MODEL places its tokens, and the channels of each axis. Raises SettingError if it is not a FLUX one."""
    try:
        embedder = model.get_model_object("diffusion_model.pe_embedder")
        if isinstance(embedder, PositionEmbedding):
            return embedder.rotary.settings, list(embedder.rotary.axes_dim)
        return RopeSettings(float(embedder.theta)), list(embedder.axes_dim)
    except AttributeError as error:
        raise SettingError(f"RoPE theta works on FLUX models; this MODEL is {type(model.model).__name__}.") from error


def with_rope(model: ModelPatcher, settings: RopeSettings) -> ModelPatcher:
    """A clone whose tokens are placed by `settings`. Raises SettingError if the MODEL is not a FLUX transformer."""
    _, axes = rope_of(model)
    patched = model.clone()
    patched.add_object_patch("diffusion_model.pe_embedder", PositionEmbedding(settings, axes))
    return patched

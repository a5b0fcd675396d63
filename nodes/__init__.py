"""The ComfyUI host: the only folder that imports ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from .adapters import LoadAdapters
from .load import LoadEmbedded, RopeTheta, SamplePhoto, ToF16
from .upscale import F16Decode, F16Encode, MidTimestepSampler, MidTimestepSigmas, UpscaleTo4K

NODES: list[type[io.ComfyNode]] = [
    SamplePhoto,
    LoadEmbedded,
    LoadAdapters,
    RopeTheta,
    ToF16,
    F16Encode,
    MidTimestepSampler,
    MidTimestepSigmas,
    F16Decode,
    UpscaleTo4K,
]


class Op4ksrExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES

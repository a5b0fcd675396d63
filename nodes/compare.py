"""Before and after side by side, for ComfyUI versions whose own node for it came later."""

import torch
from comfy_api.latest import io, ui

import nodes

from ..op4ksr_core.errors import ImageError
from ..op4ksr_core.geometry import Size
from ..op4ksr_core.picture.resample import lanczos
from .convert import to_bchw, to_image
from .schema import CATEGORY


def is_missing() -> bool:
    """Whether this ComfyUI has no ImageCompare of its own (it came with 0.9)."""
    return "ImageCompare" not in nodes.NODE_CLASS_MAPPINGS  # type: ignore[attr-defined]  # ComfyUI's, not ours


class ImageCompare(io.ComfyNode):
    """Has the id and the inputs of ComfyUI's own node, so that one graph opens in every version."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImageCompare",
            display_name="Compare Images (OP4KSR)",
            category=CATEGORY,
            description="The left half of one picture and the right half of the other. Later versions of ComfyUI have "
            "a node of this name with a slider.",
            inputs=[
                io.Image.Input("image_a", optional=True, tooltip="Left, for example before."),
                io.Image.Input("image_b", optional=True, tooltip="Right, for example after; shown at its size."),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image_a=None, image_b=None) -> io.NodeOutput:
        given = [image for image in (image_a, image_b) if image is not None]
        if not given:
            raise ImageError("Connect a picture to image_a, image_b or both.")
        right = to_bchw(given[-1][:1])
        left = lanczos(to_bchw(given[0][:1]), Size(*right.shape[-2:])).clamp(0, 1)
        middle = left.shape[-1] // 2
        line = torch.ones_like(left[..., : 1 + left.shape[-1] // 500])
        shown = torch.cat([left[..., :middle], line, right[..., middle + line.shape[-1] :]], -1)
        return io.NodeOutput(ui=ui.PreviewImage(to_image(shown), cls=cls))

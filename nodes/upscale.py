"""Nodes that make pictures: encode, the one step, decode, and all of it at once."""

from dataclasses import dataclass

import comfy.model_management
import comfy.sample
import comfy.samplers
import node_helpers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..op4ksr_core import flow
from ..op4ksr_core.colour import FIXES, finish
from ..op4ksr_core.errors import ImageError, WeightsError
from ..op4ksr_core.geometry import Size, make_plan
from ..op4ksr_core.progress import watch
from ..op4ksr_core.resample import pad_reflect, resize
from ..op4ksr_core.rope import RopeSettings
from .host import decode_whole, encode_whole, make_report, to_bchw, to_image
from .load import CATEGORY
from .models import check_flow, f16_of, load_embedded, with_rope


def encode_picture(vae, image: Tensor, scale: float, long_side: int) -> tuple[dict, Tensor]:
    """IMAGE -> LATENT that knows its target size, and the picture as (B, 3, H, W)."""
    f16_of(vae)
    lr = to_bchw(image).clamp(0, 1)
    if 0 in lr.shape:
        raise ImageError(f"The IMAGE is empty: {list(image.shape)}.")
    plan = make_plan(Size(*lr.shape[-2:]), None if long_side else scale, long_side or None)
    samples = encode_whole(vae, pad_reflect(resize(lr, plan.target), plan.padded))
    return {"samples": samples, "op4ksr_target": (plan.target.height, plan.target.width)}, lr


@dataclass
class MidTimestep(comfy.samplers.Sampler):
    """A stock-shaped sampler that starts from the latent itself: no noise, and no scaling by (1 - sigma)."""

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ) -> Tensor:
        def velocity(z: Tensor, sigma: float) -> Tensor:
            at = torch.full((z.shape[0],), sigma, device=z.device, dtype=z.dtype)
            return (z - model_wrap(z, at, **extra_args)) / sigma

        return flow.euler(latent_image, velocity, [float(s) for s in sigmas])


def one_step(model, latent: dict, conditioning, sigma: float, steps: int, guidance: float, theta: float) -> dict:
    """The core's Euler steps from sigma_mid through ComfyUI's own guider, so that every patch of the MODEL acts."""
    check_flow(model)
    if theta:
        model = with_rope(model, RopeSettings(theta))
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(node_helpers.conditioning_set_values(conditioning, {"guidance": guidance}), [])
    guider.set_cfg(1.0)
    transformer = model.get_model_object("diffusion_model")
    blocks = [*transformer.double_blocks, *transformer.single_blocks]
    with watch(blocks, "transform", make_report(), steps * len(samples)):
        parts = [
            guider.sample(torch.zeros_like(z), z, MidTimestep(), torch.tensor(flow.sigma_schedule(sigma, steps)))
            for z in samples.split(1)
        ]
    return latent | {"samples": torch.cat(parts).to(comfy.model_management.intermediate_device())}


def decode_picture(vae, latent: dict, reference: Tensor | None, colour: str, fidelity: float) -> Tensor:
    """LATENT -> IMAGE of the exact target size; the reference is the low-resolution IMAGE (B, 3, H, W)."""
    f16_of(vae)
    raw = decode_whole(vae, latent["samples"])
    target = Size(*latent.get("op4ksr_target", raw.shape[-2:]))
    if reference is None:
        if colour != "none" or fidelity > 0:
            raise ImageError("A colour fix and fidelity need the reference: connect the picture that was encoded.")
        reference = raw
    return to_image(finish(raw, reference, target, colour, fidelity))


_SCALE = io.Float.Input("scale", default=4.0, min=0.1, max=16.0, step=0.1, tooltip="Used where long_side is 0.")
_LONG_SIDE = io.Int.Input(
    "long_side", default=0, min=0, max=32768, tooltip="Long side of the result in px; 0 takes the scale. 4096 is 4K."
)
_SIGMA = io.Float.Input("sigma_mid", default=0.3, min=0.01, max=1.0, step=0.01, tooltip="OP4KSR: 0.3.")
_STEPS = io.Int.Input("steps", default=1, min=1, max=100, tooltip="1 is OP4KSR; more refine in Euler steps.")
_GUIDANCE = io.Float.Input("guidance", default=1.0, min=0.0, max=30.0, step=0.1, tooltip="FLUX-dev's own; else unused.")
_THETA = io.Float.Input(
    "theta", default=0.0, min=0.0, max=1_000_000.0, step=1.0, tooltip="RoPE base; 0: as the MODEL has it."
)
_COLOUR = io.Combo.Input("colour", options=list(FIXES), default="wavelet", tooltip="Takes the reference's colours.")
_FIDELITY = io.Float.Input(
    "fidelity",
    default=0.8,
    min=0.0,
    max=1.0,
    step=0.05,
    tooltip="1: made small again, the result is the reference. 0: what the model drew, as it is.",
)


class F16Encode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_Encode",
            display_name="F16 Encode (OP4KSR)",
            category=CATEGORY,
            description="Enlarges a picture of any size, pads it to whole tokens and encodes it, all at once.",
            inputs=[io.Image.Input("image"), io.Vae.Input("vae"), _SCALE, _LONG_SIDE],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, image, vae, scale: float, long_side: int) -> io.NodeOutput:
        return io.NodeOutput(encode_picture(vae, image, scale, long_side)[0])


class MidTimestepSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_Sampler",
            display_name="Mid-timestep one-step sampler (OP4KSR)",
            category=CATEGORY,
            description="One evaluation of the transformer at sigma_mid, from the encoded picture itself.",
            inputs=[
                io.Model.Input("model"),
                io.Latent.Input("latent"),
                io.Conditioning.Input("conditioning"),
                _SIGMA,
                _STEPS,
                _GUIDANCE,
                _THETA,
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, model, latent, conditioning, sigma_mid, steps, guidance, theta) -> io.NodeOutput:
        return io.NodeOutput(one_step(model, latent, conditioning, sigma_mid, steps, guidance, theta))


class F16Decode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_Decode",
            display_name="F16 Decode (OP4KSR)",
            category=CATEGORY,
            description="Decodes all of the picture at once and crops it to the exact size.",
            inputs=[
                io.Latent.Input("latent"),
                io.Vae.Input("vae"),
                io.Image.Input("reference", optional=True, tooltip="The picture that was encoded."),
                _COLOUR,
                _FIDELITY,
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, latent, vae, colour: str, fidelity: float, reference=None) -> io.NodeOutput:
        reference = None if reference is None else to_bchw(reference).clamp(0, 1)
        return io.NodeOutput(decode_picture(vae, latent, reference, colour, fidelity))


class MidTimestepSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_Sigmas",
            display_name="Mid-timestep sigmas (OP4KSR)",
            category=CATEGORY,
            description="For SamplerCustomAdvanced: the sigmas, and the sampler that starts from the latent as it is. "
            "Use both together with DisableNoise; stock samplers would scale the latent by (1 - sigma).",
            inputs=[_SIGMA, _STEPS],
            outputs=[io.Sigmas.Output(), io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, sigma_mid: float, steps: int) -> io.NodeOutput:
        return io.NodeOutput(torch.tensor(flow.sigma_schedule(sigma_mid, steps)), MidTimestep())


def transparency(image: Tensor, mask: Tensor | None) -> Tensor | None:
    """The MASK (B, H, W) that goes with an IMAGE: as given, else 1 - alpha of a four-channel picture."""
    if mask is None:
        return 1 - image[..., 3] if image.shape[-1] == 4 else None
    if mask.shape[-2:] != image.shape[1:3]:
        raise ImageError(
            f"The MASK is {mask.shape[-1]}x{mask.shape[-2]} px, the IMAGE {image.shape[2]}x{image.shape[1]}."
        )
    return mask


def chosen_models(model, vae, conditioning) -> tuple:
    """The three that were connected, or the embedded ones. Raises WeightsError on a part of a set."""
    given = {"model": model, "vae": vae, "conditioning": conditioning}
    missing = [name for name, value in given.items() if value is None]
    if not missing:
        return model, vae, conditioning
    if len(missing) == len(given):
        return load_embedded()
    raise WeightsError(f"Connect {' and '.join(missing)} too, or none of the three for the embedded model.")


class UpscaleTo4K(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OP4KSR_Upscale",
            display_name="Upscale to 4K (OP4KSR)",
            category=CATEGORY,
            description="Picture in, 4K picture out. Without model, vae and conditioning the embedded model does it.",
            inputs=[
                io.Image.Input("image"),
                io.Int.Input(
                    "long_side", default=4096, min=0, max=32768, tooltip="Long side in px; 0 takes the scale."
                ),
                _SCALE,
                _SIGMA,
                _STEPS,
                _GUIDANCE,
                _THETA,
                _COLOUR,
                _FIDELITY,
                io.Mask.Input("mask", optional=True, tooltip="Transparency, enlarged with the picture."),
                io.Model.Input("model", optional=True),
                io.Vae.Input("vae", optional=True, tooltip="An F16 VAE."),
                io.Conditioning.Input("conditioning", optional=True),
            ],
            outputs=[io.Image.Output(), io.Mask.Output()],
        )

    @classmethod
    def execute(
        cls,
        image,
        long_side,
        scale,
        sigma_mid,
        steps,
        guidance,
        theta,
        colour,
        fidelity,
        mask=None,
        model=None,
        vae=None,
        conditioning=None,
    ) -> io.NodeOutput:
        hidden = transparency(image, mask)
        model, vae, conditioning = chosen_models(model, vae, conditioning)
        latent, lr = encode_picture(vae, image, scale, long_side)
        latent = one_step(model, latent, conditioning, sigma_mid, steps, guidance, theta)
        large = decode_picture(vae, latent, lr, colour, fidelity)
        target = Size(*large.shape[1:3])
        if hidden is None:
            return io.NodeOutput(large, large.new_zeros(large.shape[:3]))
        return io.NodeOutput(large, resize(hidden[:, None].float(), target)[:, 0].clamp(0, 1))

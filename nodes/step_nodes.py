"""Nodes for each part of the way: encode, the one step, decode, compensate."""

import torch
from comfy_api.latest import io
from torch import Tensor

from ..op4ksr_core.errors import ImageError, SettingError
from ..op4ksr_core.geometry import LATENT_FACTOR, LongSide, Scale, Size, SizePlan, plan_target
from ..op4ksr_core.model import flow
from ..op4ksr_core.pipeline.restoration import compensate_picture, decode_picture, encode_picture, transform_latent
from ..op4ksr_core.settings import ColourFix, RopeSettings, UpscaleSettings, check_range
from .checks import check_vae
from .comfy_host import ComfyHost, MidTimestep
from .convert import to_bchw, to_image
from .detail_networks import BUNDLED, find_network, network_input
from .inputs import (
    COLOUR,
    COMPENSATION,
    FACTOR,
    FIDELITY,
    GUIDANCE,
    LONG_SIDE,
    NOISE,
    SCALE,
    SEED,
    SIGMA,
    STEPS,
    THETA,
    TIMESTEP,
    WINDOW,
)
from .load import newest
from .memory import preflight, transformer_phase, vae_phase
from .progress import make_report
from .schema import node_schema


def rope_for(theta: float) -> RopeSettings | None:
    """Plain RoPE of that base; 0 leaves the MODEL as it is."""
    return RopeSettings(theta) if theta else None


def decode_latent(host: ComfyHost, latent: dict, reference: Tensor | None, settings: UpscaleSettings) -> Tensor:
    """LATENT -> picture (B, 3, H, W) of its target size; the reference defaults to the picture encoded."""
    vae, samples, plan = host.vae, latent["samples"], latent.get("op4ksr_plan")
    check_vae(vae, plan and plan.latent_factor)
    if samples.ndim != 4 or samples.shape[1] != vae.latent_channels or 0 in samples.shape:
        raise ImageError(f"The LATENT is {list(samples.shape)}; this VAE decodes {vae.latent_channels} channels.")
    size = Size(*(side * vae.downscale_ratio for side in samples.shape[-2:]))
    if plan and plan.padded != size:
        raise ImageError(
            f"The LATENT was encoded for {plan.padded} px and is {size} px now. Encode at the final size, or use "
            "stock VAE Decode, which needs no plan."
        )
    if reference is None:
        reference = latent.get("op4ksr_reference")
    if reference is None:
        if settings.colour != "none" or settings.fidelity > 0:
            raise ImageError("A colour fix and fidelity need the reference: connect the picture that was encoded.")
        reference = samples.new_zeros(len(samples), 3, 1, 1)  # its size and colours are not used
    if len(reference) != len(samples):
        raise ImageError(f"There are {len(samples)} latents and {len(reference)} reference pictures.")
    plan = plan or SizePlan(size, size, size, vae.downscale_ratio)
    return decode_picture(host, samples, reference, plan, settings, make_report())


class Compensate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "Compensate",
            "High-frequency compensation (OP4KSR)",
            ["sharpen", "detail", "fine texture", "enhance"],
            description="Adds the fine detail that 16x compression cannot carry, behind any upscaler: a small network "
            "looks at the large picture and at the one it was made from.",
            inputs=[
                io.Image.Input("image", tooltip="The large picture."),
                io.Image.Input("reference", tooltip="The small picture that each large one was made from."),
                COMPENSATION,
                network_input(),
            ],
            outputs=[io.Image.Output(tooltip="The picture with its detail added.")],
        )

    @classmethod
    def execute(cls, image, reference, compensation: float = 1.0, detail_network: str = BUNDLED) -> io.NodeOutput:
        if len(image) != len(reference):
            raise ImageError(f"There are {len(image)} pictures and {len(reference)} references.")
        lr = to_bchw(reference).clamp(0, 1)
        host = ComfyHost(detail_network=find_network(detail_network))
        large = compensate_picture(host, to_bchw(image).clamp(0, 1), lr, compensation, make_report())
        return io.NodeOutput(to_image(large) if compensation else image)

    @classmethod
    def fingerprint_inputs(cls, detail_network: str = BUNDLED, **_: object) -> float:
        """Changes with the file, so that a newly trained network is read again."""
        return newest(find_network(detail_network))


class F16Encode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "Encode",
            "F16 Encode (OP4KSR)",
            ["vae encode 4k", "upscale encode", "f16"],
            description="Enlarges a picture of any size, pads it to whole tokens and encodes it, all at once.",
            inputs=[
                io.Image.Input("image", tooltip="Any size, any number of pictures; alpha is dropped."),
                io.Vae.Input("vae", tooltip="An F16 VAE, or FLUX's own with vae_factor 8."),
                SCALE,
                LONG_SIDE,
                FACTOR,
            ],
            outputs=[io.Latent.Output(tooltip="Carries its target size and the picture, for F16 Decode.")],
        )

    @classmethod
    def execute(cls, image, vae, scale: float, long_side: int, vae_factor: str) -> io.NodeOutput:
        host = ComfyHost(vae=vae)
        check_vae(vae, int(vae_factor))
        lr = to_bchw(image).clamp(0, 1)
        source = Size(*lr.shape[-2:])
        target = LongSide(long_side) if long_side else Scale(scale)
        plan = plan_target(source, target.frame(source).target, host.multiple_px, host.latent_factor)
        preflight(str(plan), vae.device, {"encode": vae_phase(vae, plan.padded.pixels, decoder=False)})
        samples = encode_picture(host, lr, plan, UpscaleSettings(), make_report())
        return io.NodeOutput({"samples": samples, "op4ksr_plan": plan, "op4ksr_reference": lr})


class MidTimestepSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "Sampler",
            "Mid-timestep one-step sampler (OP4KSR)",
            ["one step", "ksampler", "flux upscale", "refine"],
            description="One evaluation of the transformer at sigma_mid, from the encoded picture itself.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="A flow model (FLUX, UltraFlux, the embedded one), or Stable Diffusion 2.1-base."
                ),
                io.Conditioning.Input("conditioning", tooltip="The model's fixed prompt."),
                io.Latent.Input("latent", tooltip="From F16 Encode, or from stock VAE Encode."),
                SIGMA,
                STEPS,
                GUIDANCE,
                THETA,
                NOISE,
                SEED,
                WINDOW,
                TIMESTEP,
            ],
            outputs=[io.Latent.Output(tooltip="The restored latent.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        conditioning,
        latent,
        sigma_mid,
        steps,
        guidance,
        theta,
        noise,
        seed,
        window: int = 0,
        timestep: int = 999,
    ) -> io.NodeOutput:
        tokens = latent["samples"].shape[-2] * latent["samples"].shape[-1] // 4
        plan = latent.get("op4ksr_plan")
        if window and plan is None:
            raise SettingError("Windows are in px of the picture: encode with F16 Encode, or set window to 0.")
        settings = UpscaleSettings(
            sigma_mid, steps, guidance, noise, seed, rope=rope_for(theta), window=window, timestep=timestep
        )
        preflight(f"{tokens} tokens", model.load_device, {"transform": transformer_phase(model, tokens)})
        host = ComfyHost(model, conditioning, latent_factor=plan.latent_factor if plan else LATENT_FACTOR)
        samples = transform_latent(host, latent["samples"], settings, make_report())
        return io.NodeOutput(latent | {"samples": samples})


class F16Decode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "Decode",
            "F16 Decode (OP4KSR)",
            ["vae decode 4k", "upscale decode", "colour fix", "color fix", "f16"],
            description="Decodes all of the picture at once and crops it to the exact size.",
            inputs=[
                io.Latent.Input("latent", tooltip="From the sampler."),
                io.Vae.Input("vae", tooltip="The VAE that encoded it."),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Whose colours and details to keep; without it, the picture that F16 Encode was given.",
                ),
                COLOUR,
                FIDELITY,
            ],
            outputs=[io.Image.Output(tooltip="The large picture.")],
        )

    @classmethod
    def execute(cls, latent, vae, colour: ColourFix, fidelity: float, reference=None) -> io.NodeOutput:
        check_vae(vae)
        height, width = latent["samples"].shape[-2:]
        pixels = height * width * vae.downscale_ratio**2
        preflight(f"{width}x{height} latent", vae.device, {"decode": vae_phase(vae, pixels, decoder=True)})
        reference = None if reference is None else to_bchw(reference).clamp(0, 1)
        settings = UpscaleSettings(colour=colour, fidelity=fidelity)
        return io.NodeOutput(to_image(decode_latent(ComfyHost(vae=vae), latent, reference, settings)))


class MidTimestepSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "Sigmas",
            "Mid-timestep sigmas (OP4KSR)",
            ["scheduler", "one step sigmas", "custom sampler"],
            description="For SamplerCustomAdvanced: the sigmas, and the sampler that starts from the latent as it is. "
            "Use both together; stock samplers would scale the latent by (1 - sigma).",
            inputs=[SIGMA, STEPS, NOISE],
            outputs=[
                io.Sigmas.Output(tooltip="sigma_mid down to 0 in equal steps."),
                io.Sampler.Output(tooltip="Starts from the latent itself; its noise comes from RandomNoise."),
            ],
        )

    @classmethod
    def execute(cls, sigma_mid: float, steps: int, noise: float) -> io.NodeOutput:
        check_range("Noise", noise, 0, 1)
        return io.NodeOutput(torch.tensor(flow.sigma_schedule(sigma_mid, steps)), MidTimestep(noise))

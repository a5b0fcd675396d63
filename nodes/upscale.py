"""Nodes that make pictures: encode, the one step, decode, and all of it at once."""

from dataclasses import dataclass

import comfy.model_management
import comfy.sample
import comfy.samplers
import node_helpers
import torch
from comfy_api.latest import io
from torch import Tensor

from ..op4ksr_core.errors import ImageError, WeightsError
from ..op4ksr_core.geometry import Plan, Size, make_plan
from ..op4ksr_core.model import flow
from ..op4ksr_core.model.compensation import compensate, load_compensation
from ..op4ksr_core.model.finite import check_finite
from ..op4ksr_core.model.rope import RopeSettings
from ..op4ksr_core.picture.colour import finish
from ..op4ksr_core.picture.resample import pad_reflect, resize
from ..op4ksr_core.progress import Progress, watch
from .host import decode_whole, encode_whole, make_report, to_bchw, to_image
from .inputs import COLOUR, COMPENSATION, FACTOR, FIDELITY, GUIDANCE, LONG_SIDE, NOISE, SCALE, SEED, SIGMA, STEPS, THETA
from .models import (
    check_conditioning,
    check_flow,
    check_latent,
    check_vae,
    load_embedded,
    transformer_blocks,
    with_rope,
)
from .plan import preflight, transformer_phase, until_it_fits, vae_phase
from .schema import describe


def plan_picture(vae, image: Tensor, scale: float, long_side: int, factor: int) -> tuple[Plan, Tensor]:
    """Where the IMAGE goes, and the IMAGE as (B, 3, H, W)."""
    check_vae(vae, factor)
    lr = to_bchw(image).clamp(0, 1)
    if 0 in lr.shape:
        raise ImageError(f"The IMAGE is empty: {list(image.shape)}.")
    source = Size(*lr.shape[-2:])
    return make_plan(source, None if long_side else scale, long_side or None, token_px=2 * factor), lr


def encode_picture(vae, lr: Tensor, plan: Plan, report: Progress | None = None) -> dict:
    """(B, 3, H, W) in [0, 1] -> LATENT that carries its plan and the picture, for F16 Decode."""
    samples = encode_whole(vae, pad_reflect(resize(lr, plan.target), plan.padded), report)
    return {"samples": samples, "op4ksr_plan": plan, "op4ksr_reference": lr}


@dataclass
class MidTimestep(comfy.samplers.Sampler):
    """A stock-shaped sampler that starts from the latent itself: no scaling by (1 - sigma), noise only as asked."""

    noise: float = 0.0

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ) -> Tensor:
        def velocity(z: Tensor, sigma: float) -> Tensor:
            at = torch.full((z.shape[0],), sigma, device=z.device, dtype=z.dtype)
            return (z - model_wrap(z, at, **extra_args)) / sigma

        start = flow.add_noise(latent_image, noise.to(latent_image), float(sigmas[0]), self.noise)
        return flow.euler(start, velocity, [float(s) for s in sigmas])


@dataclass(frozen=True)
class Step:
    """How the transformer is run: the sampler's inputs but for model, latent and conditioning."""

    sigma: float
    steps: int
    guidance: float
    theta: float
    noise: float
    seed: int


def one_step(model, latent: dict, conditioning, step: Step, report: Progress | None = None) -> dict:
    """The core's Euler steps from sigma_mid through ComfyUI's own guider, so that every patch of the MODEL acts."""
    check_flow(model)
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    check_latent(model, samples)
    check_conditioning(model, conditioning)
    if step.theta:
        model = with_rope(model, RopeSettings(step.theta))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(node_helpers.conditioning_set_values(conditioning, {"guidance": step.guidance}), [])
    guider.set_cfg(1.0)
    sigmas = torch.tensor(flow.sigma_schedule(step.sigma, step.steps))
    eps = flow.draw_noise(samples.shape, step.seed) if step.noise else torch.zeros_like(samples)
    bar = report or make_report()

    def stepped() -> list[Tensor]:
        with watch(transformer_blocks(model), "transform", bar, step.steps * len(samples)):
            return [
                guider.sample(e, z, MidTimestep(step.noise), sigmas)
                for e, z in zip(eps.split(1), samples.split(1), strict=True)
            ]

    tokens = samples.shape[-2] * samples.shape[-1] // 4
    parts = until_it_fits([("as before", stepped)] * 2, f"the transformer on {tokens} tokens", model.load_device)
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    found = check_finite(torch.cat(parts), "The transformer", dtype, "Start ComfyUI with --bf16-unet or --fp32-unet.")
    return latent | {"samples": found.to(comfy.model_management.intermediate_device())}


def decode_picture(
    vae, latent: dict, reference: Tensor | None, colour: str, fidelity: float, report: Progress | None = None
) -> Tensor:
    """LATENT -> IMAGE of the exact target size; the reference (B, 3, H, W) defaults to the picture encoded."""
    samples, plan = latent["samples"], latent.get("op4ksr_plan")
    check_vae(vae, plan and plan.token_px // 2)
    if samples.ndim != 4 or samples.shape[1] != vae.latent_channels:
        raise ImageError(f"The LATENT is {list(samples.shape)}; this VAE decodes {vae.latent_channels} channels.")
    size = Size(*(side * vae.downscale_ratio for side in samples.shape[-2:]))
    if plan and plan.padded != size:
        raise ImageError(
            f"The LATENT was encoded for {plan.padded} px and is {size} px now. Encode at the final size, or use "
            "stock VAE Decode, which needs no plan."
        )
    if reference is None:
        reference = latent.get("op4ksr_reference")
    if reference is None and (colour != "none" or fidelity > 0):
        raise ImageError("A colour fix and fidelity need the reference: connect the picture that was encoded.")
    if reference is not None and len(reference) != len(samples):
        raise ImageError(f"There are {len(samples)} latents and {len(reference)} reference pictures.")
    raw = decode_whole(vae, samples, report)
    return to_image(
        finish(raw, raw if reference is None else reference, plan.target if plan else size, colour, fidelity)
    )


def compensated(image: Tensor, lr: Tensor, strength: float) -> Tensor:
    """High-frequency compensation of an IMAGE made from `lr` (B, 3, h, w), one by one, on the compute device."""
    if not strength:
        return image
    device, module, report = comfy.model_management.get_torch_device(), load_compensation(), make_report()

    def all_of_them() -> list[Tensor]:
        return [
            compensate(x.to(device), y.to(device), strength, module, report).to(image.device)
            for x, y in zip(to_bchw(image).clamp(0, 1).split(1), lr.split(1), strict=True)
        ]

    what = f"compensation of {image.shape[2]}x{image.shape[1]} px"
    return to_image(torch.cat(until_it_fits([("as before", all_of_them)] * 2, what, device)))


class Compensate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            "Compensate",
            "High-frequency compensation (OP4KSR)",
            ["sharpen", "detail", "fine texture", "enhance"],
            description="Adds the fine detail that 16x compression cannot carry, behind any upscaler: a small network "
            "looks at the large picture and at the one it was made from.",
            inputs=[
                io.Image.Input("image", tooltip="The large picture."),
                io.Image.Input("reference", tooltip="The small picture that it was made from; as many."),
                COMPENSATION,
            ],
            outputs=[io.Image.Output(tooltip="The picture with its detail added.")],
        )

    @classmethod
    def execute(cls, image, reference, compensation: float = 1.0) -> io.NodeOutput:
        if len(image) != len(reference):
            raise ImageError(f"There are {len(image)} pictures and {len(reference)} references.")
        return io.NodeOutput(compensated(image, to_bchw(reference).clamp(0, 1), compensation))


class F16Encode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
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
        plan, lr = plan_picture(vae, image, scale, long_side, int(vae_factor))
        preflight(title_of(plan), vae.device, {"encode": vae_phase(vae, plan.padded.pixels, decoder=False)})
        return io.NodeOutput(encode_picture(vae, lr, plan))


def title_of(plan: Plan) -> str:
    return f"{plan.source} -> {plan.target}, padded {plan.padded}, {plan.tokens} tokens"


class MidTimestepSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            "Sampler",
            "Mid-timestep one-step sampler (OP4KSR)",
            ["one step", "ksampler", "flux upscale", "refine"],
            description="One evaluation of the transformer at sigma_mid, from the encoded picture itself.",
            inputs=[
                io.Model.Input("model", tooltip="A flow model: FLUX, UltraFlux or the embedded one."),
                io.Conditioning.Input("conditioning", tooltip="The model's fixed prompt."),
                io.Latent.Input("latent", tooltip="From F16 Encode, or from stock VAE Encode."),
                SIGMA,
                STEPS,
                GUIDANCE,
                THETA,
                NOISE,
                SEED,
            ],
            outputs=[io.Latent.Output(tooltip="The restored latent.")],
        )

    @classmethod
    def execute(cls, model, conditioning, latent, sigma_mid, steps, guidance, theta, noise, seed) -> io.NodeOutput:
        tokens = latent["samples"].shape[-2] * latent["samples"].shape[-1] // 4
        preflight(f"{tokens} tokens", model.load_device, {"transform": transformer_phase(model, tokens)})
        step = Step(sigma_mid, steps, guidance, theta, noise, seed)
        return io.NodeOutput(one_step(model, latent, conditioning, step))


class F16Decode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
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
    def execute(cls, latent, vae, colour: str, fidelity: float, reference=None) -> io.NodeOutput:
        check_vae(vae)
        height, width = latent["samples"].shape[-2:]
        pixels = height * width * vae.downscale_ratio**2
        preflight(f"{width}x{height} latent", vae.device, {"decode": vae_phase(vae, pixels, decoder=True)})
        reference = None if reference is None else to_bchw(reference).clamp(0, 1)
        return io.NodeOutput(decode_picture(vae, latent, reference, colour, fidelity))


class MidTimestepSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
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
        return io.NodeOutput(torch.tensor(flow.sigma_schedule(sigma_mid, steps)), MidTimestep(noise))


def transparency(image: Tensor, mask: Tensor | None) -> Tensor | None:
    """The MASK (B, H, W) that goes with an IMAGE: as given, else 1 - alpha of a four-channel picture."""
    if mask is None:
        return 1 - image[..., 3] if image.shape[-1] == 4 else None
    if mask.shape[-2:] != image.shape[1:3]:
        raise ImageError(
            f"The MASK is {mask.shape[-1]}x{mask.shape[-2]} px, the IMAGE {image.shape[2]}x{image.shape[1]}."
        )
    return mask


def chosen_models(model, conditioning, vae) -> tuple:
    """The three that were connected, or the embedded ones. Raises WeightsError on a part of a set."""
    given = {"model": model, "conditioning": conditioning, "vae": vae}
    missing = [name for name, value in given.items() if value is None]
    if not missing:
        return model, conditioning, vae
    if len(missing) == len(given):
        return load_embedded()
    raise WeightsError(f"Connect {' and '.join(missing)} too, or none of the three for the embedded model.")


class UpscaleTo4K(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return describe(
            "Upscale",
            "Upscale to 4K (OP4KSR)",
            ["upscale image", "super resolution", "4k", "enlarge", "seedvr", "supir"],
            description="Picture in, 4K picture out. Without model, vae and conditioning the embedded model does it.",
            inputs=[
                io.Image.Input("image", tooltip="Any size, any number of pictures."),
                io.Int.Input(
                    "long_side",
                    default=4096,
                    min=0,
                    max=32768,
                    tooltip="Long side of the result in px; 0 takes the scale.",
                ),
                SCALE,
                SIGMA,
                STEPS,
                GUIDANCE,
                THETA,
                COLOUR,
                FIDELITY,
                NOISE,
                SEED,
                FACTOR,
                io.Mask.Input("mask", optional=True, tooltip="Transparency, enlarged with the picture."),
                io.Model.Input("model", optional=True, tooltip="FLUX or UltraFlux, perhaps with adapters."),
                io.Vae.Input("vae", optional=True, tooltip="The VAE that belongs to the MODEL."),
                io.Conditioning.Input("conditioning", optional=True, tooltip="The MODEL's fixed prompt."),
                COMPENSATION,
            ],
            outputs=[
                io.Image.Output(tooltip="The large picture, without alpha."),
                io.Mask.Output(tooltip="Its transparency; all 0 where the input had none."),
            ],
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
        noise,
        seed,
        vae_factor,
        mask=None,
        model=None,
        vae=None,
        conditioning=None,
        compensation=0.0,  # of graphs from before it was there
    ) -> io.NodeOutput:
        hidden = transparency(image, mask)
        model, conditioning, vae = chosen_models(model, conditioning, vae)
        plan, lr = plan_picture(vae, image, scale, long_side, int(vae_factor))
        pixels = plan.padded.pixels
        phases = {"encode": vae_phase(vae, pixels, decoder=False), "transform": transformer_phase(model, plan.tokens)}
        preflight(title_of(plan), vae.device, phases | {"decode": vae_phase(vae, pixels, decoder=True)})
        latent = encode_picture(vae, lr, plan)
        latent = one_step(model, latent, conditioning, Step(sigma_mid, steps, guidance, theta, noise, seed))
        large = compensated(decode_picture(vae, latent, lr, colour, fidelity), lr, compensation)
        if hidden is None:
            return io.NodeOutput(large, large.new_zeros(large.shape[:3]))
        return io.NodeOutput(large, resize(hidden[:, None].float(), plan.target)[:, 0].clamp(0, 1))

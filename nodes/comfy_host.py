"""The ComfyUI host: the core's order of work over a MODEL, a CONDITIONING and a VAE."""

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import node_helpers
import torch
from torch import Tensor

from ..op4ksr_core.errors import WeightsError
from ..op4ksr_core.geometry import Size, SizePlan, plan_size
from ..op4ksr_core.model import flow
from ..op4ksr_core.model.compensation import compensate, load_compensation
from ..op4ksr_core.model.diffusion import check_one_step
from ..op4ksr_core.model.finite import check_finite
from ..op4ksr_core.picture.resample import pad_reflect
from ..op4ksr_core.progress import Progress, watch
from ..op4ksr_core.settings import UpscaleSettings
from .convert import to_bchw
from .memory import preflight, transformer_phase, until_it_fits, vae_phase
from .surgery import (
    check_conditioning,
    check_flow,
    check_latent,
    check_vae,
    is_unet,
    load_embedded,
    rope_of,
    transformer_blocks,
    with_rope,
)
from .vae_passes import decode_whole, encode_whole


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


class OneStepOfAUNet(comfy.samplers.Sampler):
    """Takes x0 in one step from the latent itself at sigma; ComfyUI's own sampling object knows eps from v."""

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ) -> Tensor:
        sigma = sigmas[0].to(latent_image)
        # ComfyUI's states are z / sqrt(abar), and 1 / abar is 1 + sigma^2.
        return model_wrap(latent_image * (1 + sigma**2).sqrt(), sigma.expand(len(latent_image)), **extra_args)


@dataclass
class ComfyHost:
    """A `restore.Host` over a ModelPatcher, a conditioning list and a comfy.sd.VAE.

    Latents are as ComfyUI keeps them, not shifted or scaled; a part that a step does not need may be None. The seed of
    the encoder's posterior is not used: ComfyUI's VAE gives the mode.
    """

    model: Any = None
    conditioning: Any = None
    vae: Any = None
    factor: int = 16
    """What the VAE compresses, where there is none here."""

    @classmethod
    def find(cls, model: Any, conditioning: Any, vae: Any) -> "ComfyHost":
        """Of the three that were connected, or the embedded ones. Raises WeightsError on a part of a set."""
        given = {"model": model, "conditioning": conditioning, "vae": vae}
        missing = [name for name, value in given.items() if value is None]
        if not missing:
            return cls(model, conditioning, vae)
        if len(missing) == len(given):
            return cls(*load_embedded())
        raise WeightsError(f"Connect {' and '.join(missing)} too, or none of the three for the embedded model.")

    @property
    def latent_factor(self) -> int:
        return self.vae.downscale_ratio if self.vae is not None else self.factor

    def encode(self, padded: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        return encode_whole(self.vae, padded, report)

    def transform(self, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        """The core's Euler steps through ComfyUI's own guider, so that every patch of the MODEL acts."""
        model = self.model
        if is_unet(model):
            return self._unet_step(z, settings, report)
        check_flow(model)
        if z.ndim == 4 and 0 not in z.shape:
            z = comfy.sample.fix_empty_latent_channels(model, z)
        check_latent(model, z)
        check_conditioning(model, self.conditioning)
        if settings.rope is not None and settings.rope != rope_of(model)[0]:
            model = with_rope(model, settings.rope)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(node_helpers.conditioning_set_values(self.conditioning, {"guidance": settings.guidance}), [])
        guider.set_cfg(1.0)
        sigmas = torch.tensor(flow.sigma_schedule(settings.sigma, settings.steps))
        eps = flow.draw_noise(z.shape, settings.seed) if settings.noise else torch.zeros_like(z)

        def stepped() -> list[Tensor]:
            with watch(transformer_blocks(model), "transform", report, settings.steps * len(z)):
                return [
                    guider.sample(e, one, MidTimestep(settings.noise), sigmas)
                    for e, one in zip(eps.split(1), z.split(1), strict=True)
                ]

        tokens = z.shape[-2] * z.shape[-1] // 4
        parts = until_it_fits([("as before", stepped)] * 2, f"the transformer on {tokens} tokens", model.load_device)
        dtype = model.model.manual_cast_dtype or model.model.get_dtype()
        remedy = "Start ComfyUI with --bf16-unet or --fp32-unet."
        found = check_finite(torch.cat(parts), "The transformer", dtype, remedy)
        return found.to(comfy.model_management.intermediate_device())

    def _unet_step(self, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        """One step of a diffusion UNet; the latent is mirrored to what its levels halve, and cut back."""
        model = self.model
        check_one_step(settings)
        check_latent(model, z)
        check_conditioning(model, self.conditioning)
        sampling = model.get_model_object("model_sampling")
        sigmas = torch.stack([sampling.sigmas[settings.timestep].float().cpu(), torch.zeros(())])
        levels = len(model.model.model_config.unet_config.get("channel_mult", (1,)))
        size, unit = Size(*z.shape[-2:]), 2 ** (levels - 1)
        padded = pad_reflect(z, Size(-(-size.height // unit) * unit, -(-size.width // unit) * unit))
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.conditioning, [])
        guider.set_cfg(1.0)

        def stepped() -> list[Tensor]:
            with watch(transformer_blocks(model), "transform", report, len(z)):
                return [guider.sample(torch.zeros_like(one), one, OneStepOfAUNet(), sigmas) for one in padded.split(1)]

        what = f"the UNet on a latent of {padded.shape[-1]}x{padded.shape[-2]}"
        parts = until_it_fits([("as before", stepped)] * 2, what, model.load_device)
        dtype = model.model.manual_cast_dtype or model.model.get_dtype()
        found = check_finite(torch.cat(parts), "The UNet", dtype, "Start ComfyUI with --fp32-unet.")
        cut = found[..., : size.height, : size.width].contiguous()
        return cut.to(comfy.model_management.intermediate_device())

    def decode(self, z: Tensor, report: Progress) -> Tensor:
        return decode_whole(self.vae, z, report)

    def compensate(self, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
        """One by one, on the compute device."""
        device, module = comfy.model_management.get_torch_device(), load_compensation()

        def all_of_them() -> list[Tensor]:
            return [
                compensate(x.to(device), y.to(device), strength, module, report).to(picture.device)
                for x, y in zip(picture.clamp(0, 1).split(1), lr.split(1), strict=True)
            ]

        what = f"compensation of {picture.shape[-1]}x{picture.shape[-2]} px"
        return torch.cat(until_it_fits([("as before", all_of_them)] * 2, what, device))

    def plan(self, image: Tensor, scale: float, long_side: int, factor: int) -> tuple[SizePlan, Tensor]:
        """Where the IMAGE goes, and the IMAGE as (B, 3, H, W). `factor` is what the VAE should compress."""
        check_vae(self.vae, factor)
        lr = to_bchw(image).clamp(0, 1)
        source = Size(*lr.shape[-2:])
        return plan_size(source, None if long_side else scale, long_side or None, token_px=2 * factor), lr

    def _phases(self, plan: SizePlan) -> dict[str, tuple[float, float]]:
        pixels = plan.padded.pixels
        return {
            "encode": vae_phase(self.vae, pixels, decoder=False),
            "transform": transformer_phase(self.model, plan.tokens),
            "decode": vae_phase(self.vae, pixels, decoder=True),
        }

    def largest_work(self, plan: SizePlan) -> float:
        """Estimated bytes of the largest phase, weights and all."""
        return max(work + held for work, held in self._phases(plan).values())

    def preflight(self, what: str, plan: SizePlan) -> None:
        """Says what the picture will need, and refuses what cannot fit."""
        preflight(what, self.vae.device, self._phases(plan))

"""The ComfyUI host: the core's order of work over a MODEL, a CONDITIONING and a VAE."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import node_helpers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..op4ksr_core.errors import WeightsError
from ..op4ksr_core.geometry import LATENT_FACTOR, Frame, Size, SizePlan, Target
from ..op4ksr_core.model import flow
from ..op4ksr_core.model.compensation import compensate, load_compensation
from ..op4ksr_core.model.diffusion import check_one_step
from ..op4ksr_core.model.finite import check_finite
from ..op4ksr_core.paths import COMPENSATION
from ..op4ksr_core.pipeline import restoration
from ..op4ksr_core.pipeline.memory import MemoryPlan
from ..op4ksr_core.pipeline.restoration import Plan, Request
from ..op4ksr_core.progress import Progress, watch
from ..op4ksr_core.settings import UpscaleSettings
from .checks import check_conditioning, check_flow, check_latent, check_vae, is_unet
from .memory import plan_phases, transformer_phase, until_it_fits, vae_phase
from .native_models import load_embedded
from .rope_patch import rope_of, with_rope
from .vae_passes import check_posterior, decode_whole, encode_whole


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


_SD_CHANNELS, _SD_MULTIPLE = 4, 64
"""Latent channels of Stable Diffusion's VAEs, TVT's among them, and the px that those families' UNets divide."""


@dataclass
class ComfyHost:
    """A `restoration.Host` over a ModelPatcher, a conditioning list and a comfy.sd.VAE.

    Latents are as ComfyUI keeps them, not shifted or scaled; a part that a step does not need may be None.
    """

    model: Any = None
    conditioning: Any = None
    vae: Any = None
    latent_factor: int = LATENT_FACTOR
    """Picture px per latent px: the VAE's, where there is one here."""
    detail_network: Path = COMPENSATION
    """The file of the network that `compensate` runs."""

    def __post_init__(self) -> None:
        if self.vae is not None:
            self.latent_factor = self.vae.downscale_ratio

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
    def device(self) -> torch.device:
        return comfy.model_management.intermediate_device()

    @property
    def multiple_px(self) -> int:
        """What the UNet's levels halve, or the side of a flow's token; without a MODEL, the VAE tells which."""
        if self.model is not None and is_unet(self.model):
            return self.latent_factor * 2 ** (len(self.model.model.model_config.unet_config["channel_mult"]) - 1)
        if self.model is None and self.vae is not None and self.vae.latent_channels == _SD_CHANNELS:
            return max(_SD_MULTIPLE, 2 * self.latent_factor)
        return 2 * self.latent_factor

    def check(self, settings: UpscaleSettings) -> None:
        if self.vae is not None and settings.posterior_seed is not None:
            check_posterior(self.vae)
        if is_unet(self.model):
            check_one_step(settings)
            return
        check_flow(self.model)
        if settings.rope is not None:
            rope_of(self.model)  # raises on a MODEL without RoPE

    def plan_memory(self, size: SizePlan, count: int) -> MemoryPlan:
        """For one picture: ComfyUI's models take the others one after the other."""
        phases = {
            "encode": vae_phase(self.vae, size.padded.pixels, decoder=False),
            "transform": transformer_phase(self.model, size.tokens),
            "decode": vae_phase(self.vae, size.padded.pixels, decoder=True),
        }
        return plan_phases(str(size), self.vae.device, phases)

    def prepare(self, memory: MemoryPlan | None) -> None:
        """ComfyUI makes room by itself."""

    def condition_on(self, enlarged: Tensor) -> None:
        """The condition is the CONDITIONING that is connected."""

    def look_at(self, top: int, left: int, size: Size) -> None:
        """The condition is the same for all parts."""

    def encode(self, padded: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        return encode_whole(self.vae, padded, report, settings.posterior_seed)

    def transform(self, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        """The core's Euler steps through ComfyUI's own guider, so that every patch of the MODEL acts."""
        model = self.model
        if is_unet(model):
            return self._unet_step(z, settings, report)
        self.check(settings)
        if z.ndim == 4 and 0 not in z.shape:
            z = comfy.sample.fix_empty_latent_channels(model, z)
        check_latent(model, z)
        check_conditioning(model, self.conditioning)
        if settings.rope is not None and settings.rope != rope_of(model)[0]:
            model = with_rope(model, settings.rope)
        conditioning = node_helpers.conditioning_set_values(self.conditioning, {"guidance": settings.guidance})
        guiders = _guiders(model, conditioning, len(z))
        sigmas = torch.tensor(flow.sigma_schedule(settings.sigma, settings.steps))
        eps = flow.draw_noise(z.shape, settings.seed) if settings.noise else torch.zeros_like(z)

        def stepped() -> list[Tensor]:
            with watch(_transformer_blocks(model), "transform", report, settings.steps * len(z)):
                return [
                    guider.sample(e, one, MidTimestep(settings.noise), sigmas)
                    for guider, e, one in zip(guiders, eps.split(1), z.split(1), strict=True)
                ]

        tokens = z.shape[-2] * z.shape[-1] // 4
        parts = until_it_fits([("as before", stepped)] * 2, f"the transformer on {tokens} tokens", model.load_device)
        dtype = model.model.manual_cast_dtype or model.model.get_dtype()
        remedy = "Start ComfyUI with --bf16-unet or --fp32-unet."
        found = check_finite(torch.cat(parts), "The transformer", dtype, remedy)
        return found.to(comfy.model_management.intermediate_device())

    def _unet_step(self, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        """One step of a diffusion UNet."""
        model = self.model
        self.check(settings)
        check_latent(model, z)
        check_conditioning(model, self.conditioning)
        sampling = model.get_model_object("model_sampling")
        sigmas = torch.stack([sampling.sigmas[settings.timestep].float().cpu(), torch.zeros(())])
        guiders = _guiders(model, self.conditioning, len(z))

        def stepped() -> list[Tensor]:
            with watch(_transformer_blocks(model), "transform", report, len(z)):
                return [
                    guider.sample(torch.zeros_like(one), one, OneStepOfAUNet(), sigmas)
                    for guider, one in zip(guiders, z.split(1), strict=True)
                ]

        what = f"the UNet on a latent of {z.shape[-1]}x{z.shape[-2]}"
        parts = until_it_fits([("as before", stepped)] * 2, what, model.load_device)
        dtype = model.model.manual_cast_dtype or model.model.get_dtype()
        found = check_finite(torch.cat(parts), "The UNet", dtype, "Start ComfyUI with --fp32-unet.")
        return found.to(comfy.model_management.intermediate_device())

    def decode(self, z: Tensor, report: Progress) -> Tensor:
        return decode_whole(self.vae, z, report)

    def compensate(self, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
        """One by one, on the compute device."""
        device, module = comfy.model_management.get_torch_device(), load_compensation(self.detail_network)

        def all_of_them() -> list[Tensor]:
            return [
                compensate(x.to(device), y.to(device), strength, module, report).to(picture.device)
                for x, y in zip(picture.clamp(0, 1).split(1), lr.split(1), strict=True)
            ]

        what = f"compensation of {picture.shape[-1]}x{picture.shape[-2]} px"
        return torch.cat(until_it_fits([("as before", all_of_them)] * 2, what, device))


def _transformer_blocks(model: ModelPatcher) -> list[nn.Module]:
    """The blocks of the MODEL's transformer, whatever its kind: what progress counts and cancelling waits for."""
    children = model.get_model_object("diffusion_model").children()
    return [block for child in children if isinstance(child, nn.ModuleList) for block in child]


def _guiders(model: Any, conditioning: list, count: int) -> list[Any]:
    """A guider without negative prompt for each of `count` pictures, which are run one by one.

    A conditioning of as many entries (F2IDiff-SR's features) gives each picture its own.
    """
    guiders = [comfy.samplers.CFGGuider(model) for _ in range(count)]
    for number, guider in enumerate(guiders):
        guider.set_conds([_entry_of(one, number, count) for one in conditioning], [])
        guider.set_cfg(1.0)
    return guiders


def _entry_of(conditioning: list, number: int, count: int) -> list:
    """One [sequence, extra] of a CONDITIONING, with the sequence and pooled embedding of one picture."""

    def own(tensor: Any) -> Any:
        is_batch = isinstance(tensor, Tensor) and count > 1 and len(tensor) == count
        return tensor[number : number + 1] if is_batch else tensor

    sequence, extra = conditioning
    if "pooled_output" in extra:
        extra = extra | {"pooled_output": own(extra["pooled_output"])}
    return [own(sequence), extra]


def plan_pictures(
    host: ComfyHost, pictures: Tensor, target: Target, settings: Sequence[UpscaleSettings], latent_factor: int
) -> Plan:
    """The core's plan for pictures (B, 3, H, W). `latent_factor` is what the VAE should compress.

    Errors as of `plan_frame`.
    """
    return plan_frame(host, target.frame(Size(*pictures.shape[-2:])), len(pictures), settings, latent_factor)


def plan_frame(
    host: ComfyHost, frame: Frame, count: int, settings: Sequence[UpscaleSettings], latent_factor: int
) -> Plan:
    """The core's plan for `count` pictures in a frame. Errors as of `check_vae` and `restoration.plan`."""
    check_vae(host.vae, latent_factor)
    return restoration.plan(host, Request(frame, settings, count))

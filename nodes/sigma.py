"""Which mid-timestep suits a pair of pictures and a VAE."""

import math

import comfy.latent_formats
import torch
from comfy_api.latest import io
from torch import Tensor

from ..op4ksr_core.errors import ImageError
from ..op4ksr_core.geometry import Size, plan_target
from ..op4ksr_core.model.flow import estimate_sigma
from ..op4ksr_core.picture.charts import COLOURS, Axis, Chart, Curve
from ..op4ksr_core.picture.convert import as_tensor
from ..op4ksr_core.pipeline.restoration import encode_picture
from ..op4ksr_core.settings import UpscaleSettings
from .checks import check_vae
from .comfy_host import ComfyHost
from .convert import to_bchw
from .progress import make_report
from .schema import node_schema


def latent_pairs(vae, low: Tensor, high: Tensor, scale: float, shift: float) -> list[tuple[Tensor, Tensor]]:
    """(z_HR, z_LR) of each picture, as the transformer sees them."""
    check_vae(vae)
    if len(low) != len(high):
        raise ImageError(f"The two IMAGEs go together one by one: {len(low)} low, {len(high)} high.")
    size = Size(*high.shape[-2:])
    if low.shape[-2] > size.height or low.shape[-1] > size.width:
        raise ImageError(
            f"The low-resolution IMAGE {list(low.shape[-2:])} is larger than the other {list(high.shape[-2:])}."
        )
    host, settings = ComfyHost(vae=vae), UpscaleSettings()
    plan = plan_target(size, size, host.multiple_px, host.latent_factor)
    z_high, z_low = (
        (encode_picture(host, x.clamp(0, 1), plan, settings, make_report()) - shift) * scale for x in (high, low)
    )
    return list(zip(z_high.split(1), z_low.split(1), strict=True))


def plot(pairs: list[tuple[Tensor, Tensor]], chosen: float) -> Tensor:
    """SNR of the state against sigma in decibels, the pairs' own SNR as lines, the chosen sigma marked: an IMAGE."""
    power = float(torch.cat([z.flatten() for z, _ in pairs]).pow(2).mean())
    sigmas = [i / 200 for i in range(1, 200)]
    curves = [Curve([(s, 10 * math.log10((1 - s) ** 2 * power / s**2)) for s in sigmas], COLOURS[0], "state at sigma")]
    for number, (z_high, z_low) in enumerate(pairs):
        ratio = 10 * math.log10(float(z_high.pow(2).mean() / (z_low - z_high).pow(2).mean()))
        curves.append(Curve([(0, ratio), (1, ratio)], COLOURS[3], "" if number else "LR latents", width=1))
    chart = Chart(
        "Signal to noise",
        Axis("sigma", 0, 1),
        Axis("dB", -30, 40, ticks=range(-30, 41, 10)),
        curves,
        places={f"sigma {chosen:.3f}": chosen},
    )
    return as_tensor(chart.draw()).movedim(0, -1)[None].contiguous()


class EstimateSigma(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "EstimateSigma",
            "Estimate sigma (OP4KSR)",
            ["mid timestep", "snr", "calibrate"],
            description="The mid-timestep at which the flow is as noisy as the low-resolution latent is wrong "
            "(OMGSR's estimator), from pictures of which you have both.",
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE, with the encoder's adapter if there is one."),
                io.Image.Input("low_resolution", tooltip="Pictures as they come in."),
                io.Image.Input("high_resolution", tooltip="The same pictures as they should come out, one for one."),
                io.Model.Input(
                    "model", optional=True, tooltip="Says how latents are scaled; without it, FLUX.1's way."
                ),
            ],
            outputs=[
                io.Float.Output(display_name="sigma", tooltip="For sigma_mid."),
                io.Image.Output(display_name="plot", tooltip="Signal to noise of the flow and of the pairs."),
            ],
        )

    @classmethod
    def execute(cls, vae, low_resolution, high_resolution, model=None) -> io.NodeOutput:
        form = model.model.latent_format if model is not None else comfy.latent_formats.Flux()
        scale, shift = form.scale_factor, getattr(form, "shift_factor", 0.0)
        pairs = latent_pairs(vae, to_bchw(low_resolution), to_bchw(high_resolution), scale, shift)
        sigma = estimate_sigma(pairs)
        return io.NodeOutput(sigma, plot(pairs, sigma))

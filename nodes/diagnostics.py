"""Nodes that study a model: RoPE analysis, theta sweep, latent view."""

from collections.abc import Sequence
from dataclasses import replace

import comfy.model_management
import torch
from comfy_api.latest import io

from ..op4ksr_core.diagnostics import latent_view, sweep
from ..op4ksr_core.diagnostics.rope_phases import analyse, compare
from ..op4ksr_core.diagnostics.rope_report import draw_analyses
from ..op4ksr_core.errors import ImageError, SettingError
from ..op4ksr_core.geometry import LongSide, Scale, Size
from ..op4ksr_core.model.rope import FLUX_AXES
from ..op4ksr_core.picture.convert import as_tensor
from ..op4ksr_core.pipeline.restoration import variants
from ..op4ksr_core.settings import SCHEMES, RopeSettings, Scheme, UpscaleSettings
from .comfy_host import ComfyHost, plan_pictures
from .convert import to_bchw, to_image
from .inputs import COLOUR, FACTOR, FIDELITY, GUIDANCE, NOISE, SCALE, SEED, STEPS
from .progress import Parts
from .rope_patch import rope_of
from .schema import node_schema


def _shown(image_chw: torch.Tensor) -> torch.Tensor:
    return to_image(image_chw[None])


class AnalyseRope(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "RopeAnalysis",
            "RoPE analysis (OP4KSR)",
            ["rope", "theta", "position embedding", "phase step", "effective pairs"],
            description="What RoPE bases do to token positions: the phase step of every pair against 5 degrees, and "
            "how far tokens look like the one in the middle (figures 5a and 5b of the paper).",
            inputs=[
                io.String.Input("thetas", default="100, 10000", tooltip="RoPE bases above 1, with commas between."),
                io.Combo.Input("scheme", options=list(SCHEMES), default="plain", tooltip="Of all those bases."),
                io.Int.Input("width", default=4096, min=32, max=32768, step=32, tooltip="Of the picture, px."),
                io.Int.Input("height", default=4096, min=32, max=32768, step=32, tooltip="Of the picture, px."),
                FACTOR,
                io.Model.Input("model", optional=True, tooltip="A FLUX MODEL whose own embedding is put first."),
            ],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="Phase steps, numbers, and a map for each base."),
                io.String.Output(display_name="report", tooltip="The numbers in plain sentences."),
                io.Int.Output(display_name="effective pairs", tooltip="Of the first base, across."),
                io.Float.Output(display_name="area", tooltip="Of the first base: share of tokens above 0.9."),
            ],
        )

    @classmethod
    def execute(
        cls, thetas: str, scheme: Scheme, width: int, height: int, vae_factor: str, model=None
    ) -> io.NodeOutput:
        settings = [RopeSettings(theta, scheme) for theta in sweep.numbers_of(thetas)]
        axes: Sequence[int] = FLUX_AXES
        if model is not None:
            own, axes = rope_of(model)
            settings = [own, *(one for one in settings if one != own)]
        if not settings:
            raise SettingError("Give at least one theta, like 100, 10000, or connect a MODEL.")
        analyses = [analyse(one, Size(height, width), 2 * int(vae_factor), axes) for one in settings]
        report = "\n".join(compare(analyses))
        first = analyses[0]
        return io.NodeOutput(_shown(draw_analyses(analyses)), report, first.effective[1], first.area())


class ThetaSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "ThetaSweep",
            "Theta sweep (OP4KSR)",
            ["compare theta", "contact sheet", "xy plot", "sigma sweep"],
            description="Runs one picture under several RoPE bases and mid-timesteps, measures lattice and sharpness, "
            "and names the best. Encodes once.",
            inputs=[
                io.Image.Input("image", tooltip="The first of a batch is used."),
                io.String.Input(
                    "thetas",
                    default="10, 100, 1000, 10000",
                    tooltip="RoPE bases above 1, commas between. The scheme stays the MODEL's.",
                ),
                io.String.Input("sigmas", default="0.3", tooltip="Mid-timesteps in (0, 1], with commas between."),
                io.Int.Input(
                    "long_side",
                    default=1024,
                    min=0,
                    max=32768,
                    tooltip="Long side of the results in px; 0 takes the scale. Each setting costs one step and one "
                    "decode of this size.",
                ),
                SCALE,
                STEPS,
                GUIDANCE,
                COLOUR,
                FIDELITY,
                NOISE,
                SEED,
                FACTOR,
                io.Model.Input("model", optional=True, tooltip="FLUX or UltraFlux, perhaps with adapters."),
                io.Vae.Input("vae", optional=True, tooltip="The VAE that belongs to the MODEL."),
                io.Conditioning.Input("conditioning", optional=True, tooltip="The MODEL's fixed prompt."),
            ],
            outputs=[
                io.Image.Output(display_name="contact sheet", tooltip="A detail and a flat area under each setting."),
                io.Image.Output(display_name="plot", tooltip="Score, 32-px pitch and sharpness against theta."),
                io.Float.Output(display_name="best theta", tooltip="By score, then sharpness."),
                io.Float.Output(display_name="best sigma", tooltip="By score, then sharpness."),
                io.String.Output(display_name="report", tooltip="All numbers in plain sentences."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image,
        thetas,
        sigmas,
        long_side,
        scale,
        steps,
        guidance,
        colour,
        fidelity,
        noise,
        seed,
        vae_factor,
        model=None,
        vae=None,
        conditioning=None,
    ) -> io.NodeOutput:
        pairs = sweep.settings_of(sweep.numbers_of(thetas), sweep.numbers_of(sigmas))
        host = ComfyHost.find(model, conditioning, vae)
        own, _ = rope_of(host.model)
        base = UpscaleSettings(steps=steps, guidance=guidance, noise=noise, seed=seed, colour=colour, fidelity=fidelity)
        settings = [replace(base, sigma=sigma, rope=replace(own, theta=theta)) for theta, sigma in pairs]
        lr = to_bchw(image[:1]).clamp(0, 1)
        target = LongSide(long_side) if long_side else Scale(scale)
        plan = plan_pictures(host, lr, target, settings, int(vae_factor))
        bar = Parts(1 + 3 * len(pairs))
        trials: list[sweep.Trial] = []
        frames = None
        for (theta, sigma), variant in zip(pairs, variants(host, plan, lr, bar), strict=True):
            picture = variant.picture[0]
            bar.step("inspect")
            frames = frames or sweep.choose_frames(picture)
            first = trials[0] if trials else None
            trials.append(sweep.judge(theta, sigma, picture, frames, first, lr[0], variant.plain[0]))
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.finish()
        best = sweep.best(trials)
        sheet, plot = (_shown(as_tensor(drawn)) for drawn in (sweep.contact_sheet(trials), sweep.plot(trials)))
        return io.NodeOutput(sheet, plot, best.theta, best.sigma, "\n".join(sweep.sentences(trials)))


class LatentView(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "LatentView",
            "Latent view (OP4KSR)",
            ["latent preview", "pca", "latent to image", "token bias"],
            description="Latents as colours, by their three principal components, and how far the four places of each "
            "2x2 token differ: what the transformer does to a latent (figure 6 of the paper).",
            inputs=[
                io.Latent.Input("latent", tooltip="From the sampler, or any LATENT; the first of a batch."),
                io.Latent.Input("before", optional=True, tooltip="From F16 Encode: shown above, in the same colours."),
            ],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="Whole, a detail with its tokens, the bias."),
                io.Image.Output(display_name="components", tooltip="The colours alone, one px per latent px."),
                io.Float.Output(
                    display_name="bias",
                    tooltip="Of the latent: how far the four places differ, in its standard deviations.",
                ),
                io.String.Output(display_name="report", tooltip="The numbers in plain sentences."),
            ],
        )

    @classmethod
    def execute(cls, latent, before=None) -> io.NodeOutput:
        names = ["latent"] if before is None else ["before", "after"]
        latents = [latent_view.check_latent(one["samples"]) for one in (before, latent) if one is not None]
        if latents[0].shape != latents[-1].shape:
            first, last = (list(z.shape) for z in latents)
            raise ImageError(f"The two LATENTs must have one shape: before {first}, after {last}.")
        colours, _ = latent_view.principal_colours(latents)
        return io.NodeOutput(
            _shown(latent_view.draw_latents(latents, names)),
            to_image(torch.stack(colours)),
            latent_view.phase_bias(latents[-1]).relative,
            "\n".join(latent_view.sentences(latents, names)),
        )

"""`op4ksr latents`: latents before and after the transformer, as colours and numbers."""

import argparse

from ..diagnostics import latent_view
from ..picture.alpha import fill_hidden
from ..picture.convert import as_picture
from ..picture.read import Picture
from ..pipeline.upscaler import Upscaler
from ..progress import Progress
from .batch import Job
from .options import add_inputs, add_method_options, add_model_options, target_of, upscale_settings
from .per_image import run_study, tell, write_json, write_png


def add_options(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for a picture and a JSON of each")
    add_model_options(parser)
    add_method_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """A picture and a JSON of the latents of each input, before and after the transformer."""
    settings, target = upscale_settings(arguments), target_of(arguments)
    names = ("before", "after")

    def one(upscaler: Upscaler, job: Job, picture: Picture, report: Progress) -> None:
        rgb = fill_hidden(picture.rgb, picture.alpha)
        [variant] = upscaler.variants(rgb, [settings], target, report, decode=False)
        latents = [latent_view.check_latent(z) for z in (variant.before, variant.after)]
        write_png(job.output, as_picture(latent_view.draw_latents(latents, names)))
        numbers = {name: latent_view.phase_bias(z).as_dict() for name, z in zip(names, latents, strict=True)}
        write_json(job.output.with_suffix(".json"), {"file": str(job.source), **numbers})
        tell(job, latent_view.sentences(latents, names))

    return run_study(arguments, settings, one)

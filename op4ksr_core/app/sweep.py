"""`op4ksr sweep`: one picture under several thetas and sigmas, judged and compared."""

import argparse
from dataclasses import replace

from ..diagnostics import sweep
from ..geometry import Size
from ..picture.alpha import enlarge_alpha, fill_hidden
from ..picture.read import Picture
from ..picture.write import write_picture
from ..pipeline.upscaler import Upscaler
from ..progress import Progress
from ..settings import RopeSettings
from .batch import Job
from .options import add_inputs, add_method_options, add_model_options, target_of, upscale_settings
from .per_image import run_study, tell, write_json, write_png


def add_options(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for sheet, plot and JSON of each")
    thetas = [10, 30, 100, 300, 1000, 10000]
    parser.add_argument("--thetas", type=float, nargs="+", default=thetas, help="bases (default 10 ... 10000)")
    parser.add_argument("--sigmas", type=float, nargs="+", help="mid-timesteps (default: the preset's)")
    parser.add_argument("--pictures", action="store_true", help="also write every result in full, as PNG")
    add_model_options(parser)
    add_method_options(parser, swept=True)


def run(arguments: argparse.Namespace) -> int:
    """A contact sheet, a plot and a JSON of each picture; the sentences on standard output."""
    base, target = upscale_settings(arguments), target_of(arguments)
    pairs = sweep.settings_of(arguments.thetas, arguments.sigmas or [base.sigma])
    settings = [
        replace(base, sigma=sigma, rope=replace(base.rope or RopeSettings(), theta=theta)) for theta, sigma in pairs
    ]

    def one(upscaler: Upscaler, job: Job, picture: Picture, report: Progress) -> None:
        trials: list[sweep.Trial] = []
        frames = None
        filled = fill_hidden(picture.rgb, picture.alpha)
        variants = upscaler.variants(filled, settings, target, report)
        for (theta, sigma), variant in zip(pairs, variants, strict=True):
            rgb = variant.picture[0]
            frames = frames or sweep.choose_frames(rgb)
            first = trials[0] if trials else None
            trials.append(sweep.judge(theta, sigma, rgb, frames, first, filled[0], variant.plain[0]))
            if arguments.pictures:
                name = f"{job.output.stem}_theta{theta:g}_sigma{sigma:g}.png"
                alpha = picture.alpha
                if alpha is not None:
                    alpha = enlarge_alpha(alpha, Size(*rgb.shape[-2:]))
                write_picture(job.output.with_name(name), replace(picture, rgb=variant.picture, alpha=alpha))
        write_png(job.output.with_name(f"{job.output.stem}_sheet.png"), sweep.contact_sheet(trials))
        write_png(job.output.with_name(f"{job.output.stem}_plot.png"), sweep.plot(trials))
        best = sweep.best(trials)
        numbers = {"file": str(job.source), "best_theta": best.theta, "best_sigma": best.sigma}
        write_json(job.output.with_suffix(".json"), numbers | {"trials": [trial.as_dict() for trial in trials]})
        tell(job, sweep.sentences(trials))

    return run_study(arguments, base, one)

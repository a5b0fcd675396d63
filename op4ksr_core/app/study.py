"""What `op4ksr rope`, `sweep` and `latents` do: instruments that write pictures and numbers about a model."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..diagnostics import latent_view, rope_phases, sweep
from ..diagnostics.rope_report import draw_analyses
from ..errors import Op4ksrError
from ..geometry import Size
from ..picture.charts import as_picture
from ..picture.files import Picture, fill_hidden, read_picture, write_atomically, write_picture, write_text
from ..pipeline.upscaler import Upscaler
from ..progress import Progress
from ..settings import RopeSettings, UpscaleSettings
from .batch import Job, check_folders, enlarge_alpha, plan_jobs
from .upscale import Display, make_upscaler, upscale_settings


def rope(arguments: argparse.Namespace) -> int:
    """Sentences or JSON on standard output, the picture where -o says. Raises Op4ksrError."""
    size = Size.parse(arguments.size)
    settings = [RopeSettings(theta, arguments.scheme, base_tokens=arguments.base_tokens) for theta in arguments.theta]
    analyses = [rope_phases.analyse(one, size, arguments.token_px) for one in settings]
    if arguments.output:
        path = Path(arguments.output).expanduser()
        check_folders([path])
        picture = as_picture(draw_analyses(analyses))
        write_atomically(path, lambda file: picture.save(file, "png"))
    if arguments.json:
        print(json.dumps([one.as_dict() for one in analyses], indent=2))
    else:
        print("\n".join(rope_phases.compare(analyses)))
    return 0


def sweep_files(arguments: argparse.Namespace) -> int:
    """A contact sheet, a plot and a JSON of each picture; the sentences on standard output."""
    base = upscale_settings(arguments)
    pairs = sweep.settings_of(arguments.thetas, arguments.sigmas or [base.sigma])
    settings = [
        replace(base, sigma=sigma, rope=replace(base.rope or RopeSettings(), theta=theta)) for theta, sigma in pairs
    ]

    def one(upscaler: Upscaler, job: Job, picture: Picture, report: Progress) -> None:
        trials: list[sweep.Trial] = []
        frames = None
        variants = upscaler.variants(fill_hidden(picture), settings, arguments.scale, arguments.long_side, report)
        for (theta, sigma), variant in zip(pairs, variants, strict=True):
            rgb = variant.picture[0]
            frames = frames or sweep.choose_frames(rgb)
            trials.append(sweep.judge(theta, sigma, rgb, frames, trials[0] if trials else None))
            if arguments.pictures:
                name = f"{job.output.stem}_theta{theta:g}_sigma{sigma:g}.png"
                alpha = enlarge_alpha(picture, Size(*rgb.shape[-2:]))
                write_picture(job.output.with_name(name), replace(picture, rgb=variant.picture, alpha=alpha))
        _write_png(job.output.with_name(f"{job.output.stem}_sheet.png"), sweep.contact_sheet(trials))
        _write_png(job.output.with_name(f"{job.output.stem}_plot.png"), sweep.plot(trials))
        best = sweep.best(trials)
        numbers = {"file": str(job.source), "best_theta": best.theta, "best_sigma": best.sigma}
        _write_json(job.output.with_suffix(".json"), numbers | {"trials": [trial.as_dict() for trial in trials]})
        _tell(job, sweep.describe(trials))

    return _each(arguments, base, one)


def latent_files(arguments: argparse.Namespace) -> int:
    """A picture and a JSON of the latents of each input, before and after the transformer."""
    settings = upscale_settings(arguments)
    names = ("before", "after")

    def one(upscaler: Upscaler, job: Job, picture: Picture, report: Progress) -> None:
        [variant] = upscaler.variants(
            fill_hidden(picture), [settings], arguments.scale, arguments.long_side, report, decode=False
        )
        latents = [latent_view.check_latent(z) for z in (variant.before, variant.after)]
        _write_png(job.output, as_picture(latent_view.draw_latents(latents, names)))
        numbers = {name: latent_view.phase_bias(z).as_dict() for name, z in zip(names, latents, strict=True)}
        _write_json(job.output.with_suffix(".json"), {"file": str(job.source), **numbers})
        _tell(job, latent_view.describe(latents, names))

    return _each(arguments, settings, one)


Study = Callable[[Upscaler, Job, Picture, Progress], None]


def _each(arguments: argparse.Namespace, settings: UpscaleSettings, study: Study) -> int:
    """Runs the study over the inputs; 1 if one of them failed. One bad picture does not stop the rest."""
    jobs = plan_jobs(arguments.inputs, arguments.output)
    check_folders([job.output for job in jobs])
    upscaler = make_upscaler(arguments, settings)
    failed = False
    with Display(len(jobs)) as display:
        for job in jobs:
            try:
                study(upscaler, job, read_picture(job.source), display.start(job))
            except Op4ksrError as error:
                failed = True
                print(f"failed {job.source}: {error}", file=sys.stderr)
            display.pictures.update()
    return int(failed)


def _tell(job: Job, lines: list[str]) -> None:
    print(f"{job.source}:", *lines, sep="\n  ")


def _write_png(path: Path, image) -> None:
    write_atomically(path, lambda file: image.save(file, "png"))


def _write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")

"""`op4ksr upscale`: enlarges pictures, folders and globs."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from .. import __version__
from ..declared import add_option, as_values, find_setting, from_values, given_options
from ..declared import add_options as add_settings
from ..errors import SettingError
from ..files import at_home, check_targets, json_text, write_text
from ..formats import WRITABLE
from ..geometry import Box, Megapixels, Scale, ShortSide
from ..picture.header import MAX_MEGAPIXELS
from ..picture.write import SaveOptions
from ..pipeline.quality_check import Limits
from ..pipeline.upscaler import Upscaler
from ..settings import UpscaleSettings
from .argument_types import WORKERS, number
from .batch import BatchSettings, Job, Result, as_trials, check_part, plan_jobs, read_mask, run_jobs
from .console import Display, exit_code, say
from .options import (
    add_inputs,
    add_method_options,
    add_model_options,
    add_target,
    make_upscaler,
    target_of,
    upscale_settings,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser, required=False)
    parser.add_argument("-o", "--output", help="output folder, or a file for a single picture")
    parser.add_argument("--engine", choices=("here", "ray"), default="here", help="ray: a model in each of --workers")
    parser.add_argument("--workers", type=WORKERS, default=1, help="models at once with --engine ray (default 1)")
    add_model_options(parser)
    add_size_options(parser)
    add_method_options(parser)
    add_output_options(parser)
    parser.add_argument(
        "--region",
        metavar="LEFT,TOP,WIDTH,HEIGHT",
        help="try only this part, in px of the small picture, or `middle`; written beside, under a name of its own",
    )
    parser.add_argument("--print-settings", action="store_true", help="print the settings as JSON, for --settings")


def add_size_options(parser: argparse.ArgumentParser) -> None:
    size = parser.add_argument_group("size, in place of --scale and --long-side")
    add_target(size, "short-side", ShortSide)
    add_target(size, "megapixels", Megapixels)
    size.add_argument("--exact", metavar="WxH", help="the output's exact size")
    add_option(size, find_setting(Box, "fit"))
    size.add_argument(
        "--max-megapixels",
        type=number(0.001, 1e6),
        default=MAX_MEGAPIXELS,
        help=f"larger inputs are refused by their header (default {MAX_MEGAPIXELS:g})",
    )
    size.add_argument(
        "--strength-mask", metavar="FILE", help="a picture: white where the model may act, black where not"
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("output")
    out.add_argument("--format", choices=tuple(WRITABLE), default="png", help="of folders (default png)")
    out.add_argument("--quality", type=int, default=95, help="JPEG and WebP, 1 to 100 (default 95)")
    out.add_argument("--lossless", action="store_true", help="lossless WebP")
    out.add_argument("--compression", type=int, default=4, help="PNG, 0 to 9 (default 4)")
    out.add_argument("--overwrite", action="store_true", help="make finished outputs again")
    out.add_argument("--strip", action="store_true", help="also write a before/after strip of each picture")
    out.add_argument("--json", metavar="FILE", help="write a summary of the run")
    out.add_argument("--no-check", action="store_true", help="do not look for a lattice or a mesh in the results")
    out.add_argument("--rerun", action="store_true", help="run what does not pass the check again at half the strength")
    add_settings(out, Limits)


def run(arguments: argparse.Namespace) -> int:
    """Enlarges the inputs; 1 if a picture failed or is in a format that is not read, 130 if stopped.

    Raises Op4ksrError before any work.
    """
    settings = upscale_settings(arguments)
    if getattr(arguments, "print_settings", False):  # the demo has no such option
        say(json_text(as_values(settings)).rstrip())
        return 0
    if not arguments.inputs or arguments.output is None:
        raise SettingError("Give at least one picture, folder or glob, and -o, the output folder or file.")
    save = SaveOptions(arguments.quality, arguments.lossless, arguments.compression)
    region = getattr(arguments, "region", None)
    batch = BatchSettings(
        settings,
        target_of(arguments, getattr(arguments, "usual_target", Scale())),
        save,
        arguments.overwrite or region is not None,  # tried again under other settings
        arguments.strip,
        getattr(arguments, "strength_mask", None),
        getattr(arguments, "max_megapixels", MAX_MEGAPIXELS),
        not arguments.no_check,
        from_values(Limits, given_options(arguments, Limits)),
        arguments.rerun,
        None if region is None else check_part(region),
    )
    if batch.rerun and not batch.check:
        raise SettingError("--rerun goes by the check: leave out --no-check.")
    if batch.strength_mask:
        read_mask(batch.strength_mask)  # what is wrong with it is said now, not at each picture
    unread: list[Path] = []
    jobs = plan_jobs(arguments.inputs, arguments.output, WRITABLE[arguments.format].suffixes[0], unread)
    if batch.region is not None:
        jobs = as_trials(jobs, batch.region)
    summary = [at_home(arguments.json)] if arguments.json else []
    strips = [job.strip for job in jobs if job.strip and not job.strip.is_dir()] if arguments.strip else []
    check_targets([job.output for job in jobs] + strips + summary, [job.source for job in jobs])
    upscaler = make_upscaler(arguments, settings)
    results: list[Result] = []
    stopped = 0
    with Display(len(jobs)) as display:
        try:
            for result in _results(arguments, settings, batch, upscaler, jobs, display):
                results.append(result)
                display.finish(result)
        except KeyboardInterrupt as stop:
            stopped = exit_code(stop)
    _summarise(results, len(jobs), len(unread), bool(stopped))
    for path in summary:
        _write_summary(path, arguments, batch, upscaler, results, unread, bool(stopped))
    return stopped or int(bool(unread) or any(r.status == "failed" for r in results))


def _results(
    arguments: argparse.Namespace,
    settings: UpscaleSettings,
    batch: BatchSettings,
    upscaler: Upscaler,
    jobs: Sequence[Job],
    display: "Display",
) -> Iterator[Result]:
    if arguments.engine == "here":
        return run_jobs(upscaler, jobs, batch, display.start)
    from .ray_engine import upscale_by_ray

    return upscale_by_ray(arguments, settings, batch, jobs)


def _summarise(results: list[Result], count: int, unread: int, interrupted: bool) -> None:
    counts = {status: sum(r.status == status for r in results) for status in ("done", "skipped", "failed")}
    left = f", {count - len(results)} not started or unfinished" if interrupted else ""
    missing = f", {unread} in formats that are not read" if unread else ""
    rerun, refused = sum(r.rerun for r in results), sum(r.passed is False for r in results)
    checked = f", {rerun} run again" * bool(rerun) + f", {refused} did not pass the check" * bool(refused)
    say(f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed{missing}{left}{checked}.")


def _write_summary(
    path: Path,
    arguments: argparse.Namespace,
    batch: "BatchSettings",
    upscaler: Upscaler,
    results: list[Result],
    unread: Sequence[Path],
    interrupted: bool,
) -> None:
    plan = upscaler.last_memory_plan
    summary = {
        "version": __version__,
        "model": arguments.model,
        "adapters": arguments.adapter,
        "device": str(upscaler.device),
        "dtype": str(upscaler.dtype).removeprefix("torch."),
        "execution": asdict(upscaler.host.execution),
        "settings": asdict(batch) | {"target": str(batch.target)},
        "memory_plan": asdict(plan) if plan else None,
        "interrupted": interrupted,
        "not_read": [str(path) for path in unread],
        "results": [result.as_dict() for result in results],
    }
    write_text(path, json_text(summary))

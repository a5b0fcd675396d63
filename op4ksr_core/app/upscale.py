"""What `op4ksr upscale`, `demo`, `info` and `embed-prompt` do."""

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch

from .. import __version__
from ..geometry import Size
from ..paths import EMBEDDED
from ..picture.files import FORMATS, SaveOptions, write_text
from ..pipeline.upscaler import Upscaler
from ..progress import Progress
from ..settings import POSITIVE_PROMPT, Execution, RopeSettings, UpscaleSettings, find_preset
from ..weights.prompt import embed_prompt
from ..weights.sources import Sources
from .batch import BatchSettings, Job, Result, check_folders, plan_jobs, run_jobs
from .cli import INTERRUPTED

_BAR = "{desc:32.32}{bar} {percentage:3.0f}%"


def upscale_settings(arguments: argparse.Namespace) -> UpscaleSettings:
    """The preset with every option that was given put over it."""
    preset = find_preset(arguments.preset or ("embedded" if arguments.model == "embedded" else "op4ksr"))
    given = {k: v for k, v in vars(arguments).items() if v is not None}
    rope = replace(preset.rope or RopeSettings(), **{k: given[k] for k in ("theta", "scheme") if k in given})
    names = {one.name for one in fields(UpscaleSettings)} & given.keys()
    return replace(preset, rope=rope, **{name: given[name] for name in names})


def find_sources(arguments: argparse.Namespace) -> Sources:
    """The model that the options name. Raises WeightsError."""
    return Sources.find(
        EMBEDDED if arguments.model == "embedded" else arguments.model,
        transformer=arguments.transformer,
        vae=arguments.vae,
        prompt=arguments.prompt,
        f16=None if arguments.vae_factor is None else arguments.vae_factor == 16,
        head=arguments.head,
        adapters=arguments.adapter,
        adapter_scale=arguments.adapter_scale,
    )


def make_upscaler(arguments: argparse.Namespace, settings: UpscaleSettings) -> Upscaler:
    """The upscaler that the options name."""
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    check = not arguments.no_memory_check
    sources = find_sources(arguments)
    execution = Execution(
        fp8=arguments.fp8,
        compiled=arguments.compile,
        attention=arguments.attention,
        vae_pass=None if arguments.vae_pass == "auto" else arguments.vae_pass,
        lean=not arguments.plain_layers,
    )
    return Upscaler(sources, settings, arguments.device, dtype, check, execution)


def upscale(arguments: argparse.Namespace) -> int:
    """Enlarges the inputs; 1 if a picture failed, 130 if stopped. Raises Op4ksrError before any work."""
    settings = upscale_settings(arguments)
    save = SaveOptions(arguments.quality, arguments.lossless, arguments.compression)
    batch = BatchSettings(settings, arguments.scale, arguments.long_side, save, arguments.overwrite, arguments.strip)
    jobs = plan_jobs(arguments.inputs, arguments.output, FORMATS[arguments.format])
    check_folders([job.output for job in jobs] + ([Path(arguments.json)] if arguments.json else []))
    upscaler = make_upscaler(arguments, settings)
    results: list[Result] = []
    interrupted = False
    with Display(len(jobs)) as display:
        try:
            for result in _results(arguments, settings, batch, upscaler, jobs, display):
                results.append(result)
                display.finish(result)
        except KeyboardInterrupt:
            interrupted = True
    _summarise(results, len(jobs), interrupted)
    if arguments.json:
        _write_summary(Path(arguments.json), arguments, batch, upscaler, results, interrupted)
    return INTERRUPTED if interrupted else int(any(r.status == "failed" for r in results))


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
    from ..ray_engine import upscale_by_ray

    return upscale_by_ray(arguments, settings, batch, jobs)


class Display:
    """Two bars on a terminal, pictures and the phases of the present one; plain lines elsewhere."""

    def __init__(self, count: int):
        from tqdm import tqdm

        quiet = not sys.stderr.isatty()
        self.pictures = tqdm(total=count, unit="picture", disable=quiet, position=0)
        self.blocks = tqdm(total=1, disable=quiet, position=1, leave=False, bar_format=_BAR)

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self.blocks.close()
        self.pictures.close()

    def start(self, job: Job) -> Progress:
        def report(phase: str, done: int, total: int) -> None:
            self.blocks.set_description_str(f"{job.source.name} {phase}", refresh=False)
            self.blocks.total, self.blocks.n = total, done
            self.blocks.refresh()

        return report

    def finish(self, result: Result) -> None:
        detail = result.error or "; ".join(result.notes)
        sizes = f" {result.source_size} -> {result.target_size}" if result.target_size else ""
        line = f"{result.status} {result.source} -> {result.output}{sizes} {result.seconds:.1f} s"
        self.pictures.write(f"{line}: {detail}" if detail else line)
        self.pictures.update()


def _summarise(results: list[Result], count: int, interrupted: bool) -> None:
    counts = {status: sum(r.status == status for r in results) for status in ("done", "skipped", "failed")}
    left = f", {count - len(results)} not started or unfinished" if interrupted else ""
    print(f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed{left}.")


def _write_summary(
    path: Path,
    arguments: argparse.Namespace,
    batch: "BatchSettings",
    upscaler: Upscaler,
    results: list[Result],
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
        "settings": asdict(batch),
        "memory_plan": asdict(plan) if plan else None,
        "interrupted": interrupted,
        "results": [result.as_dict() for result in results],
    }
    text = json.dumps(summary, indent=2) + "\n"
    write_text(path, text)


def info(arguments: argparse.Namespace) -> int:
    """Prints model, versions, device and memory plan."""
    import diffusers

    settings = upscale_settings(arguments)
    upscaler = make_upscaler(arguments, settings)
    plan = upscaler.plan(Size.parse(arguments.size), arguments.scale, arguments.long_side)
    footprint = upscaler.host.footprint
    name = torch.cuda.get_device_name(upscaler.device) if upscaler.device.type == "cuda" else platform.processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__}
    print(f"op4ksr {__version__}, " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"device {upscaler.device} {name or platform.machine()}, {str(upscaler.dtype).removeprefix('torch.')}")
    print(
        f"model {arguments.model}: {footprint.parameters / 1e6:.1f} M parameters, VAE factor {upscaler.latent_factor}"
    )
    print(f"settings {settings}")
    print(plan)
    print(upscaler.memory_plan(plan))
    return 0


def embed(arguments: argparse.Namespace) -> int:
    """Writes a prompt file."""
    text = POSITIVE_PROMPT if arguments.text is None else arguments.text
    print(embed_prompt(arguments.folder, arguments.output, text, arguments.tokens))
    return 0

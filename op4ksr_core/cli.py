"""The command line: `op4ksr upscale | demo | info | inspect | embed-prompt`."""

import argparse
import json
import logging
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .errors import Op4ksrError

if TYPE_CHECKING:
    from .batch import BatchSettings, Job, Result
    from .pipeline import Upscaler
    from .presets import UpscaleSettings
    from .progress import Progress

DEMO = Path(__file__).parent / "assets" / "demo" / "astronaut.png"
INTERRUPTED = 130
_BAR = "{desc:32.32}{bar} {percentage:3.0f}%"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0: all well; 1: some picture failed; 2: nothing could start; 130: Ctrl-C."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("op4ksr").setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    try:
        return arguments.run(arguments)
    except Op4ksrError as error:
        print(f"op4ksr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("op4ksr: stopped.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="op4ksr", description="One-step, patch-free 4K upscaling (OP4KSR).")
    parser.add_argument("--version", action="version", version=f"op4ksr {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    upscale = commands.add_parser("upscale", help="enlarge pictures, folders and globs")
    upscale.add_argument("inputs", nargs="+", metavar="INPUT", help="picture, folder (searched through) or glob")
    upscale.add_argument("-o", "--output", required=True, help="output folder, or a file for a single picture")
    _add_upscale_options(upscale)
    upscale.set_defaults(run=_upscale)
    demo = commands.add_parser("demo", help="enlarge the bundled photo to 4096 px, with a before/after strip")
    demo.add_argument("-o", "--output", default="output", help="output folder (default: output)")
    _add_upscale_options(demo)
    demo.set_defaults(run=_upscale, inputs=[str(DEMO)], long_side=4096, strip=True)
    info = commands.add_parser("info", help="model, versions, device and memory plan")
    _add_upscale_options(info)
    info.add_argument("--size", default="1024x1024", metavar="WxH", help="input size to plan for (default 1024x1024)")
    info.set_defaults(run=_info)
    look = commands.add_parser("inspect", help="find a lattice in pictures, measure it, take it away")
    _add_inspect_options(look)
    embed = commands.add_parser("embed-prompt", help="make prompt.safetensors with FLUX's text encoders")
    embed.add_argument("folder", help="diffusers FLUX folder with its two tokenizers and text encoders")
    embed.add_argument("-o", "--output", required=True, help="safetensors file to write")
    embed.add_argument("--text", help="prompt (default: the fixed one of the method)")
    embed.add_argument("--tokens", type=int, default=512, help="T5 tokens (default 512)")
    embed.set_defaults(run=_embed_prompt)
    for command in (upscale, demo, info, look, embed):
        command.add_argument("-v", "--verbose", action="store_true", help="also print the memory plan")
    return parser


def _add_inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="picture, folder (searched through) or glob")
    parser.add_argument("--reference", metavar="F", help="ground truth of the same size: L_AP is measured against it")
    parser.add_argument("--periods", type=int, nargs="+", default=[8, 16, 32], metavar="PX", help="periods to tell of")
    parser.add_argument("--only", action="store_true", help="look for those periods alone")
    parser.add_argument("--report", metavar="DIR", help="write a report picture of each")
    parser.add_argument("--suppress", metavar="DIR", help="write each picture without its lattice")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from .inspect_files import inspect_files

    return inspect_files(arguments)


def _add_upscale_options(parser: argparse.ArgumentParser) -> None:
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, help="scale factor, above 0 and at most 16 (default 4)")
    size.add_argument("--long-side", type=int, help="long side of the output in px")
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="embedded", help="embedded (default), or a diffusers folder")
    model.add_argument("--preset", help="settings to start from: embedded, op4ksr, ultraflux, omgsr")
    for name, text in (
        ("transformer", "transformer folder or file, in place of the model folder's"),
        ("vae", "VAE folder or file, in place of the model folder's"),
        ("prompt", "prompt embeddings, in place of the model folder's prompt.safetensors"),
    ):
        model.add_argument(f"--{name}", help=text)
    model.add_argument("--vae-factor", type=int, choices=(8, 16), help="compression, where the VAE's config is silent")
    model.add_argument("--head", choices=("centered", "partitioned"), default="centered", help="F16 decoder head")
    model.add_argument("--adapter", action="append", default=[], help="PEFT adapter folder or single file; repeatable")
    model.add_argument("--adapter-scale", type=float, default=1.0, help="strength of the adapters (default 1)")
    model.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default bfloat16 on CUDA, else float32"
    )
    model.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    method = parser.add_argument_group("method")
    method.add_argument("--theta", type=float, help="RoPE base, above 1 (OP4KSR 100, FLUX 10000)")
    method.add_argument("--scheme", help="RoPE scheme: plain, yarn, resonance-yarn")
    method.add_argument("--sigma", type=float, help="mid-timestep, in (0, 1]")
    method.add_argument("--steps", type=int, help="transformer evaluations (OP4KSR: 1)")
    method.add_argument("--guidance", type=float, help="distilled guidance of FLUX-dev models")
    method.add_argument("--noise", type=float, help="noise added at the start, 0 (OP4KSR) to 1 (image-to-image)")
    method.add_argument("--seed", type=int, help="seed of the encoder's posterior (default: its mode) and of the noise")
    method.add_argument("--colour", "--color", help="colour fix: none, wavelet, adain")
    method.add_argument("--fidelity", type=float, help="how far the input's own band is kept, 0 to 1")
    out = parser.add_argument_group("output")
    out.add_argument("--format", choices=("png", "jpg", "webp", "tiff"), default="png", help="of folders (default png)")
    out.add_argument("--quality", type=int, default=95, help="JPEG and WebP, 1 to 100 (default 95)")
    out.add_argument("--lossless", action="store_true", help="lossless WebP")
    out.add_argument("--compression", type=int, default=4, help="PNG, 0 to 9 (default 4)")
    out.add_argument("--overwrite", action="store_true", help="make finished outputs again")
    out.add_argument("--strip", action="store_true", help="also write a before/after strip of each picture")
    out.add_argument("--json", metavar="FILE", help="write a summary of the run")
    out.add_argument("--no-memory-check", action="store_true", help="start even if the estimate does not fit")


def upscale_settings(arguments: argparse.Namespace) -> "UpscaleSettings":
    """The preset with every option that was given put over it."""
    from .errors import SettingError
    from .presets import PRESETS

    name = arguments.preset or ("embedded" if arguments.model == "embedded" else "op4ksr")
    if name not in PRESETS:
        raise SettingError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    given = {k: v for k, v in vars(arguments).items() if v is not None}
    preset = PRESETS[name]
    rope = replace(preset.rope, **{k: given[k] for k in ("theta", "scheme") if k in given})
    names = ("sigma", "steps", "guidance", "noise", "seed", "colour", "fidelity")
    return replace(preset, rope=rope, **{k: given[k] for k in names if k in given})


def _make_upscaler(arguments: argparse.Namespace, settings: "UpscaleSettings") -> "Upscaler":
    import torch

    from .pipeline import EMBEDDED, Upscaler

    return Upscaler.from_pretrained(
        EMBEDDED if arguments.model == "embedded" else arguments.model,
        transformer=arguments.transformer,
        vae=arguments.vae,
        prompt=arguments.prompt,
        f16=None if arguments.vae_factor is None else arguments.vae_factor == 16,
        head=arguments.head,
        adapters=arguments.adapter,
        adapter_scale=arguments.adapter_scale,
        settings=settings,
        device=arguments.device,
        dtype=getattr(torch, arguments.dtype) if arguments.dtype else None,
        check_memory=not arguments.no_memory_check,
    )


def _upscale(arguments: argparse.Namespace) -> int:
    from .batch import BatchSettings, check_folders, plan_jobs, run_jobs
    from .images import FORMATS, SaveOptions

    settings = upscale_settings(arguments)
    save = SaveOptions(arguments.quality, arguments.lossless, arguments.compression)
    batch = BatchSettings(settings, arguments.scale, arguments.long_side, save, arguments.overwrite, arguments.strip)
    jobs = plan_jobs(arguments.inputs, arguments.output, FORMATS[arguments.format])
    check_folders([job.output for job in jobs] + ([Path(arguments.json)] if arguments.json else []))
    upscaler = _make_upscaler(arguments, settings)
    results: list[Result] = []
    interrupted = False
    with _Display(len(jobs)) as display:
        try:
            for result in run_jobs(upscaler, jobs, batch, display.start):
                results.append(result)
                display.finish(result)
        except KeyboardInterrupt:
            interrupted = True
    _summarise(results, len(jobs), interrupted)
    if arguments.json:
        _write_summary(Path(arguments.json), arguments, batch, upscaler, results, interrupted)
    return INTERRUPTED if interrupted else int(any(r.status == "failed" for r in results))


class _Display:
    """Two bars on a terminal, pictures and the phases of the present one; plain lines elsewhere."""

    def __init__(self, count: int):
        from tqdm import tqdm

        quiet = not sys.stderr.isatty()
        self.pictures = tqdm(total=count, unit="picture", disable=quiet, position=0)
        self.blocks = tqdm(total=1, disable=quiet, position=1, leave=False, bar_format=_BAR)

    def __enter__(self) -> "_Display":
        return self

    def __exit__(self, *_: object) -> None:
        self.blocks.close()
        self.pictures.close()

    def start(self, job: "Job") -> "Progress":
        def report(phase: str, done: int, total: int) -> None:
            self.blocks.set_description_str(f"{job.source.name} {phase}", refresh=False)
            self.blocks.total, self.blocks.n = total, done
            self.blocks.refresh()

        return report

    def finish(self, result: "Result") -> None:
        detail = result.error or "; ".join(result.notes)
        sizes = f" {result.source_size} -> {result.target_size}" if result.target_size else ""
        line = f"{result.status} {result.source} -> {result.output}{sizes} {result.seconds:.1f} s"
        self.pictures.write(f"{line}: {detail}" if detail else line)
        self.pictures.update()


def _summarise(results: "list[Result]", count: int, interrupted: bool) -> None:
    counts = {status: sum(r.status == status for r in results) for status in ("done", "skipped", "failed")}
    left = f", {count - len(results)} not started or unfinished" if interrupted else ""
    print(f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed{left}.")


def _write_summary(
    path: Path,
    arguments: argparse.Namespace,
    batch: "BatchSettings",
    upscaler: "Upscaler",
    results: "list[Result]",
    interrupted: bool,
) -> None:
    from .images import write_atomically

    plan = upscaler.last_memory_plan
    summary = {
        "version": __version__,
        "model": arguments.model,
        "adapters": arguments.adapter,
        "device": str(upscaler.device),
        "dtype": str(upscaler.dtype).removeprefix("torch."),
        "settings": asdict(batch),
        "memory_plan": asdict(plan) if plan else None,
        "interrupted": interrupted,
        "results": [result.as_dict() for result in results],
    }
    text = json.dumps(summary, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _info(arguments: argparse.Namespace) -> int:
    import diffusers
    import torch

    from .errors import SettingError
    from .geometry import Size

    settings = upscale_settings(arguments)
    upscaler = _make_upscaler(arguments, settings)
    try:
        width, height = (int(part) for part in arguments.size.lower().split("x"))
    except ValueError:
        raise SettingError(f"The size is WIDTHxHEIGHT, for example 1024x768; got {arguments.size!r}.") from None
    plan = upscaler.plan(Size(height, width), arguments.scale, arguments.long_side)
    footprint = upscaler.footprint
    parameters = (footprint.transformer_bytes + footprint.vae_bytes) // footprint.itemsize
    name = torch.cuda.get_device_name(upscaler.device) if upscaler.device.type == "cuda" else platform.processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__, "diffusers": diffusers.__version__}
    print(f"op4ksr {__version__}, " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"device {upscaler.device} {name or platform.machine()}, {str(upscaler.dtype).removeprefix('torch.')}")
    print(f"model {arguments.model}: {parameters / 1e6:.1f} M parameters, VAE factor {upscaler.latent_factor}")
    print(f"settings {settings}")
    print(f"{plan.source} -> {plan.target}, padded {plan.padded}, {plan.tokens} tokens")
    print(upscaler.memory_plan(plan))
    return 0


def _embed_prompt(arguments: argparse.Namespace) -> int:
    from .presets import POSITIVE_PROMPT
    from .prompt import embed_prompt

    print(embed_prompt(arguments.folder, arguments.output, arguments.text or POSITIVE_PROMPT, arguments.tokens))
    return 0

"""The command line: `op4ksr COMMAND`; the parser lists the commands."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..errors import Op4ksrError

DEMO = Path(__file__).parent.parent / "assets" / "demo" / "astronaut.png"
INTERRUPTED = 130
_DTYPES = ("float32", "bfloat16", "float16")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0: all well; 1: some picture failed; 2: nothing could start; 130: Ctrl-C."""
    arguments = _parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("op4ksr").setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    try:
        return _run(arguments)
    except Op4ksrError as error:
        print(f"op4ksr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("op4ksr: stopped.", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    """Runs the named command; only here is torch imported."""
    from ..optional import require
    from . import evaluate as evaluation
    from . import inspect as inspect_files
    from . import study as study_files
    from . import train as training
    from . import upscale as commands

    if arguments.command == "curate":  # its libraries are an extra
        require("curate")
        from . import curate as curation

        return curation.curate(arguments)
    if arguments.command == "benchmark":
        from . import benchmark as suite

        return suite.benchmark(arguments)
    runs = {
        "upscale": commands.upscale,
        "demo": commands.upscale,
        "info": commands.info,
        "inspect": inspect_files.inspect_files,
        "evaluate": evaluation.evaluate_folders,
        "rope": study_files.rope,
        "sweep": study_files.sweep_files,
        "latents": study_files.latent_files,
        "embed-prompt": commands.embed,
        "train": training.train,
        "pairs": training.pairs,
        "convert": training.convert_adapter,
        "merge": training.merge_model,
    }
    return runs[arguments.command](arguments)


def _parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser. Options of `train` mirror its settings, which import torch: they are there where it is asked for."""
    parser = argparse.ArgumentParser(prog="op4ksr", description="One-step, patch-free 4K upscaling (OP4KSR).")
    parser.add_argument("--version", action="version", version=f"op4ksr {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    upscale = commands.add_parser("upscale", help="enlarge pictures, folders and globs")
    _add_inputs(upscale)
    upscale.add_argument("-o", "--output", required=True, help="output folder, or a file for a single picture")
    upscale.add_argument("--engine", choices=("here", "ray"), default="here", help="ray: a model in each of --workers")
    upscale.add_argument("--workers", type=int, default=1, help="models at once with --engine ray (default 1)")
    demo = commands.add_parser("demo", help="enlarge the bundled photo to 4096 px, with a before/after strip")
    demo.add_argument("-o", "--output", default="output", help="output folder (default: output)")
    demo.set_defaults(inputs=[str(DEMO)], engine="here")
    info = commands.add_parser("info", help="model, versions, device and memory plan")
    info.add_argument("--size", default="1024x1024", metavar="WxH", help="input size to plan for (default 1024x1024)")
    for command in (upscale, demo, info):
        _add_model_options(command)
        _add_method_options(command)
        _add_output_options(command)
    demo.set_defaults(long_side=4096, strip=True)
    _add_inspect(commands.add_parser("inspect", help="find a lattice in pictures, measure it, take it away"))
    _add_evaluate(commands.add_parser("evaluate", help="judge results against their ground truth: tables, tests, page"))
    _add_curate(commands.add_parser("curate", help="choose training pictures by their scores"))
    _add_benchmark(commands.add_parser("benchmark", help="make the paper's benchmarks, check them, run them"))
    _add_rope(commands.add_parser("rope", help="what RoPE bases do to token positions: numbers and a picture"))
    _add_sweep(commands.add_parser("sweep", help="one picture under several thetas and sigmas, judged and compared"))
    latents = commands.add_parser("latents", help="latents before and after the transformer, as colours and numbers")
    _add_inputs(latents)
    latents.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for a picture and a JSON of each")
    _add_model_options(latents)
    _add_method_options(latents)
    _add_training(commands, "train" in argv)
    _add_embed(commands.add_parser("embed-prompt", help="make prompt.safetensors with FLUX's text encoders"))
    for command in commands.choices.values():
        command.add_argument("-v", "--verbose", action="store_true", help="also print the memory plan")
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="picture, folder (searched through) or glob")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, help="scale factor, above 0 and at most 16 (default 4)")
    size.add_argument("--long-side", type=int, help="long side of the output in px")
    model = _add_sources(parser)
    model.add_argument("--preset", help="settings to start from: embedded, op4ksr, ultraflux, omgsr")
    model.add_argument("--dtype", choices=_DTYPES, help="default bfloat16 on CUDA, else float32")
    model.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    model.add_argument(
        "--fp8", action="store_true", help="transformer weights in 8 bits: half the memory, small errors"
    )
    model.add_argument("--compile", action="store_true", help="torch.compile: minutes once, then faster on a GPU")
    model.add_argument(
        "--attention",
        choices=("auto", "flash", "cudnn", "efficient", "math", "fa3", "fa4"),
        default="auto",
        help="the transformer's attention kernel (default: PyTorch's choice)",
    )
    model.add_argument(
        "--plain-layers", action="store_true", help="diffusers' own layers: slower, more memory, the same picture"
    )
    model.add_argument("--no-memory-check", action="store_true", help="start even if the estimate does not fit")


def _add_sources(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="embedded", help="embedded (default), or a diffusers folder")
    for name, text in (
        ("transformer", "transformer folder or file, in place of the model folder's"),
        ("vae", "VAE folder or file, in place of the model folder's"),
        ("prompt", "prompt embeddings, in place of the model folder's prompt.safetensors"),
    ):
        model.add_argument(f"--{name}", help=text)
    model.add_argument("--vae-factor", type=int, choices=(8, 16), help="compression, where the VAE's config is silent")
    model.add_argument(
        "--vae-pass",
        choices=("auto", "whole", "strips", "frugal"),
        default="auto",
        help="VAE in one pass, in strips of rows, or so that they take the least memory and twice the time; the same "
        "picture (default: by the memory plan)",
    )
    model.add_argument("--head", choices=("centered", "partitioned"), default="centered", help="F16 decoder head")
    model.add_argument("--adapter", action="append", default=[], help="PEFT adapter folder or single file; repeatable")
    model.add_argument("--adapter-scale", type=float, default=1.0, help="strength of the adapters (default 1)")
    return model


def _add_method_options(parser: argparse.ArgumentParser, swept: bool = False) -> None:
    method = parser.add_argument_group("method")
    if not swept:
        method.add_argument("--theta", type=float, help="RoPE base, above 1 (OP4KSR 100, FLUX 10000)")
        method.add_argument("--sigma", type=float, help="mid-timestep, in (0, 1]")
    method.add_argument("--scheme", help="RoPE scheme: plain, yarn, resonance-yarn")
    method.add_argument("--steps", type=int, help="transformer evaluations (OP4KSR: 1)")
    method.add_argument("--guidance", type=float, help="distilled guidance of FLUX-dev models")
    method.add_argument("--noise", type=float, help="noise added at the start, 0 (OP4KSR) to 1 (image-to-image)")
    method.add_argument("--seed", type=int, help="seed of the encoder's posterior (default: its mode) and of the noise")
    method.add_argument("--colour", "--color", help="colour fix: none, wavelet, adain")
    method.add_argument("--fidelity", type=float, help="how far the input's own band is kept, 0 to 1")
    method.add_argument("--compensation", type=float, help="fine detail that 16x compression loses, 0 (none) to 2")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("output")
    out.add_argument("--format", choices=("png", "jpg", "webp", "tiff"), default="png", help="of folders (default png)")
    out.add_argument("--quality", type=int, default=95, help="JPEG and WebP, 1 to 100 (default 95)")
    out.add_argument("--lossless", action="store_true", help="lossless WebP")
    out.add_argument("--compression", type=int, default=4, help="PNG, 0 to 9 (default 4)")
    out.add_argument("--overwrite", action="store_true", help="make finished outputs again")
    out.add_argument("--strip", action="store_true", help="also write a before/after strip of each picture")
    out.add_argument("--json", metavar="FILE", help="write a summary of the run")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    parser.add_argument("--reference", metavar="F", help="ground truth of the same size: L_AP is measured against it")
    parser.add_argument("--periods", type=int, nargs="+", default=[8, 16, 32], metavar="PX", help="periods to tell of")
    parser.add_argument("--only", action="store_true", help="look for those periods alone")
    parser.add_argument("--report", metavar="DIR", help="write a report picture of each")
    parser.add_argument("--suppress", metavar="DIR", help="write each picture without its lattice")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a method's results; NAME=FOLDER gives it a name")
    parser.add_argument("--gt", metavar="FOLDER", help="ground truth; without it only metrics that need none run")
    parser.add_argument("--pairs", default="name", help="name (default), order, or a file with a pair per line")
    for kind, text in (
        ("json", "count, mean, interval and per_image by metric"),
        ("csv", "a line per picture"),
        ("markdown", "the table that is printed"),
        ("html", "a page with sliders and zoom, complete in itself"),
    ):
        parser.add_argument(f"--{kind}", metavar="FILE", help=text)
    _add_measures(parser)
    parser.add_argument("--overwrite", action="store_true", help="begin anew, not where a stopped run was")


def _add_curate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="folder, picture, list, or table with a column path")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of scores and decisions")
    parser.add_argument(
        "--stage", type=int, nargs="+", choices=(1, 2, 3), default=[1], help="what to score (default 1)"
    )
    parser.add_argument("--decide-only", action="store_true", help="score nothing, decide anew from what is there")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="ray: over many machines")
    parser.add_argument("--shard-size", type=int, default=256, help="pictures in a file of scores (default 256)")
    rules = parser.add_argument_group("rules")
    rules.add_argument(
        "--keep", type=float, nargs="+", default=[0.5], metavar="SHARE", help="of stage 1, of stage 2 (default 0.5 0.5)"
    )
    rules.add_argument("--vision-score", type=float, default=60, help="least score of stage 3, 0 to 100 (default 60)")
    rules.add_argument("--side", type=int, default=1024, help="least px of the shorter side (default 1024)")
    rules.add_argument("--duplicate-bits", type=int, default=4, help="of 64 bits of hash (default 4; -1: keep all)")
    rules.add_argument("--licences", metavar="A,B", help="only pictures of these licences")
    rules.add_argument("--allowed", metavar="FILE", help="only pictures of this list, such as one without watermarks")
    models = parser.add_argument_group("models of stages 2 and 3; none is downloaded")
    models.add_argument("--degradation", metavar="FILE", help="torch.export program: picture to degradation")
    models.add_argument("--clip", metavar="DIR", help="transformers CLIP folder (LAION's scores want ViT-L/14)")
    models.add_argument("--aesthetic", metavar="FILE", help="LAION's aesthetic layers, as safetensors")
    models.add_argument("--vision", metavar="DIR", help="transformers chat model with pictures, such as Qwen3-VL")
    models.add_argument("--vision-prompt", metavar="FILE", help="text in place of the built-in question")
    models.add_argument("--device", help="cpu (default), cuda ...")


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(required=True, dest="step", metavar="STEP")
    make = steps.add_parser("make", help="a benchmark from pictures of yours, with a manifest")
    make.add_argument("kind", choices=("syn", "square", "vary", "div4k"), help="4KSR-Syn, RealSquare ...")
    _add_inputs(make)
    make.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to make it in")
    make.add_argument("--seed", type=int, default=0, help="of the degradations (default 0)")
    make.add_argument("--manifest", metavar="FILE", help="somebody's manifest: say what comes out otherwise")
    check = steps.add_parser("check", help="whether the files are as the manifest has them")
    check.add_argument("folder", help="a benchmark")
    check.add_argument("--manifest", metavar="FILE", help="another manifest than the folder's own")
    run = steps.add_parser("run", help="enlarge, evaluate, and write the paper's tables with a row more")
    run.add_argument("folder", help="a benchmark")
    run.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of pictures and tables")
    run.add_argument("--name", default="ours", help="of the row (default ours)")
    _add_measures(run)
    _add_model_options(run)
    _add_method_options(run)


def _add_measures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metrics", default="local", help="comma list, local (no download, the default) or all")
    parser.add_argument("--tile", type=int, default=512, help="px of the tiles that deep metrics see (default 512)")
    parser.add_argument("--stride", type=int, default=0, help="px from tile to tile (default: the tile)")
    parser.add_argument("--aggregate", default="mean", help="of the tiles: mean (default), median, min")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the pictures (default 1)")
    parser.add_argument("--page-side", type=int, default=512, help="px of a picture on the page (default 512; 0: none)")


def _add_rope(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--theta", type=float, nargs="+", default=[100, 10000], help="bases (default 100 10000)")
    parser.add_argument("--scheme", default="plain", help="plain (default), yarn, resonance-yarn")
    parser.add_argument("--size", default="4096x4096", metavar="WxH", help="picture size in px (default 4096x4096)")
    parser.add_argument("--token-px", type=int, default=32, help="px a token covers: 32 behind F16 (default), 16 F8")
    parser.add_argument("--base-tokens", type=int, default=64, help="trained tokens a side, for yarn (default 64)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the picture there, as PNG")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of sentences")


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for sheet, plot and JSON of each")
    thetas = [10, 30, 100, 300, 1000, 10000]
    parser.add_argument("--thetas", type=float, nargs="+", default=thetas, help="bases (default 10 ... 10000)")
    parser.add_argument("--sigmas", type=float, nargs="+", help="mid-timesteps (default: the preset's)")
    parser.add_argument("--pictures", action="store_true", help="also write every result in full, as PNG")
    _add_model_options(parser)
    _add_method_options(parser, swept=True)


def _add_training(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", wanted: bool) -> None:
    train = commands.add_parser("train", help="make adapters: LoRA on the encoder and the transformer")
    if wanted:
        from .train_options import add_train_options

        add_train_options(train)
        _add_sources(train)
    pairs = commands.add_parser("pairs", help="a sheet of training pairs, LR above HR")
    _add_inputs(pairs)
    pairs.add_argument("-o", "--output", required=True, metavar="FILE", help="PNG to write")
    pairs.add_argument("--crop", type=int, default=256, help="HR px (default 256)")
    pairs.add_argument("--count", type=int, default=8, help="pairs (default 8)")
    pairs.add_argument("--degradation", default="omgsr", help="omgsr (default), embedded")
    pairs.add_argument("--seed", type=int, default=0, help="of the crops and degradations")
    convert = commands.add_parser("convert", help="an adapter in another form")
    convert.add_argument("adapter", help="PEFT folders, single file, or FLUX LoRA with kohya's key names")
    convert.add_argument("-o", "--output", required=True, help="what to write; must not be there yet")
    convert.add_argument("--to", required=True, help="folder, file or kohya")
    merge = commands.add_parser("merge", help="a model folder with adapters merged into its weights")
    merge.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write; must not be there yet")
    merge.add_argument("--dtype", choices=_DTYPES, help="of the weights written (default: as stored)")
    _add_sources(merge)


def _add_embed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="diffusers FLUX folder with its two tokenizers and text encoders")
    parser.add_argument("-o", "--output", required=True, help="safetensors file to write")
    parser.add_argument("--text", help="prompt (default: the fixed one of the method)")
    parser.add_argument("--tokens", type=int, default=512, help="T5 tokens (default 512)")

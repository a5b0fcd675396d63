"""The embedded model to 4096 px on this machine, beside plain diffusers at the same widths.

    python benchmarks/bench_embedded.py [--sizes 1024] [--threads N] [--json FILE]

Each run has a process of its own: seconds of each phase (models loaded before), and the peak of the
resident memory. `plain` is diffusers' AutoencoderKL with strided conv_in and nearest x2 before
conv_out, its own upsamplers, attention and memory layout, and the same transformer; it ends in back-projection
and has neither colour fix nor compensation.
"""

import argparse
import copy
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace

import torch
from torch import nn

from op4ksr_core.geometry import Size
from op4ksr_core.model import flow
from op4ksr_core.model.compensation import compensate
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.colour import back_project
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS, Execution, VaePass
from op4ksr_core.weights.loading import load_transformer, load_vae
from op4ksr_core.weights.prompt_files import load_prompt


def run_ours(lr: torch.Tensor, vae_pass: VaePass | None = None) -> dict[str, float]:
    settings, execution = replace(PRESETS["embedded"], compensation=0.0), Execution(vae_pass=vae_pass)
    upscaler = Upscaler.from_embedded(settings, device="cpu", execution=execution)
    upscaler(torch.rand(1, 3, 64, 64))
    marks = {"start": time.perf_counter()}
    picture = upscaler(lr, progress=lambda phase, done, total: marks.update({phase: time.perf_counter()}))
    seconds = _phases(marks, time.perf_counter())
    started = time.perf_counter()
    compensate(picture, lr)
    seconds["compensate"] = time.perf_counter() - started
    return seconds | {"total": seconds["total"] + seconds["compensate"]}


@torch.inference_mode()
def run_plain(lr: torch.Tensor) -> dict[str, float]:
    vae = load_vae(EMBEDDED / "vae", f16=False).eval()
    vae.encoder.conv_in.stride = (2, 2)
    vae.decoder.conv_out = nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), copy.deepcopy(vae.decoder.conv_out)
    )
    dit, (prompt, pooled) = load_transformer(EMBEDDED / "transformer"), load_prompt(EMBEDDED / "prompt.safetensors")
    dit.pos_embed = RotaryEmbedding(PRESETS["embedded"].rope)
    marks = {"start": time.perf_counter()}
    target = Size(4 * lr.shape[-2], 4 * lr.shape[-1])
    moments = vae.encode(resize(lr, target) * 2 - 1).latent_dist.mode()
    z = (moments - vae.config.shift_factor) * vae.config.scaling_factor
    marks["encode"] = time.perf_counter()
    v = dit(
        hidden_states=flow.pack(z),
        timestep=torch.tensor([0.3]),
        encoder_hidden_states=prompt,
        pooled_projections=pooled,
        img_ids=flow.image_ids(*z.shape[-2:]),
        txt_ids=torch.zeros(prompt.shape[1], 3),
        return_dict=False,
    )[0]
    z = z - 0.3 * flow.unpack(v, *z.shape[-2:])
    marks["transform"] = time.perf_counter()
    raw = vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor).sample * 0.5 + 0.5
    marks["decode"] = time.perf_counter()
    back_project(raw, lr, 1.0)
    return _phases(marks, time.perf_counter())


def _phases(marks: dict[str, float], end: float) -> dict[str, float]:
    names = list(marks)
    seconds = {b: marks[b] - marks[a] for a, b in zip(names, names[1:], strict=False)}
    return seconds | {"finish": end - marks["decode"], "compensate": 0.0, "total": end - marks["start"]}


def child(kind: str, size: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    figures = {"ours": run_ours, "plain": run_plain}[kind](torch.rand(1, 3, size, size))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(figures | {"peak_gb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024], help="input sides in px; output is x4")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", help="also write the figures here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.sizes[0], arguments.threads)
        return
    print(f"python {platform.python_version()}, torch {torch.__version__}, {arguments.threads} threads\n")
    print(
        "| output | method | encode s | transform s | decode s | finish s | compensate s | total s | peak GB |\n"
        + "|---" * 9
        + "|"
    )
    results = {}
    for size in arguments.sizes:
        for kind in ("plain", "ours"):
            command = [
                sys.executable,
                __file__,
                "--child",
                kind,
                "--sizes",
                str(size),
                "--threads",
                str(arguments.threads),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = results[f"{size} {kind}"] = json.loads(done.stdout.splitlines()[-1])
            print(f"| {4 * size} | {kind} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |", flush=True)
        plain, ours = results[f"{size} plain"], results[f"{size} ours"]
        like = ours["total"] - ours["compensate"]
        print(
            f"\n{4 * size}: time ratio plain/ours without compensation {plain['total'] / like:.2f}, encode + decode "
            f"{(plain['encode'] + plain['decode']) / (ours['encode'] + ours['decode']):.2f}, "
            f"memory ratio {plain['peak_gb'] / ours['peak_gb']:.2f}\n"
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()

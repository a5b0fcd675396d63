"""The method at full size on a GPU, with random weights: seconds, memory and FLOPs of each phase, beside its rivals.

    python benchmarks/bench_full.py [--sizes 1024 2048 4096 8192] [--variants lean cudnn+compile ...] [--json FILE]

First the attention kernels alone, at the shapes of the transformer and of the VAE's middle. Then rivals, in the same
run and of the same weights: `diffusers`, its own layers and attention, and `tiled`, a one-step FLUX behind its F8 VAE
in 1024-px tiles that overlap by half, blended by Gaussian weights. Then ours: a variant joins, by plus signs, an
attention kernel, a pass of the VAE, `compile` and `fp8`; what one compiles or makes 8-bit stays so for the next. FLOPs
are counted by torch; the ceiling is what a matrix product of 8192 a side reaches in the same run. Without a GPU it
tells so and stops, unless --device cpu is given, which wants small --layers and --sizes. The JSON is written after
each row; whether all variants and sizes pass in ten minutes was not tried.
"""

import argparse
import functools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import full_size
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from op4ksr_core.errors import SettingError
from op4ksr_core.files import write_text
from op4ksr_core.geometry import Size
from op4ksr_core.model import flow
from op4ksr_core.model.attention import attention_kernel
from op4ksr_core.model.fp8 import has_fp8_products, to_fp8
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.model.transformer import make_lean_transformer
from op4ksr_core.model.vae import chunked_attention, compile_norms, decode, encode, finish_vae
from op4ksr_core.model.vae_passes import WHOLE, passing
from op4ksr_core.picture.colour import finish
from op4ksr_core.picture.resample import channels_last, resize
from op4ksr_core.settings import ATTENTIONS, PASSES, RopeSettings

SIGMA = 0.3
TILE, STEP = 1024, 512
VARIANTS = ["lean", "cudnn", "cudnn+compile", "cudnn+compile+strips", "cudnn+compile+fp8"]
CHANGES = ("lean", "compile", "fp8")
HEAD = "| side | method | encode s | transform s | decode s | finish s | all s | peak GB | TFLOP | of the ceiling |"


class Clock:
    """Seconds and peak memory of calls on one device, medians over repeats."""

    def __init__(self, device: torch.device, repeats: int):
        self.device, self.repeats, self.cuda = device, repeats, device.type == "cuda"

    def __call__(self, call: Callable[[], Any]) -> dict[str, float]:
        call()  # warms up
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        times = [self._once(call) for _ in range(self.repeats)]
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.cuda else math.nan
        return {"s": statistics.median(times), "peak_gb": peak}

    def _once(self, call: Callable[[], Any]) -> float:
        if not self.cuda:
            started = time.perf_counter()
            call()
            return time.perf_counter() - started
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000


class Model:
    """Transformer, VAE and prompt at full size, and the three phases on them."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype):
        torch.manual_seed(0)
        self.device, self.dtype = device, dtype
        self.transformer = full_size.transformer(device, dtype, tuple(arguments.layers))
        self.transformer.pos_embed = RotaryEmbedding(RopeSettings(100.0))
        self.vae: Any = finish_vae(full_size.vae(device, dtype)).to(memory_format=torch.channels_last)
        self.attention, self.vae_pass, self.done = "auto", WHOLE, set[str]()
        self.prompt = torch.randn(1, full_size.TOKENS, full_size.WIDTH, device=device, dtype=dtype)
        self.pooled = torch.randn(1, full_size.POOLED, device=device, dtype=dtype)

    def encode(self, picture: Tensor) -> Tensor:
        with passing(self.vae.encoder, self.vae_pass, "encode", lambda *_: None):
            return encode(self.vae, channels_last(picture.to(self.dtype))).float()

    def step(self, z: Tensor) -> Tensor:
        sigma = torch.full((len(z),), SIGMA, device=self.device)
        with attention_kernel(self.attention):
            return z - SIGMA * flow.transformer_velocity(self.transformer, z, sigma, self.prompt, self.pooled, 1.0)

    def decode(self, z: Tensor) -> Tensor:
        with passing(self.vae.decoder, self.vae_pass, "decode", lambda *_: None):
            return decode(self.vae, channels_last(z.to(self.dtype)))

    def become(self, variant: str) -> None:
        """Runs as the variant says from now on."""
        parts = variant.split("+")
        self.attention = next((part for part in parts if part in ATTENTIONS), "auto")
        self.vae_pass = next((part for part in parts if part in PASSES), WHOLE)
        steps: dict[str, Callable[[], Any]] = {
            "lean": lambda: make_lean_transformer(self.transformer),
            "fp8": lambda: to_fp8(self.transformer, has_fp8_products(self.device)),
            "compile": lambda: (self.transformer.compile_repeated_blocks(), compile_norms(self.vae)),
        }
        for name, step in steps.items():
            if name in {"lean", *parts} - self.done:
                step()
                self.done.add(name)


def phases(model: Model, side: int, clock: Clock) -> dict[str, dict[str, float]]:
    """Encode, transform, decode, finish, each by itself."""
    lr = torch.rand(1, 3, side // 4, side // 4, device=model.device)
    target = Size(side, side)
    large = resize(lr, target)
    z = model.encode(large)
    raw = model.decode(z)
    calls: dict[str, Callable[[], Any]] = {
        "encode": lambda: model.encode(large),
        "transform": lambda: model.step(z),
        "decode": lambda: model.decode(z),
        "finish": lambda: finish(raw, lr, target, "wavelet", 0.0),
    }
    rows = {}
    for name, call in calls.items():
        rows[name] = clock(call)
        if name != "finish":
            with FlopCounterMode(display=False) as counter:
                call()
            rows[name]["tflop"] = counter.get_total_flops() / 1e12
    return rows


def ceiling(clock: Clock, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product."""
    side = 8192 if clock.cuda else 1024
    a, b = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / clock(lambda: a @ b)["s"] / 1e12


def diffusers_rival(model: Model, side: int, clock: Clock) -> dict[str, dict[str, float]]:
    """The same shapes in diffusers' own layers: strided conv_in, nearest x2 before conv_out."""
    vae = full_size.vae(model.device, model.dtype, factor=8)
    vae.encoder.conv_in.stride = (2, 2)
    vae.decoder.conv_out = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), vae.decoder.conv_out)
    picture = torch.rand(1, 3, side, side, device=model.device, dtype=model.dtype)
    z = vae.encode(picture).latent_dist.mode()
    return {
        "encode": clock(lambda: vae.encode(picture).latent_dist.mode()),
        "transform": clock(lambda: model.step(z.float())),
        "decode": clock(lambda: vae.decode(z).sample),
    }


def tiled_rival(model: Model, side: int, clock: Clock) -> dict[str, dict[str, float]]:
    """The whole picture as tiled upscalers make it."""
    vae = full_size.vae(model.device, model.dtype, factor=8)
    picture = torch.rand(1, 3, side, side, device=model.device, dtype=model.dtype)
    starts = range(0, max(1, side - TILE + 1), STEP)
    tile = min(TILE, side)
    ramp = torch.exp(-0.5 * (torch.linspace(-1, 1, tile, device=model.device) / 0.4) ** 2)
    weight = ramp[:, None] * ramp

    def whole() -> Tensor:
        total, share = torch.zeros_like(picture), torch.zeros_like(picture[:, :1])
        for top in starts:
            for left in starts:
                part = picture[..., top : top + tile, left : left + tile]
                z = vae.encode(part).latent_dist.mode().float()
                out = vae.decode(model.step(z).to(model.dtype)).sample
                total[..., top : top + tile, left : left + tile] += out * weight
                share[..., top : top + tile, left : left + tile] += weight
        return total / share

    return {f"all, {len(starts) ** 2} tiles": clock(whole)}


def add_up(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    return {"s": sum(row["s"] for row in rows.values()), "peak_gb": max(row["peak_gb"] for row in rows.values())}


def line(side: int, method: str, rows: dict[str, dict[str, float]], most: float) -> str:
    """One row of the table."""
    cells = [f"{rows[name]['s']:.3f}" if name in rows else "" for name in ("encode", "transform", "decode", "finish")]
    total = add_up(rows)
    work = sum(row.get("tflop", 0) for row in rows.values())
    share = f"{work:.3g} | {100 * work / total['s'] / most:.0f} %" if work else " | "
    memory = "" if math.isnan(total["peak_gb"]) else f"{total['peak_gb']:.1f}"
    return f"| {side} | {method} | {' | '.join(cells)} | {total['s']:.3f} | {memory} | {share} |"


def attention_table(side: int, clock: Clock, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Each kernel on the transformer's heads and on the VAE's one wide head: seconds and TFLOP/s."""
    tokens = (side // 16) ** 2
    shapes = {"transformer": (1, 24, tokens + full_size.TOKENS, 128), "VAE": (1, 1, tokens, 512)}
    rows: dict[str, dict[str, float]] = {}
    print(f"| attention at {side} px | kernel | s | TFLOP/s |\n|---|---|---|---|")
    for where, shape in shapes.items():
        q, k, v = (torch.randn(shape, device=clock.device, dtype=dtype) for _ in range(3))
        calls = {name: functools.partial(F.scaled_dot_product_attention, q, k, v) for name in ATTENTIONS}
        if where == "VAE":
            calls["chunked"] = functools.partial(chunked_attention, q, k, v)
        for name, call in calls.items():
            try:
                with attention_kernel(name if name in ATTENTIONS else "auto"):
                    row = rows[f"{where} {name}"] = clock(call)
            except (SettingError, torch.OutOfMemoryError) as error:
                print(f"| {where} | {name} | {type(error).__name__} | |", flush=True)
                continue
            tflops = 4 * shape[1] * shape[2] ** 2 * shape[3] / row["s"] / 1e12
            print(f"| {where} | {name} | {row['s']:.4f} | {tflops:.3g} |", flush=True)
    print()
    return rows


def keep(results: dict[str, Any], path: Path | None) -> None:
    """Writes what there is so far, for a run that is cut short."""
    if path:
        write_text(path, json.dumps(results, indent=2) + "\n")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--rivals-at", type=int, nargs="*", default=[4096])
    parser.add_argument("--layers", type=int, nargs=2, default=[19, 38], help="double and single blocks")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    unknown = {part for v in arguments.variants for part in v.split("+")} - {*CHANGES, *ATTENTIONS, *PASSES}
    if unknown:
        parser.error(f"no variant is made of {', '.join(sorted(unknown))}")
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench_full: no GPU here, nothing was measured.")
        return
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    clock = Clock(device, arguments.repeats)
    model = Model(arguments, device, dtype)
    name = torch.cuda.get_device_name(device) if clock.cuda else platform.processor() or platform.machine()
    most = ceiling(clock, dtype)
    parameters = sum(p.numel() for p in model.transformer.parameters())
    print(f"{name}, torch {torch.__version__}, {dtype}; {parameters / 1e9:.2f} billion parameters")
    print(f"matrix product: {most:.3g} TFLOP/s\n")
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "ceiling_tflops": most}
    if arguments.rivals_at:
        results["attention"] = attention_table(max(arguments.rivals_at), clock, dtype)
    print(HEAD + "\n" + "|---" * 10 + "|")
    for side in arguments.rivals_at:
        for rival, run in (("diffusers", diffusers_rival), ("tiled", tiled_rival)):
            rows = results[f"{side} {rival}"] = run(model, side, clock)
            print(line(side, rival, rows, most), flush=True)
            keep(results, arguments.json)
    for variant in arguments.variants:
        model.become(variant)
        for side in arguments.sizes:
            try:
                rows = phases(model, side, clock)
            except (SettingError, torch.OutOfMemoryError) as error:
                print(f"| {side} | {variant} | {type(error).__name__} |")
                continue
            results[f"{side} {variant}"] = rows
            print(line(side, variant, rows, most), flush=True)
            keep(results, arguments.json)
    for side in arguments.rivals_at:
        ours = [add_up(results[key]) for v in arguments.variants if (key := f"{side} {v}") in results]
        for rival in ("diffusers", "tiled") if ours else ():
            total = add_up(results[f"{side} {rival}"])
            ratios = [
                f"{name} {total[k] / min(o[k] for o in ours):.2f}" for name, k in (("time", "s"), ("memory", "peak_gb"))
            ]
            print(f"{side} px, {rival} / best of ours: {', '.join(ratios)}")


if __name__ == "__main__":
    main()

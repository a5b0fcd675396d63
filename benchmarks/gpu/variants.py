"""Which alternative is fastest: each part alone, then each in the whole, then the best together.

Parts: the VAE's wide attention, its group norms with SiLU, its enlarging convolutions, the transformer's attention
kernels. Each is compared with the others for speed and with float32 for its error. In the whole (one encode, one step,
one decode at 2048 and 4096 px) one thing is changed at a time: `before` is PyTorch's call and norm.
"""

import argparse
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from op4ksr_core.errors import SettingError
from op4ksr_core.geometry import Size
from op4ksr_core.model import group_norm, wide_attention
from op4ksr_core.model.attention import attention_kernel
from op4ksr_core.model.fp8 import has_fp8_products, to_fp8
from op4ksr_core.model.vae import LeanResidual, PhaseUpsample, compile_norms, sub_pixel_head
from op4ksr_core.picture.colour import finish
from op4ksr_core.picture.resample import channels_last, resize
from op4ksr_core.settings import ATTENTIONS

from .common import PHASES, Clock, Method, Results, ceiling

TINY_SIZES, SIZES = (128,), (2048, 4096)
NORMS, ENLARGING = ("torch", "compiled", "triton"), ("phases", "shuffled")


def run(arguments: argparse.Namespace, results: Results, device: torch.device, dtype: torch.dtype) -> None:
    """All rows."""
    clock = Clock(device, 1 if arguments.tiny else 3)
    sizes = TINY_SIZES if arguments.tiny else SIZES
    most = ceiling(clock, dtype)
    results.add("ceiling", {"tflops": most})
    method = Method(device, dtype, arguments.tiny)
    wide_rows(method, max(sizes), clock, results)
    norm_rows(method, max(sizes), clock, results)
    enlarging_rows(method, max(sizes), clock, results)
    kernel_rows(method, max(sizes), clock, results)
    for name, changes in whole_rows(results).items():
        for side in sizes:
            with results.row(f"{side} {name}") as row, ExitStack() as stack:
                for change in changes:
                    stack.enter_context(change(method))
                row |= phases(method, side, clock, most)


def wide_rows(method: Method, side: int, clock: Clock, results: Results) -> None:
    """The VAE's middle: one head over all latent px."""
    tokens, channels = (side // 16) ** 2, method.vae.config.block_out_channels[-1]
    q, k, v = (torch.randn(1, 1, tokens, channels, device=method.device, dtype=method.dtype) for _ in range(3))
    few = q[:, :, :256].float()
    exact = torch.softmax(few @ k.float().transpose(2, 3) / channels**0.5, -1) @ v.float()
    for name, way in wide_attention.WAYS.items():
        with results.row(f"wide attention {name}") as row:
            only_on_cuda(name, method.device)
            row |= clock(lambda way=way: way(q, k, v, wide_attention.MAX_SCORES))
            row["tflops"] = 4 * tokens**2 * channels / row["s"] / 1e12
            row["error"] = relative(way(q, k, v, wide_attention.MAX_SCORES)[:, :, :256], exact)


def norm_rows(method: Method, side: int, clock: Clock, results: Results) -> None:
    """A group norm and its SiLU over the largest map, whose mean is half a deviation."""
    channels = method.vae.config.block_out_channels[0]
    norm = nn.GroupNorm(32, channels, device=method.device, dtype=method.dtype)
    x = channels_last(torch.randn(1, channels, side // 2, side // 2, device=method.device, dtype=method.dtype) + 0.5)
    bytes_moved = 3 * x.numel() * x.element_size()
    part = (..., slice(0, 64))
    exact = F.silu(F.group_norm(x.double(), 32)) if method.tiny else None
    compiled = torch.compile(lambda x: F.silu(F.group_norm(x, 32, norm.weight, norm.bias, norm.eps)))
    ways: dict[str, Callable[[], Tensor]] = {
        "torch": lambda: F.silu(F.group_norm(x, 32, norm.weight, norm.bias, norm.eps)),
        "compiled": lambda: compiled(x),
        "triton": lambda: group_norm.norm_silu(norm, x),
    }
    first: Tensor | None = None
    for name, way in ways.items():
        with (
            results.row(f"norm and SiLU {name}") as row,
            table(group_norm.WAY, "triton" if name == "triton" else "torch")(method),
        ):
            row |= clock(way)
            row["of two reads and one write, TB/s"] = bytes_moved / row["s"] / 1e12
            made = way()[part].float()
            first = made if first is None else first
            row["error"] = relative(made, exact[part].float() if exact is not None else first)
            row["keeps channels-last"] = bool(way().is_contiguous(memory_format=torch.channels_last))


def enlarging_rows(method: Method, side: int, clock: Clock, results: Results) -> None:
    """Nearest x2 and a 3x3 convolution: four convolutions of 2x2, or one to four times the channels and a shuffle."""
    conv = method.vae.decoder.up_blocks[1].upsamplers[0].conv
    width = min(side // 4, 512)
    x = channels_last(torch.randn(1, conv.in_channels, width, width, device=method.device, dtype=method.dtype))
    exact = F.conv2d(F.interpolate(x.float(), scale_factor=2), conv.weight.float(), conv.bias.float(), padding=1)
    ways = {
        "phases": PhaseUpsample(conv),
        "shuffled": functools.partial(shuffled, conv),
        "plain": lambda x: conv(F.interpolate(x, scale_factor=2)),
    }
    for name, way in ways.items():
        with results.row(f"enlarging convolution {name}") as row:
            row |= clock(lambda way=way: way(x))
            row["error"] = relative(way(x), exact)


def kernel_rows(method: Method, side: int, clock: Clock, results: Results) -> None:
    """The transformer's attention by each kernel."""
    config = method.transformer.config
    tokens = (side // 32) ** 2 + method.prompt.shape[1]
    shape = (1, config.num_attention_heads, tokens, config.attention_head_dim)
    q, k, v = (torch.randn(shape, device=method.device, dtype=method.dtype) for _ in range(3))
    for name in ATTENTIONS:
        with results.row(f"attention {name}") as row, attention_kernel(name):
            row |= clock(lambda: F.scaled_dot_product_attention(q, k, v))
            row["tflops"] = 4 * shape[1] * tokens**2 * shape[3] / row["s"] / 1e12


def phases(method: Method, side: int, clock: Clock, most: float) -> dict[str, Any]:
    """Encode, transform, decode, finish, each by itself; their sum, and what the memory plan expected."""
    lr, target = torch.rand(1, 3, side // 4, side // 4, device=method.device), Size(side, side)
    large = resize(lr, target)
    z = method.encode(large)
    raw = method.decode(z)
    calls: dict[str, Callable[[], Any]] = {
        "encode": lambda: method.encode(large),
        "transform": lambda: method.step(z),
        "decode": lambda: method.decode(z),
        "finish": lambda: finish(raw, lr, target, "wavelet", 0.0),
    }
    row: dict[str, Any] = {}
    planned, work = method.planned_gb(side), 0.0
    for name, call in calls.items():
        row[name] = clock(call)
        if name in PHASES:
            with FlopCounterMode(display=False) as counter:
                call()
            row[name] |= {"tflop": counter.get_total_flops() / 1e12, "planned_gb": planned[name]}
            work += row[name]["tflop"]
    seconds = sum(row[name]["s"] for name in calls)
    row["all"] = {"s": seconds, "peak_gb": max(row[name]["peak_gb"] for name in calls)}
    return row | {"of the ceiling": work / seconds / most}


def shuffled(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """One 3x3 convolution to four times the channels, and a pixel shuffle: more products, no strided writes."""
    return channels_last(sub_pixel_head(conv)(x))


def only_on_cuda(way: str, device: torch.device) -> None:
    """Raises SettingError for what needs a card."""
    if way in ("flex", "triton") and device.type != "cuda":
        raise SettingError(f"{way} runs on CUDA alone, not on {device}.")


def relative(made: Tensor, exact: Tensor) -> float:
    """Root mean square error over the root mean square."""
    return float((made.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


Change = Callable[[Method], Any]


def table(ways: dict[str, str], way: str) -> Change:
    """A way of the core's for this device, put back afterwards."""

    @contextmanager
    def changed(method: Method) -> Iterator[None]:
        only_on_cuda(way, method.device)
        before = ways[method.device.type]
        ways[method.device.type] = way
        try:
            yield
        finally:
            ways[method.device.type] = before

    return changed


@contextmanager
def searched(method: Method) -> Iterator[None]:
    """cuDNN measures its algorithms at each new size."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        yield


@contextmanager
def compiled_norms(method: Method) -> Iterator[None]:
    """torch.compile of the VAE's norms."""
    compile_norms(method.vae)
    try:
        yield
    finally:
        for module in method.vae.modules():
            if isinstance(module, LeanResidual):
                module.compiled = None


@contextmanager
def shuffled_convolutions(method: Method) -> Iterator[None]:
    """Every enlarging convolution by `shuffled`."""
    layers = [module for module in method.vae.modules() if isinstance(module, PhaseUpsample)]
    for layer in layers:
        layer.forward = functools.partial(shuffled, layer.conv)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def kernel(name: str) -> Change:
    """The transformer's attention kernel."""

    @contextmanager
    def changed(method: Method) -> Iterator[None]:
        method.attention = name
        try:
            yield
        finally:
            method.attention = "auto"

    return changed


@contextmanager
def fused_projections(method: Method) -> Iterator[None]:
    """Q, K and V of the double and single blocks in one product."""
    blocks = (*method.transformer.transformer_blocks, *method.transformer.single_transformer_blocks)
    before = [block.attn.processor for block in blocks]
    method.transformer.fuse_qkv_projections()
    try:
        yield
    finally:
        method.transformer.unfuse_qkv_projections()
        for block, processor in zip(blocks, before, strict=True):
            block.attn.set_processor(processor)


@contextmanager
def compiled_blocks(method: Method) -> Iterator[None]:
    """torch.compile of the transformer's blocks; it stays for the rows after."""
    method.transformer.compile_repeated_blocks()
    yield


@contextmanager
def eight_bits(method: Method) -> Iterator[None]:
    """e4m3 weights, and products where the card has them; it stays for the rows after."""
    to_fp8(method.transformer, has_fp8_products(method.device))
    yield


def norms(name: str) -> Change:
    """The group norms with their SiLU by PyTorch, torch.compile or Triton."""
    return compiled_norms if name == "compiled" else table(group_norm.WAY, name)


def enlarging(name: str) -> Change:
    """The enlarging convolutions."""
    return shuffled_convolutions if name == "shuffled" else unchanged


@contextmanager
def unchanged(method: Method) -> Iterator[None]:
    """The core's own way."""
    yield


def fastest(results: Results, part: str, names: Sequence[str]) -> str:
    """Of a part's alternatives that ran, the one that took least."""
    seconds = {name: results.rows[f"{part} {name}"].get("s", math.inf) for name in names}
    return min(seconds, key=lambda name: seconds[name])


BEFORE = (table(wide_attention.WAY, "call"), table(group_norm.WAY, "torch"))


def whole_rows(results: Results) -> dict[str, tuple[Change, ...]]:
    """What the whole is run with: one change at a time over `products`, then the fastest of each part together. The
    last two change the model for good."""
    products = (*BEFORE, table(wide_attention.WAY, "products"))
    best = (
        table(wide_attention.WAY, fastest(results, "wide attention", list(wide_attention.WAYS))),
        norms(fastest(results, "norm and SiLU", NORMS)),
        enlarging(fastest(results, "enlarging convolution", ENLARGING)),
        kernel(fastest(results, "attention", ATTENTIONS)),
        searched,
    )
    return {
        "before": BEFORE,
        "products": products,
        "products, triton norms": (*products, norms("triton")),
        "products, compiled norms": (*products, norms("compiled")),
        "products, cudnn searches": (*products, searched),
        "products, shuffled": (*products, shuffled_convolutions),
        "products, cudnn attention": (*products, kernel("cudnn")),
        "products, fused projections": (*products, fused_projections),
        "best": best,
        "best, compiled": (*best, compiled_blocks),
        "best, compiled, fp8": (*best, eight_bits),
    }

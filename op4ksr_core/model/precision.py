"""What a device is good at, and which one and which dtype are taken by themselves."""

import functools
import logging
import time

import torch
from torch.nn import functional as F

log = logging.getLogger("op4ksr")

_AMPERE = (8, 0)
"""The first compute capability with bfloat16 in hardware."""


def half_is_fast(device: torch.device) -> bool:
    """Whether bfloat16 pays: on cards from Ampere on, and on CPUs where it is faster. Others emulate it; a CPU a
    hundred times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _is_faster_on_this_cpu()


@functools.cache
def _is_faster_on_this_cpu() -> bool:
    """By a convolution in each dtype, a few ms: an Intel CPU with AVX512-BF16 but without AMX has bfloat16, and takes
    half as long again with it."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, kernel = (
            torch.zeros(shape, dtype=dtype, device="cpu").to(memory_format=torch.channels_last)
            for shape in ((1, 64, 64, 64), (64, 64, 3, 3))
        )
        times = []
        with torch.inference_mode():
            for _ in range(5):
                started = time.perf_counter()
                F.conv2d(x, kernel, padding=1)
                times.append(time.perf_counter() - started)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def default_device() -> torch.device:
    """The first CUDA device that PyTorch can use, else the CPU; says why where PyTorch was built for CUDA."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.version.cuda is not None:
        log.info(
            "PyTorch is built for CUDA %s and finds no card that it can use (none, or its driver is too old): "
            "the CPU is taken.",
            torch.version.cuda,
        )
    return torch.device("cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a card that has it, else float32."""
    return torch.bfloat16 if device.type == "cuda" and half_is_fast(device) else torch.float32


def device_line(device: torch.device, dtype: torch.dtype) -> str:
    """One line about a device for the log: its name, memory, how many there are, and the dtype."""
    precision = str(dtype).removeprefix("torch.")
    if device.type != "cuda":
        return f"device: {device}, {precision}"
    card = torch.cuda.get_device_properties(device)
    others = f", one of {torch.cuda.device_count()} (--device takes another)" if torch.cuda.device_count() > 1 else ""
    why = "" if half_is_fast(device) else " (no bfloat16 in hardware)"
    return f"device: {device}, {card.name}, {card.total_memory / 1e9:.1f} GB{others}, {precision}{why}"

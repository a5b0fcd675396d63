"""Where the time goes: torch.profiler over one encode, one step and one decode at full size.

Of each phase: its ten longest kernels, and the copies between memory layouts (`aten::copy_` and `aten::contiguous` with
the shapes that they copy), which a run in channels-last should not make.
"""

import argparse
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from op4ksr_core.geometry import Size
from op4ksr_core.picture.resample import resize

from .common import Method, Results

COPIES = ("aten::copy_", "aten::contiguous", "aten::clone", "aten::_to_copy")


def run(arguments: argparse.Namespace, results: Results, device: torch.device, dtype: torch.dtype) -> None:
    """All rows."""
    side = 128 if arguments.tiny else 4096
    method = Method(device, dtype, arguments.tiny)
    large = resize(torch.rand(1, 3, side // 4, side // 4, device=device), Size(side, side))
    z = method.encode(large)
    method.step(z)
    method.decode(z)
    for name, call in {
        "encode": lambda: method.encode(large),
        "transform": lambda: method.step(z),
        "decode": lambda: method.decode(z),
    }.items():
        with results.row(name) as row:
            row |= profiled(call, device)


def profiled(call: Any, device: torch.device) -> dict[str, Any]:
    """Milliseconds in all, of the ten longest kernels, and of copies with what they copied."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    with profile(activities=activities, record_shapes=True) as found:
        call()
        if cuda:
            torch.cuda.synchronize()

    def milliseconds(event: Any) -> float:
        return (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1000

    events = sorted(found.key_averages(), key=milliseconds, reverse=True)
    shaped = sorted(found.key_averages(group_by_input_shape=True), key=milliseconds, reverse=True)
    copies = [event for event in shaped if event.key in COPIES]
    return {
        "ms": sum(milliseconds(event) for event in events),
        "longest": [{"name": e.key[:120], "calls": e.count, "ms": milliseconds(e)} for e in events[:10]],
        "copies ms": sum(milliseconds(event) for event in copies),
        "copies": [
            {"name": e.key, "calls": e.count, "ms": milliseconds(e), "shapes": str(e.input_shapes)[:120]}
            for e in copies[:5]
        ],
    }

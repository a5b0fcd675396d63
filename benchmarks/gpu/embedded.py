"""The bundled model as a user runs it: seconds, memory of the card, and what the memory plan expected."""

import argparse

import torch

from op4ksr_core.pipeline.upscaler import Upscaler

from .common import Clock, Results


def run(arguments: argparse.Namespace, results: Results, device: torch.device, dtype: torch.dtype) -> None:
    """A row per size; the picture comes from the CPU and goes back there."""
    clock = Clock(device, 1 if arguments.tiny else 3)
    upscaler = Upscaler.from_embedded(device=str(device))
    for side in (32,) if arguments.tiny else (512, 1024, 2048):
        picture = torch.rand(1, 3, side, side)
        with results.row(f"{side} -> {4 * side}") as row:
            row |= clock(lambda picture=picture: upscaler(picture))
            plan = upscaler.last_memory_plan
            row["planned_gb"] = None if plan is None else plan.peak / 1e9

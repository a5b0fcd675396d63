"""What training UltraFlux's size takes per GPU, computed on the meta device: no weights, no GPU.

    PYTHONPATH=. python benchmarks/training_memory.py [--shards 1 8] [--json docs/results/training_memory.json]

The full-size transformer and F16 VAE under the preset op4ksr-paper. Prints a Markdown table, the largest crops for
common cards, and the operations of a picture.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import full_size
import torch

from benchmarks.provenance import write_report
from op4ksr_core.train.cost import operations_of_a_picture
from op4ksr_core.train.memory import GB, largest_crop, plan_training, without_positions
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.strategies.flow import FlowStrategy

CROPS = (4096, 2048, 1024)
PARTS = ("frozen", "trained", "activations", "total")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", type=Path, help="file that the figures are written into")
    arguments = parser.parse_args()
    shards_tried = arguments.shards
    settings = PRESETS["op4ksr-paper"]
    with torch.device("meta"):
        prompt = (torch.zeros(1, full_size.TOKENS, full_size.WIDTH), torch.zeros(1, full_size.POOLED))
        parts = [make("meta", torch.bfloat16) for make in (full_size.transformer, full_size.vae)]
        model = without_positions(FlowStrategy(*parts, prompt, settings))
    print("| sharing | crop, px | frozen weights | trained, gradients, moments | kept for the backward pass | in all |")
    print("|---" * 6 + "|")
    rows, operations = [], {}
    for shards in shards_tried:
        for crop in CROPS:
            plan = plan_training(model, settings, crop, shards)
            figures = (plan.frozen, plan.trained, plan.activations, plan.total)
            gigabytes = {name: round(size / GB, 2) for name, size in zip(PARTS, figures, strict=True)}
            rows.append({"shards": shards, "crop": crop, "gb": gigabytes})
            print(f"| {shards} | {crop} | {' | '.join(f'{figure / GB:.1f} GB' for figure in figures)} |", flush=True)
    for crop in CROPS:
        counted = operations_of_a_picture(model, replace(settings, crop=crop, least_crop=0))
        operations[crop] = counted
        print(
            f"{crop} px: {counted / 1e15:.2f} PFLOP a picture, forward, again for checkpointing, and backward",
            flush=True,
        )
    for shards in shards_tried:
        for card in (16, 24, 48, 80):
            print(f"{shards} sharing, {card} GB: {largest_crop(model, settings, card * GB, shards=shards)}", flush=True)
    if arguments.json:
        write_report(arguments.json, {"rows": rows, "operations": operations})


if __name__ == "__main__":
    main()

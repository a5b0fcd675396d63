"""What training UltraFlux's size takes per GPU, computed on the meta device: no weights, no GPU.

    python benchmarks/training_memory.py [--shards 1 8]

The full-size transformer and F16 VAE under the preset op4ksr-paper. Prints a Markdown table, the largest crops for
common cards, and the operations of a picture.
"""

import argparse
from dataclasses import replace

import full_size
import torch

from op4ksr_core.train.cost import operations_of_a_picture
from op4ksr_core.train.memory import GB, largest_crop, plan_training, without_positions
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.strategies.flow import FlowStrategy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 8])
    shards_tried = parser.parse_args().shards
    settings = PRESETS["op4ksr-paper"]
    with torch.device("meta"):
        prompt = (torch.zeros(1, full_size.TOKENS, full_size.WIDTH), torch.zeros(1, full_size.POOLED))
        parts = [make("meta", torch.bfloat16) for make in (full_size.transformer, full_size.vae)]
        model = without_positions(FlowStrategy(*parts, prompt, settings))
    print("| sharing | crop, px | frozen weights | trained, gradients, moments | kept for the backward pass | in all |")
    print("|---" * 6 + "|")
    for shards in shards_tried:
        for crop in (4096, 2048, 1024):
            plan = plan_training(model, settings, crop, shards)
            figures = (plan.frozen, plan.trained, plan.activations, plan.total)
            print(f"| {shards} | {crop} | {' | '.join(f'{figure / GB:.1f} GB' for figure in figures)} |", flush=True)
    for crop in (4096, 2048, 1024):
        counted = operations_of_a_picture(model, replace(settings, crop=crop, least_crop=0))
        print(
            f"{crop} px: {counted / 1e15:.2f} PFLOP a picture, forward, again for checkpointing, and backward",
            flush=True,
        )
    for shards in shards_tried:
        for card in (16, 24, 48, 80):
            print(f"{shards} sharing, {card} GB: {largest_crop(model, settings, card * GB, shards=shards)}", flush=True)


if __name__ == "__main__":
    main()

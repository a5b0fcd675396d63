"""What 8 bits change at full size: the 57 blocks with random weights, one in memory at a time, on the CPU.

    PYTHONPATH=. python benchmarks/fp8_error.py [--layers 19 38] [--tokens 64] [--json docs/results/fp8_error.json]

Four copies of one token stream go through each block: float32 (on weights rounded to bfloat16), everything rounded to
bfloat16 at the linear layers, 8-bit weights, 8-bit weights and products. Printed is the error of what the blocks have
added to the stream, relative to that in float32. Random weights have no outliers such as trained ones may have, so this
bounds the arithmetic and not a trained model.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.provenance import write_report
from op4ksr_core.model.fp8 import to_fp8
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.model.transformer import make_lean_transformer
from op4ksr_core.settings import RopeSettings

WIDTH, HEADS, HEAD = 3072, 24, 128
WAYS = ("float32", "bfloat16", "fp8 weights", "fp8 weights and products")


def rounded(linear: nn.Linear) -> None:
    """Rounds what goes in and comes out to bfloat16."""
    linear.register_forward_pre_hook(lambda _, given: (given[0].bfloat16().float(),))
    linear.register_forward_hook(lambda _, given, out: out.bfloat16().float())


def changed(model: Any, way: str) -> Any:
    """The model's one block, run another way."""
    model = copy.deepcopy(model)
    if way == "bfloat16":
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                rounded(layer)
    elif way != "float32":
        to_fp8(model, products="products" in way)
    return [*model.transformer_blocks, *model.single_transformer_blocks][0]


def made(kind: str, number: int) -> Any:
    """A model of one lean block, whose weights follow from its number and are rounded to bfloat16."""
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock

    torch.manual_seed(number)
    block = (FluxTransformerBlock if kind == "double" else FluxSingleTransformerBlock)(WIDTH, HEADS, HEAD)
    for weight in block.parameters():
        weight.data = weight.data.bfloat16().float()
    model = nn.Module()
    model.transformer_blocks = nn.ModuleList([block] if kind == "double" else [])
    model.single_transformer_blocks = nn.ModuleList([block] if kind == "single" else [])
    return make_lean_transformer(model)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs=2, default=[19, 38], help="double and single blocks")
    parser.add_argument("--tokens", type=int, default=64, help="of the picture, and as many of the text")
    parser.add_argument("--json", type=Path, help="file that the figures are written into")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    side = round(arguments.tokens**0.5)
    text, image = torch.randn(2, 1, side * side, WIDTH)
    embedding = torch.randn(1, WIDTH)
    ids = [[0.0, 0.0, 0.0]] * side**2 + [[0.0, float(y), float(x)] for y in range(side) for x in range(side)]
    rope = RotaryEmbedding(RopeSettings(theta=100.0))(torch.tensor(ids))
    streams: dict[str, tuple[Tensor, Tensor]] = dict.fromkeys(WAYS, (text, image))
    print(f"torch {torch.__version__}, {side * side} + {side * side} tokens, width {WIDTH}\n")
    print("| blocks | " + " | ".join(WAYS[1:]) + " |\n" + "|---" * len(WAYS) + "|")
    rows: dict[int, dict[str, float]] = {}
    kinds = ["double"] * arguments.layers[0] + ["single"] * arguments.layers[1]
    for number, kind in enumerate(kinds, 1):
        model = made(kind, number)
        for way, (words, pixels) in streams.items():
            streams[way] = changed(model, way)(
                hidden_states=pixels, encoder_hidden_states=words, temb=embedding, image_rotary_emb=rope
            )
        if number in (1, arguments.layers[0], len(kinds)):
            exact = streams["float32"][1]
            added = (exact - image).norm()
            rows[number] = {way: float((streams[way][1] - exact).norm() / added) for way in WAYS[1:]}
            print(f"| {number} | " + " | ".join(f"{100 * e:.2f} %" for e in rows[number].values()) + " |", flush=True)
    if arguments.json:
        write_report(arguments.json, {"width": WIDTH, "tokens": side * side, "rows": rows})


if __name__ == "__main__":
    main()

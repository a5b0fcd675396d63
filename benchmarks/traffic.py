"""Bytes that the transformer's layers move at full size, beside its products: diffusers' layers and the lean ones.

    python benchmarks/traffic.py [--side 4096] [--bandwidth 4.8]

Counted on the meta device, without weights or a GPU: every operation that is neither a view, a linear layer nor
attention is charged with the bytes of what it reads and writes, as it would move them on a GPU in eager mode. Seconds
are bytes over the bandwidth in TB/s (an H200's by default): what those operations take at least, and no measurement.
"""

import argparse
from collections import Counter
from typing import Any

import full_size
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.model.transformer import make_lean_transformer
from op4ksr_core.settings import RopeSettings

PRODUCTS = {"linear", "scaled_dot_product_attention"}
VIEWS = {
    *("view", "unsqueeze", "transpose", "permute", "slice", "split", "select", "chunk", "unbind", "tensor_split"),
    *("unflatten", "flatten", "reshape", "view_as_real", "view_as_complex", "empty", "alias", "split_with_sizes"),
}
"""Flattening and reshaping copies nothing here: heads lie side by side, before attention and after it."""


class Traffic(TorchDispatchMode):
    """Adds up bytes by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").split(".")[0]
        unchanged = name == "to" and out.dtype == args[0].dtype
        if name not in PRODUCTS | VIEWS and not unchanged:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.moved[name] += sum(x.numel() * x.element_size() for x in tensors)
        return out


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--bandwidth", type=float, default=4.8, help="TB/s")
    arguments = parser.parse_args()
    tokens = (arguments.side // 32) ** 2
    ids = torch.zeros(tokens + full_size.TOKENS, 3)
    rope = tuple(t.to("meta") for t in RotaryEmbedding(RopeSettings(theta=100.0))(ids))
    like = {"device": "meta", "dtype": torch.bfloat16}
    text, image = torch.empty(1, full_size.TOKENS, 3072, **like), torch.empty(1, tokens, 3072, **like)
    embedding = torch.empty(1, 3072, **like)
    print("| layers | GB in a double block | GB in a single block | GB in all 57 | s at least |\n" + "|---" * 5 + "|")
    for name, make in (("diffusers", lambda m: m), ("lean", make_lean_transformer)):
        model = make(full_size.transformer("meta", torch.bfloat16, (1, 1)))
        moved = []
        for block in (model.transformer_blocks[0], model.single_transformer_blocks[0]):
            with Traffic() as traffic:
                block(hidden_states=image, encoder_hidden_states=text, temb=embedding, image_rotary_emb=rope)
            moved.append(sum(traffic.moved.values()) / 1e9)
        total = 19 * moved[0] + 38 * moved[1]
        print(f"| {name} | {moved[0]:.1f} | {moved[1]:.1f} | {total:.0f} | {total / 1000 / arguments.bandwidth:.3f} |")


if __name__ == "__main__":
    main()

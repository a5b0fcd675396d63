"""The layers of a VAE that come nearest to float16's largest number, on pictures of yours.

    python benchmarks/vae_ranges.py PICTURE [PICTURE ...] [--vae FOLDER_OR_FILE] [--vae-factor 16] [--side 512]

A VAE whose layers stay below 65504 in float32 can run in float16, which cards before Ampere want, for they have no
bfloat16. Pictures are reduced to `--side`.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from op4ksr_core.geometry import Size
from op4ksr_core.model.vae import decode, encode
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.weights.loading import load_vae

LARGEST = torch.finfo(torch.float16).max


@contextmanager
def largest_outputs(module: nn.Module) -> Iterator[dict[str, float]]:
    """Fills the dict, while the module runs, with the largest magnitude that each of its layers gave.

    float16 ends at 65504: a layer that comes near to it in float32 is not safe there. Layers without parts of their
    own are watched, by their names.
    """
    found: dict[str, float] = {}

    def watcher(name: str):  # type: ignore[no-untyped-def]
        def seen(_module: nn.Module, _given: object, output: object) -> None:
            if isinstance(output, Tensor):
                found[name] = max(found.get(name, 0.0), float(output.detach().abs().amax()))

        return seen

    leaves = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(watcher(name)) for name, layer in leaves]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--vae", type=Path, default=EMBEDDED / "vae")
    parser.add_argument("--vae-factor", type=int, choices=(8, 16), help="compression, where its config is silent")
    parser.add_argument("--side", type=int, default=512, help="px, a multiple of 16")
    arguments = parser.parse_args()
    vae = load_vae(arguments.vae, f16=None if arguments.vae_factor is None else arguments.vae_factor == 16)
    with largest_outputs(vae) as found:
        for path in arguments.pictures:
            decode(vae, encode(vae, resize(read_picture(path).rgb, Size(arguments.side, arguments.side))))
    print("| layer | largest | of float16's largest |\n|---|---|---|")
    for name, most in sorted(found.items(), key=lambda item: -item[1])[:10]:
        print(f"| {name} | {most:.1f} | {100 * most / LARGEST:.2f} % |")
    unsafe = sum(most > LARGEST / 2 for most in found.values())
    print(f"\n{unsafe} of {len(found)} layers come within a factor of two of it.")


if __name__ == "__main__":
    main()

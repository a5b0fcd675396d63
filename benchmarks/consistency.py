"""What windows do to a picture: the same weights on the whole latent and in windows, and where the two differ.

    PYTHONPATH=. python benchmarks/consistency.py PICTURES... [--window 256] [--scale 4] [--limit N]
        [--json docs/results/consistency.json]

Without PICTURES the two bundled photographs. Every picture is enlarged twice by the bundled model, without its
compensation and fidelity (which would hide the transformer's part). Prints in 1/255, for each picture and as medians:
the RMS difference of whole and windowed within 8 px of a line where a window begins or ends, and elsewhere; and how far
the difference jumps from one px to the next across such a line, and elsewhere. A seam is a jump that is larger there.
"""

import argparse
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.provenance import write_report
from op4ksr_core.files import find_pictures
from op4ksr_core.model.windows import starts
from op4ksr_core.paths import DEMO_PHOTO
from op4ksr_core.picture.read import read_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS, with_window

NEAR = 8
"""px from a window's border that count as beside it."""


@dataclass(frozen=True)
class Consistency:
    """In 1/255. Ratios say how much larger a figure is at the windows' borders than elsewhere."""

    beside: float
    elsewhere: float
    jump_across: float
    jump_elsewhere: float

    @property
    def ratio(self) -> float:
        return self.beside / max(self.elsewhere, 1e-9)

    @property
    def jump_ratio(self) -> float:
        return self.jump_across / max(self.jump_elsewhere, 1e-9)


def borders(length: int, window: int, factor: int) -> list[int]:
    """px at which a window begins or ends along an axis of `length` px, whose latent px are `factor` px wide."""
    side, latents = window // factor, -(-length // factor)
    edges = {edge for start in starts(latents, side) for edge in (start, start + side)}
    return sorted(edge * factor for edge in edges if 0 < edge * factor < length)


def consistency(whole_chw: Tensor, windowed_chw: Tensor, rows: list[int], columns: list[int]) -> Consistency:
    """How two pictures (3, H, W) in [0, 1] differ beside the lines `rows` and `columns`, and elsewhere."""
    difference = (windowed_chw - whole_chw) * 255
    beside = torch.zeros(difference.shape[-2:], dtype=torch.bool)
    for row in rows:
        beside[max(0, row - NEAR) : row + NEAR] = True
    for column in columns:
        beside[:, max(0, column - NEAR) : column + NEAR] = True
    down, across = difference.diff(dim=-2).abs(), difference.diff(dim=-1).abs()
    on_rows, on_columns = torch.zeros(down.shape[-2]), torch.zeros(across.shape[-1])
    on_rows[[row - 1 for row in rows]] = 1
    on_columns[[column - 1 for column in columns]] = 1
    at_lines = [down[:, on_rows.bool()].flatten(), across[..., on_columns.bool()].flatten()]
    others = [down[:, ~on_rows.bool()].flatten(), across[..., ~on_columns.bool()].flatten()]
    return Consistency(
        float(difference[:, beside].square().mean().sqrt()),
        float(difference[:, ~beside].square().mean().sqrt()),
        float(torch.cat(at_lines).mean()),
        float(torch.cat(others).mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", default=[str(DEMO_PHOTO.parent)])
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    whole = replace(PRESETS["embedded"], fidelity=0.0, compensation=0.0)
    upscaler, found = Upscaler.from_embedded(whole), {}
    for path in [entry.path for entry in find_pictures(args.pictures)][: args.limit]:
        rgb = read_picture(path).rgb
        pair = [upscaler(rgb, args.scale, one)[0] for one in (whole, with_window(whole, args.window))]
        lines = [borders(side, args.window, upscaler.host.latent_factor) for side in pair[0].shape[-2:]]
        found[path.name] = consistency(*pair, *lines)
        print(f"{path.name} {tuple(pair[0].shape[-2:])}: {_words(found[path.name])}", flush=True)
    middle = {name: statistics.median(getattr(one, name) for one in found.values()) for name in NAMES}
    print("medians: " + ", ".join(f"{name} {value:.3f}" for name, value in middle.items()))
    if args.json:
        write_report(args.json, report(found, middle))


NAMES = ("beside", "elsewhere", "ratio", "jump_across", "jump_elsewhere", "jump_ratio")


def _words(one: Consistency) -> str:
    return ", ".join(f"{name} {getattr(one, name):.3f}" for name in NAMES)


def report(found: dict[str, Consistency], middle: dict[str, float]) -> dict:
    """What --json keeps."""
    return {
        "medians": {name: round(value, 4) for name, value in middle.items()},
        "pictures": {name: {k: round(v, 4) for k, v in asdict(one).items()} for name, one in found.items()},
    }


if __name__ == "__main__":
    main()

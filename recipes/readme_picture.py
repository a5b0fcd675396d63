"""The README's picture: four held-out photographs before and after, at 1:1.

    python -m recipes.readme_picture PHOTOS... -o docs/before_after.jpg

PHOTOS are the folders of the training pictures. Each photograph is made four times smaller with the light blur that
the held-out rows of docs/results.md have, and enlarged by Lanczos (left) and by the bundled model (right).
"""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from op4ksr_core.geometry import Size
from op4ksr_core.picture.charts import font
from op4ksr_core.picture.convert import as_picture, as_tensor
from op4ksr_core.picture.resample import lanczos
from op4ksr_core.pipeline.upscaler import Upscaler
from recipes.embedded.pictures import LIGHT, degraded

WIDTH, HEIGHT = 224, 256
"""px of one crop."""

GAP, LABEL = 4, 22


@dataclass(frozen=True)
class Shown:
    """A part of a held-out photograph, by its upper left corner in px."""

    name: str
    left: int
    top: int
    label: str


SHOWN = (
    Shown("wg-COMP_Figure_18_04_012", 170, 120, "portrait"),
    Shown("ips-POL_Figure_14_01_006", 405, 165, "sign"),
    Shown("ia-ANTHRO_Figure_02_Intro_001_Splash", 700, 500, "foliage"),
    Shown("ip-PHIL_Figure_11_01_002a", 330, 130, "architecture"),
)


def find(name: str, folders: list[Path]) -> Path:
    """The photograph of this name. Raises FileNotFoundError where no folder has it."""
    for folder in folders:
        path = folder / f"{name}.jpg"
        if path.is_file():
            return path
    raise FileNotFoundError(f"{name}.jpg is in none of {', '.join(map(str, folders))}.")


def small_picture(path: Path) -> Tensor:
    """(1, 3, H/4, W/4): the photograph, cut to multiples of 32 px and degraded; the same each time."""
    truth = as_tensor(Image.open(path).convert("RGB"))[None]
    height, width = (side // 32 * 32 for side in truth.shape[-2:])
    return degraded(truth[..., :height, :width].contiguous(), random.Random(path.stem), LIGHT)


def pair(shown: Shown, before: Image.Image, after: Image.Image) -> Image.Image:
    """The same part of both, side by side."""
    return row(shown, {f"{shown.label}, before": before, "after": after})


def row(shown: Shown, pictures: dict[str, Image.Image]) -> Image.Image:
    """The same part of each labelled picture, side by side, with a line of labels above."""
    box = (shown.left, shown.top, shown.left + WIDTH, shown.top + HEIGHT)
    tile = Image.new("RGB", (len(pictures) * (WIDTH + GAP) - GAP, HEIGHT + LABEL), "white")
    draw = ImageDraw.Draw(tile)
    for column, (label, picture) in enumerate(pictures.items()):
        if box[2] > picture.width or box[3] > picture.height:
            place = f"{shown.left}, {shown.top}"
            raise ValueError(f"{shown.name} has {picture.width}x{picture.height} px, too few for the part at {place}.")
        left = column * (WIDTH + GAP)
        tile.paste(picture.crop(box), (left, LABEL))
        draw.text((left + 2, 3), label, fill="black", font=font(14))
    return tile


def grid(tiles: list[Image.Image], columns: int = 2) -> Image.Image:
    """Tiles of one size in rows."""
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + (columns - 1) * 2 * GAP, rows * height), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * (width + 2 * GAP), number // columns * height))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    upscaler = Upscaler.from_embedded()
    tiles = []
    for shown in SHOWN:
        small = small_picture(find(shown.name, arguments.photos))
        plain = lanczos(small, Size(4 * small.shape[-2], 4 * small.shape[-1])).clamp(0, 1)
        tiles.append(pair(shown, as_picture(plain[0]), as_picture(upscaler(small, 4)[0])))
    grid(tiles).save(arguments.output, quality=90, subsampling=0)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

"""The gallery of the documents: before and after at 1:1, of photographs that the model never saw.

    python -m recipes.gallery ../shared/data/photos

Writes docs/gallery and docs/gallery.md. A picture is a square cut out of a photograph, degraded lightly and made four
times smaller, then enlarged by Lanczos (before) and by the bundled model (after). The photograph itself is not shown.
"""

import argparse
import csv
import json
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.honest_rows import MODEL, soft_texture
from op4ksr_core.evaluate.sharpness import hf_correlation
from op4ksr_core.geometry import Size
from op4ksr_core.picture.charts import INK, font
from op4ksr_core.picture.convert import as_picture, as_tensor
from op4ksr_core.picture.resample import lanczos
from op4ksr_core.pipeline.upscaler import Upscaler
from recipes.embedded.pictures import HELD_OUT, LIGHT, degraded

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "docs" / "results" / "rows_held_out.json"
SIDE, GAP, LABEL = 480, 8, 28
"""px: of a panel, between two, and of the line of text above."""

ALLOWED = re.compile(r"PD|CC0|CC-BY(-\d\.\d)?")
"""Licences in LIST.tsv that allow a changed cut with a credit; one that says "or" does not say which."""


class GalleryError(ValueError):
    """A photograph that cannot be shown."""


@dataclass(frozen=True)
class Shown:
    """A picture of the gallery: `name` is the photograph's, `corner` the cut's left and top in px; None: the middle."""

    kind: str
    name: str
    corner: tuple[int, int] | None = None

    @property
    def file(self) -> str:
        return self.kind.lower().replace(" ", "-").replace(",", "") + ".jpg"


@dataclass(frozen=True)
class Credit:
    """What LIST.tsv says of a photograph."""

    licence: str
    source: str
    author: str


@dataclass(frozen=True)
class Made:
    """A finished picture of the gallery. `soft` is None where the truth has hardly any soft area."""

    shown: Shown
    credit: Credit
    hf_correlation: float
    soft: float | None


BY_KIND = (
    Shown("Portrait", "wg-COMP_Figure_05_04_004", (30, 60)),
    Shown("Lettering", "ips-POL_Figure_14_01_006", (290, 60)),
    Shown("Foliage", "ia-ANTHRO_Figure_02_Intro_001_Splash", (0, 300)),
    Shown("Fabric", "wg-COMP_Figure_18_04_012", (60, 320)),
    Shown("Building", "e-OSX_Eship_10_05_For21Zara", (300, 60)),
    Shown("Sky and blur", "ip-PHIL_Figure_08_05_011", (100, 20)),
    Shown("Night", "wh-OSX_WorldHist_B04_03_Arches", (560, 120)),
    Shown("Animal", "wh-OSX_WorldHist_A02_03_Llamas", (380, 20)),
    Shown("Print and handwriting", "csb-CS_Figure_03_04_008", (220, 150)),
    Shown("Food", "ia-ANTHRO_Figure_14_03_010", (200, 20)),
)


def credits(photos: Path) -> dict[str, Credit]:
    """LIST.tsv by the photographs' names."""
    with (photos / "LIST.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {Path(row["file"]).stem: Credit(row["licence"], row["source"], _author(row["credit"])) for row in rows}


def _author(credit: str) -> str:
    return re.sub(r"^credit:?\s*", "", credit.strip(), flags=re.IGNORECASE)


def worst(measured: dict, known: dict[str, Credit]) -> list[Shown]:
    """The photographs with the least right detail and with the most texture in soft areas, of those that may be shown.
    `measured` is the content of docs/results/rows_held_out.json."""
    rows = measured["rows"][MODEL]["pictures"]
    allowed = {name: row for name, row in rows.items() if name in known and ALLOWED.fullmatch(known[name].licence)}
    least_right = min(allowed, key=lambda name: allowed[name]["hf_correlation"])
    most_drawn = max(allowed, key=lambda name: allowed[name]["soft"] or 0)
    return [Shown("Worst, right detail", least_right), Shown("Worst, soft areas", most_drawn)]


def cut(photo: Image.Image, shown: Shown, side: int) -> Image.Image:
    """The square that is shown. Raises GalleryError where it lies outside the photograph."""
    left, top = shown.corner or ((photo.width - side) // 2, (photo.height - side) // 2)
    if min(left, top) < 0 or left + side > photo.width or top + side > photo.height:
        raise GalleryError(
            f"{shown.name} is {photo.width}x{photo.height} px, and {side} px at {left}, {top} do not fit: "
            "choose another corner."
        )
    return photo.crop((left, top, left + side, top + side))


def make(photos: Path, to: Path, shown: Sequence[Shown], side: int = SIDE) -> list[Made]:
    """Writes each picture's JPEG into `to`. Raises GalleryError on a photograph that is unknown, was trained on, or
    whose licence does not allow it."""
    known = credits(photos)
    for one in shown:
        _check(one, known)
    upscaler = Upscaler.from_embedded(check_memory=False)
    made = []
    for one in shown:
        photo = Image.open(photos / f"{one.name}.jpg").convert("RGB")
        truth = as_tensor(cut(photo, one, side))[None]
        small = degraded(truth, random.Random(one.name), LIGHT)
        target = Size(side, side)
        after = upscaler(small, target=target)
        before_and_after(lanczos(small, target).clamp(0, 1), after).save(to / one.file, quality=85)
        made.append(Made(one, known[one.name], hf_correlation(after, truth), soft_texture(after, truth)))
    return made


def _check(shown: Shown, known: dict[str, Credit]) -> None:
    if shown.name not in known:
        raise GalleryError(f"LIST.tsv has no {shown.name}: add its licence and credit.")
    if shown.name not in HELD_OUT:
        raise GalleryError(f"The model was trained on {shown.name}: choose one of recipes/embedded/held_out.txt.")
    licence = known[shown.name].licence
    if not ALLOWED.fullmatch(licence):
        raise GalleryError(f"{shown.name} has the licence {licence!r}: choose a PD, CC0 or CC-BY one.")


def before_and_after(before: Tensor, after: Tensor) -> Image.Image:
    """(1, 3, H, W) twice -> both beside each other, pixel for pixel, under their names."""
    panels = {"before: Lanczos x4": before, "after: OP4KSR x4": after}
    height, width = after.shape[-2:]
    sheet = Image.new("RGB", (2 * width + GAP, height + LABEL), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (label, x) in enumerate(panels.items()):
        left = number * (width + GAP)
        draw.text((left + 4, 4), label, fill=INK, font=font(16))
        sheet.paste(as_picture(x[0]), (left, LABEL))
    return sheet


HEAD = """# Gallery

What the bundled model makes of photographs that it was not trained on: ten by kind, then the two worst of those whose
licence lets us show them. `python -m recipes.gallery PHOTOS` makes this page.

Each picture is a cut out of the photograph, blurred lightly, made four times smaller and enlarged again by the preset
`embedded`. Open it to see it at 1:1. *HF correlation* says how much of the fine detail is right (1: all); *soft* is the
share of the photograph's soft area that has texture in the result. `docs/results/rows_held_out.json` says which two are
the worst by these figures; the figures below are those of the cut that is shown.
"""


def page(made: Sequence[Made]) -> str:
    """The text of docs/gallery.md."""
    return "\n".join([HEAD, *map(_section, made)])


def _section(made: Made) -> str:
    shown, credit = made.shown, made.credit
    picture = f"gallery/{shown.file}"
    soft = "hardly any soft area" if made.soft is None else f"soft {made.soft:.1f} ‰"
    return (
        f"## {shown.kind}\n\n"
        f"[![Before and after]({picture})]({picture})\n\n"
        f"HF correlation {made.hf_correlation:.2f}, {soft}.\n\n"
        f"Photograph: {credit.author} ({_licence(credit.licence)}; {credit.source}).\n"
    )


def _licence(name: str) -> str:
    """With a link to its text, where its version is known."""
    version = re.fullmatch(r"CC-BY-(\d\.\d)", name)
    return f"[{name}](https://creativecommons.org/licenses/by/{version[1]}/)" if version else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of the photographs, with LIST.tsv")
    photos = parser.parse_args().photos
    to = ROOT / "docs" / "gallery"
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    shown = [*BY_KIND, *worst(json.loads(MEASURED.read_text()), credits(photos))]
    (ROOT / "docs" / "gallery.md").write_text(page(make(photos, to, shown)))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

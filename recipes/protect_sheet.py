"""The sheet of docs/lab/protect.md: two portraits and two signs without and with `protect`, at 1:1.

    python -m recipes.protect_sheet PHOTOS... -o docs/protect.jpg

PHOTOS are the folders of the training pictures. Each held-out photograph is degraded as the README's are; the part that
is shown is enlarged by Lanczos, by the bundled model, by the model with `protect` both, and beside them as it was.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from op4ksr_core.geometry import Size
from op4ksr_core.picture.convert import as_picture
from op4ksr_core.picture.resample import lanczos
from op4ksr_core.pipeline.upscaler import Upscaler
from recipes.readme_picture import Shown, find, grid, row, small_picture

SHOWN = (
    Shown("wg-COMP_Figure_05_04_004", 120, 80, "portrait"),
    Shown("wg-COMP_Figure_18_04_012", 170, 120, "portrait"),
    Shown("ips-POL_Figure_14_01_006", 405, 165, "sign"),
    Shown("csb-CS_Figure_03_04_008", 330, 260, "print"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    upscaler = Upscaler.from_embedded()
    protecting = replace(upscaler.settings, protect="both")
    rows = []
    for shown in SHOWN:
        photo = find(shown.name, arguments.photos)
        small = small_picture(photo)
        plain = lanczos(small, Size(4 * small.shape[-2], 4 * small.shape[-1])).clamp(0, 1)
        pictures = {
            f"{shown.label}, Lanczos": as_picture(plain[0]),
            "without protect": as_picture(upscaler(small, 4)[0]),
            "with protect": as_picture(upscaler(small, 4, protecting)[0]),
            "the original": Image.open(photo).convert("RGB"),
        }
        rows.append(row(shown, pictures))
    grid(rows, 1).save(arguments.output, quality=90, subsampling=0)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

"""What protect finds in photographs: a sheet to look at, and the share of each picture that it covers.

PYTHONPATH=. python benchmarks/protect.py FOLDER [--names recipes/embedded/held_out.txt] -o sheet.jpg
"""

import argparse
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from op4ksr_core.picture.convert import as_tensor
from op4ksr_core.subjects.faces import find_faces
from op4ksr_core.subjects.lettering import find_lettering
from op4ksr_core.subjects.protect import lettering_mask

TILE, COLUMNS = (400, 300), 5


def marked(path: Path) -> Image.Image:
    """The photograph with lettering in red and boxes around faces; prints what was found and the seconds it took."""
    photo = Image.open(path).convert("RGB")
    x, started = as_tensor(photo), time.process_time()
    boxes = find_faces(x)
    faces_took, started = time.process_time() - started, time.process_time()
    text = lettering_mask(find_lettering(x))
    text_took = time.process_time() - started
    share = float(text.mean())
    print(f"{path.name}: {len(boxes)} faces ({faces_took:.1f} s), lettering {share:.1%} of it ({text_took:.1f} s)")
    layer = Image.fromarray((text * 160).byte().numpy())
    photo.paste((255, 0, 0), mask=layer)
    for box in boxes[:, :4].tolist():
        ImageDraw.Draw(photo).rectangle(box, outline=(255, 255, 0), width=3)
    photo.thumbnail(TILE)
    return photo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", type=Path, help="text file with the stems to look at, one a line (default: all)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = set(arguments.names.read_text().split()) if arguments.names else None
    tiles = [marked(p) for p in sorted(arguments.folder.glob("*.jpg")) if names is None or p.stem in names]
    sheet = Image.new("RGB", (TILE[0] * COLUMNS, TILE[1] * -(-len(tiles) // COLUMNS)))
    for n, tile in enumerate(tiles):
        sheet.paste(tile, (n % COLUMNS * TILE[0], n // COLUMNS * TILE[1]))
    sheet.save(arguments.output, quality=88)


if __name__ == "__main__":
    main()

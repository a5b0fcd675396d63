"""How far a part that is enlarged alone is from that part of the whole result, with the embedded model.

    PYTHONPATH=. python benchmarks/trial.py PHOTO ... [--side 320] [--json docs/results/trial.json]

Each photo is made small first. For three margins it prints the mean and largest difference in the middle part, how
much the model itself changes there, and the seconds of the whole and of the part.
"""

import argparse
import time
from pathlib import Path

from benchmarks.provenance import write_report
from op4ksr_core.geometry import LongSide, Scale, Size
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline import trial
from op4ksr_core.pipeline.upscaler import Upscaler

MARGINS = (8, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--side", type=int, default=320, help="long side of the small picture in px (default 320)")
    parser.add_argument("--json", type=Path, help="file that the figures are written into")
    arguments = parser.parse_args()
    upscaler, figures = Upscaler.from_embedded(), {}
    for path in arguments.photos:
        photo = read_picture(path).rgb
        small = resize(photo, LongSide(arguments.side).frame(Size(*photo.shape[-2:])).target).clamp(0, 1)
        whole = Scale(4).frame(Size(*small.shape[-2:]))
        started = time.perf_counter()
        full = upscaler.run(upscaler.plan(whole), small)
        whole_took = time.perf_counter() - started
        middle = trial.middle_of(whole)
        rows = slice(4 * middle.top, 4 * (middle.top + middle.height))
        columns = slice(4 * middle.left, 4 * (middle.left + middle.width))
        expected = full.rgb[..., rows, columns]
        own = float((expected - full.before[..., rows, columns]).abs().mean()) * 255
        figures[path.name] = {"model_changes": round(own, 3), "margins": {}}
        for margin in MARGINS:
            planned = trial.plan_trial(whole, middle, upscaler.host.multiple_px, margin)
            started = time.perf_counter()
            made = trial.without_margin(upscaler.run(upscaler.plan(planned.frame), small), planned)
            took = time.perf_counter() - started
            far = (made.rgb - expected).abs() * 255
            figures[path.name]["margins"][margin] = {
                "mean": round(float(far.mean()), 3),
                "largest": round(float(far.max()), 2),
            }
            print(
                f"{path.name} margin {margin}: mean {float(far.mean()):.2f}, largest {float(far.max()):.1f} of 255; "
                f"the model changes {own:.2f}; {whole_took:.1f} s and {took:.1f} s"
            )
    if arguments.json:
        write_report(arguments.json, {"px": arguments.side, "rows": figures})


if __name__ == "__main__":
    main()

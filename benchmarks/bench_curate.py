"""Time and memory of deciding on 100,000 made-up pictures: duplicates, gates, ranks, tables and page.

PYTHONPATH=. python benchmarks/bench_curate.py [PICTURES] [--json docs/results/curate.json]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_inspect import peak_gigabytes

from benchmarks.provenance import write_report
from op4ksr_core.app.cli import main as op4ksr
from op4ksr_core.curate.features import SCORES
from op4ksr_core.curate.shards import schema_of

SHARD = 256


def write_folder(folder: Path, count: int) -> None:
    """A listing and scores of stage 1 by chance; the hash of one picture in ten is 2 bits from another's."""
    rng = np.random.default_rng(0)
    paths = [f"/photos/{n:06}.jpg" for n in range(count)]
    pq.write_table(pa.table({"path": paths, "licence": ["CC0"] * count}), folder / "listing.parquet")
    hashes = rng.integers(0, 2**64, count, np.uint64)
    hashes[9::10] = hashes[0 : 10 * len(hashes[9::10]) : 10] ^ np.uint64(5)
    scores = {name: rng.uniform(20, 60, count) for name in SCORES}
    place = folder / "scores" / "stage1"
    place.mkdir(parents=True)
    for number, first in enumerate(range(0, count, SHARD)):
        rows = [
            {
                "path": paths[n],
                "bytes": 1,
                "modified": 1,
                "width": 2048,
                "height": 2048,
                "sha256": "",
                "phash": f"{int(hashes[n]):016x}",
            }
            | {name: float(values[n]) for name, values in scores.items()}
            for n in range(first, min(first + SHARD, count))
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema_of(1)), place / f"{number:06}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=int, nargs="?", default=100_000)
    parser.add_argument("--json", type=Path, help="file that the figures are written into")
    arguments = parser.parse_args()
    count = arguments.pictures
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder, count)
        start = time.perf_counter()
        op4ksr(["curate", "-o", str(folder), "--decide-only"])
        seconds, peak = time.perf_counter() - start, peak_gigabytes()
        print(f"{count} pictures: {seconds:.1f} s, {peak:.2f} GB at the peak")
    if arguments.json:
        write_report(arguments.json, {"pictures": count, "s": round(seconds, 1), "peak_gb": round(peak, 2)})


if __name__ == "__main__":
    main()

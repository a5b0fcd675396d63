"""What RoPE bases do to the token positions of 4096x4096 px, as `op4ksr rope` computes it.

PYTHONPATH=. python benchmarks/rope_bases.py [--json docs/results/rope_bases.json]
"""

import argparse
from pathlib import Path

from benchmarks.provenance import write_report
from op4ksr_core.diagnostics.rope_phases import analyse, compare
from op4ksr_core.geometry import Size
from op4ksr_core.settings import RopeSettings

BASES = (10, 100, 1000, 10000)
SIDE = 4096
KEPT = ("theta", "pairs", "effective_pairs_w", "mean_similarity", "area_above_0.9", "standing_pairs_w")
"""The part of an analysis that documents show."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file that the figures are written into")
    arguments = parser.parse_args()
    analyses = [analyse(RopeSettings(theta), Size(SIDE, SIDE)) for theta in BASES]
    print("\n".join(compare(analyses)))
    if arguments.json:
        rows = [{name: one.as_dict()[name] for name in KEPT} for one in analyses]
        write_report(arguments.json, {"px": SIDE, "rows": rows})


if __name__ == "__main__":
    main()

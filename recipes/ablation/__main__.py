"""python -m recipes.ablation --run FOLDER [--processes 2] [--seeds 3] [--arms NAME ...] [--steps N] [--docs docs]

Trains a flow prior at theta 10,000, fine-tunes it for one step in seven arms with three seeds each, judges every one
at the trained size and at four times its tokens a side, and writes `ablation.json`, the table of `ablation.md`, the
plot of the spectra and the crops into --docs. What is finished in --run is not done again. --arms and --steps train
some arms for longer; --json takes their means.
"""

import argparse
import json
import multiprocessing
from pathlib import Path

import torch

from benchmarks.provenance import provenance

from . import document
from .measuring import train_and_judge
from .training import ARMS, TUNE_STEPS, train_prior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("build/ablation"), help="folder of weights and figures")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--seeds", type=int, default=3, help="of each arm; two or more for --docs")
    parser.add_argument("--docs", type=Path, help="folder that the document's parts are written into")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, default=TUNE_STEPS, help="of a fine-tune; each number has its own --run")
    parser.add_argument("--json", type=Path, help="file that the means are written into")
    arguments = parser.parse_args()
    if arguments.docs and len(arguments.arms) < len(ARMS):
        parser.error("--docs wants every arm: leave --arms out, or take --json.")
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.processes)
    if not (arguments.run / "prior.pt").exists():
        train_prior(arguments.run / "prior.pt")
    seeds = range(arguments.seeds)
    tasks = [(arguments.run, name, seed, arguments.steps) for seed in seeds for name in arguments.arms]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        pool.starmap(train_and_judge, tasks, chunksize=1)
    if arguments.json:
        found = document.rows(arguments.run, arguments.seeds, arguments.arms)
        arguments.json.write_text(json.dumps(provenance() | {"steps": arguments.steps, "rows": found}, indent=1) + "\n")
    if arguments.docs:
        document.write(arguments.run, arguments.docs, arguments.seeds)


if __name__ == "__main__":
    main()

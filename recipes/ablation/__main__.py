"""python -m recipes.ablation --run FOLDER [--processes 2] [--seeds 3] [--docs docs]

Trains a flow prior at theta 10,000, fine-tunes it for one step in seven arms with three seeds each, judges every one
at the trained size and at four times its tokens a side, and writes `ablation.json`, the table of `ablation.md`, the
plot of the spectra and the crops into --docs. What is finished in --run is not done again.
"""

import argparse
import multiprocessing
from pathlib import Path

import torch

from . import document
from .measuring import train_and_judge
from .training import ARMS, train_prior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("build/ablation"), help="folder of weights and figures")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time, a thread each")
    parser.add_argument("--seeds", type=int, default=3, help="of each arm, two or more")
    parser.add_argument("--docs", type=Path, help="folder that the document's parts are written into")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.processes)
    if not (arguments.run / "prior.pt").exists():
        train_prior(arguments.run / "prior.pt")
    tasks = [(arguments.run, name, seed) for seed in range(arguments.seeds) for name in ARMS]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        pool.starmap(train_and_judge, tasks, chunksize=1)
    if arguments.docs:
        document.write(arguments.run, arguments.docs, arguments.seeds)


if __name__ == "__main__":
    main()

"""`op4ksr train` whose second process gets NaN for its picture from the second step on."""

import os
import sys

from op4ksr_core.app import cli
from op4ksr_core.train.data import PairDataset

whole = PairDataset.__getitem__


def spoiled(self, number):
    sample = whole(self, number)
    if os.environ["RANK"] == "1" and number >= 2:
        sample["hr"] = sample["hr"] * float("nan")
    return sample


PairDataset.__getitem__ = spoiled
sys.exit(cli.main(["train", *sys.argv[1:]]))

"""Numbers on the command line: argparse's `type=` for a range, so that a wrong one is named with its option."""

import argparse
import math
from collections.abc import Callable


def whole(low: int, high: int = 10**9) -> Callable[[str], int]:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text}")
        return value

    return parse


def number(low: float, high: float = 1e9) -> Callable[[str], float]:
    """A finite number from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"must be a number from {low:g} to {high:g}, got {text}")
        return value

    return parse


WORKERS = whole(1, 256)
SEED = whole(0, 2**64 - 1)

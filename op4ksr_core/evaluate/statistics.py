"""How sure a mean is, and whether two methods differ: scipy's bootstrap and Wilcoxon's signed ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .run import Outcome

CONFIDENCE = 0.95
_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Comparison:
    """A paired test of two methods: over `count` pictures, the mean of a - b, and the p of no difference."""

    metric: str
    a: str
    b: str
    count: int
    difference: float
    p: float


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The bootstrap's 95 % interval of the mean (percentiles, 2,000 resamples, seeded); None below two pictures or
    where a value is infinite."""
    if len(values) < 2 or not all(math.isfinite(v) for v in values):
        return None
    if len(set(values)) == 1:
        return values[0], values[0]
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def compare(outcome: Outcome) -> list[Comparison]:
    """Wilcoxon's signed-rank test of every pair of methods in every metric, over the pictures that both have."""
    tests = []
    names = [method.name for method in outcome.methods]
    for metric in outcome.metrics:
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                test = _signed_rank(metric.name, a, b, outcome.values(a, metric.name), outcome.values(b, metric.name))
                tests += [test] if test else []
    return tests


def _signed_rank(metric: str, a: str, b: str, of_a: dict[str, float], of_b: dict[str, float]) -> Comparison | None:
    from scipy.stats import wilcoxon

    both = [name for name in of_a if name in of_b and math.isfinite(of_a[name]) and math.isfinite(of_b[name])]
    if len(both) < 2:
        return None
    differences = np.array([of_a[name] - of_b[name] for name in both])
    p = 1.0 if not differences.any() else float(wilcoxon(differences).pvalue)
    return Comparison(metric, a, b, len(both), float(differences.mean()), p)

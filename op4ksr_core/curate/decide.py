"""Decisions from scores alone: remade in seconds, with nothing measured again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import SettingError
from .features import RANKED

KEPT = "kept"


@dataclass(frozen=True)
class Rules:
    """What is kept. `keep`: shares in (0, 1] of stages 1 and 2.

    Stage 1: `laplacian` and `sobel` eliminate what lies below them; of the rest a share stays by the rank aggregate of
    GLCM and entropy (the paper keeps 0.5). The two least values are ours: of 14 crops of sharp photographs 13 have a
    Laplacian variance above 20, and after a blur of 1.5 px 3 in 4 lie below it.
    Stage 2 has gates, each by itself: `blur` and `noise`, the largest scores, or if None those that let their share
    through, for their scale is the model's own; `aesthetic`, the least of LAION's scores (1 to 10). `degradation` is
    the largest mean of blur and noise, and not asked for without a value. Where the model gives one number,
    `degradation` stands for both, with their share. Stage 3: `vision`, the least score, 0 to 100. `side`: least px.
    `bits`: pictures whose perceptual hashes differ in so many bits or fewer are duplicates, the largest stays; -1 keeps
    them all. `licences`, `allowed`: licences and paths to be kept, all if None.
    """

    keep: tuple[float, float] = (0.5, 0.5)
    laplacian: float = 20.0
    sobel: float = 1.0
    degradation: float | None = None
    blur: float | None = None
    noise: float | None = None
    aesthetic: float = 5.0
    vision: float = 60.0
    side: int = 1024
    bits: int = 4
    licences: tuple[str, ...] | None = None
    allowed: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if not all(0 < share <= 1 for share in self.keep):
            raise SettingError(f"The share to be kept must lie in (0, 1], got {self.keep}.")
        if not 0 <= self.vision <= 100:
            raise SettingError(f"The least vision score must lie in 0 to 100, got {self.vision}.")
        if self.side < 1 or not -1 <= self.bits <= 16:
            raise SettingError(f"Wanted a side of 1 px or more and -1 to 16 bits, got {self.side} and {self.bits}.")


@dataclass
class Decisions:
    """For each picture: `kept`, or why not; stage 1's rank aggregate by path and its cut, and the gates of stage 2."""

    reasons: dict[str, str]
    aggregates: dict[int, dict[str, float]] = field(default_factory=dict)
    cuts: dict[int, float] = field(default_factory=dict)
    gates: dict[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> list[str]:
        """Paths, in the order of the listing."""
        return [path for path, reason in self.reasons.items() if reason == KEPT]

    @property
    def counts(self) -> dict[str, int]:
        """Pictures by reason; details in brackets are left out."""
        return dict(Counter(reason.split(" (")[0] for reason in self.reasons.values()))


def decide(listing: Sequence[dict[str, Any]], scores: dict[int, dict[str, dict[str, Any]]], rules: Rules) -> Decisions:
    """Goes through the stages that have scores. `listing` rows have `path` and `licence`; `scores` are by stage, path.

    A picture without a score of stage 1 is `not scored`, one that cannot be read `unreadable`.
    """
    found = Decisions({row["path"]: KEPT for row in listing})
    first = scores.get(1, {})
    for row in listing:
        found.reasons[row["path"]] = _basic(row, first.get(row["path"]), rules)
    _mark_duplicates(found, first, rules.bits)
    if first:
        _eliminate(found, first, rules)
        _cut(found, first, rules.keep[0])
    if scores.get(2):
        _by_gates(found, scores[2], rules)
    if scores.get(3):
        _by_vision(found, scores[3], rules.vision)
    return found


_OPTIONS = {
    "below the least side": ("--side", "side"),
    "licence": ("--licences", "licences"),
    "not in the list of allowed pictures": ("--allowed", None),
    "duplicate": ("--duplicate-bits", "bits"),
    "blurred": ("--least-laplacian", "laplacian"),
    "flat": ("--least-sobel", "sobel"),
    "below the cut of stage 1": ("--keep", "keep"),
    "too degraded": ("--most-degradation", "degradation"),
    "too blurred": ("--most-blur", "blur"),
    "too noisy": ("--most-noise", "noise"),
    "below the least aesthetic score": ("--least-aesthetic", "aesthetic"),
    "below the least score of stage 3": ("--vision-score", "vision"),
}
"""The option of each rule by the reason that it gives, and its name in Rules."""


def emptied_by(found: Decisions, rules: Rules) -> str:
    """A sentence for a decision that keeps nothing: the reason that most pictures have, and its rule."""
    reason, count = max(found.counts.items(), key=lambda one: one[1], default=("not listed", 0))
    option, name = _OPTIONS.get(reason, (None, None))
    value = f" {getattr(rules, name)}" if name else ""
    rule = f": the rule {option}{value}" if option else ""
    example = next((f" {path}: {why}." for path, why in found.reasons.items() if why.startswith(reason)), "")
    return f"Nothing would be kept: {count} of {len(found.reasons)} pictures are out as {reason!r}{rule}.{example}"


def _basic(row: dict[str, Any], score: dict[str, Any] | None, rules: Rules) -> str:
    if score is None:
        return "not scored"
    if score["error"]:
        return f"unreadable ({score['error']})"
    if min(score["width"], score["height"]) < rules.side:
        return f"below the least side ({score['width']}x{score['height']} px)"
    if rules.licences is not None and row["licence"] not in rules.licences:
        return f"licence ({row['licence'] or 'none'})"
    if rules.allowed is not None and row["path"] not in rules.allowed:
        return "not in the list of allowed pictures"
    return KEPT


def _mark_duplicates(found: Decisions, scores: dict[str, dict[str, Any]], bits: int) -> None:
    """Of each group the picture with the most pixels stays, the first by name among equals."""
    if bits < 0:
        return
    order = sorted(found.kept, key=lambda p: (-scores[p]["width"] * scores[p]["height"], p))
    seen = Originals(bits)
    for path in order:
        value = int(scores[path]["phash"], 16)
        original = seen.near(value)
        if original is None:
            seen.add(value, path)
        else:
            found.reasons[path] = f"duplicate ({original})"


class Originals:
    """Hashes of 64 bits, and which of them differ from another in `bits` or fewer.

    A hash is cut into pieces so few that two near hashes agree in one of them but for a bit: what differs in 4 bits has
    3 pieces of 21 bits, and one of them differs in 1 at most. So a look-up asks for each piece, and for each piece with
    one bit turned, and compares only the handful that it finds, not all.
    """

    def __init__(self, bits: int):
        self.bits = bits
        count = bits // 2 + 1
        edges = [64 * n // count for n in range(count + 1)]
        self._pieces = list(pairwise(edges))
        self._held: list[dict[int, list[int]]] = [{} for _ in self._pieces]
        self._names: dict[int, str] = {}
        self.compared = 0
        """Pairs of hashes that were compared."""

    def add(self, value: int, name: str) -> None:
        """Remembers a hash."""
        self._names[value] = name
        for held, piece in zip(self._held, self._pieces, strict=True):
            held.setdefault(_cut_out(value, piece), []).append(value)

    def near(self, value: int) -> str | None:
        """The name of a hash that is near, or None."""
        if value in self._names:
            return self._names[value]
        for held, (low, high) in zip(self._held, self._pieces, strict=True):
            own = _cut_out(value, (low, high))
            for turned in (0, *(1 << n for n in range(high - low))):
                for other in held.get(own ^ turned, ()):
                    self.compared += 1
                    if (value ^ other).bit_count() <= self.bits:
                        return self._names[other]
        return None


def _cut_out(value: int, piece: tuple[int, int]) -> int:
    """The bits from low to high of a hash."""
    low, high = piece
    return (value >> low) & ((1 << (high - low)) - 1)


def aggregate(rows: Sequence[dict[str, Any]], weights: dict[str, float]) -> np.ndarray:
    """Mean over the scores of each row's rank among all, 0 (worst) to 1; equal scores share the mean of their ranks."""
    from scipy.stats import rankdata

    ranks = [rankdata([sign * row[name] for row in rows]) for name, sign in weights.items()]
    return (np.mean(ranks, 0) - 1) / max(1, len(rows) - 1)


def _eliminate(found: Decisions, scores: dict[str, dict[str, Any]], rules: Rules) -> None:
    """Stage 1's gates: blurred pictures have no strong Laplacian, flat ones no gradients."""
    for path in found.kept:
        row = scores[path]
        if row["laplacian"] < rules.laplacian:
            found.reasons[path] = f"blurred (Laplacian variance {row['laplacian']:.3g})"
        elif row["sobel"] < rules.sobel:
            found.reasons[path] = f"flat (mean Sobel {row['sobel']:.3g})"


def _cut(found: Decisions, scores: dict[str, dict[str, Any]], share: float) -> None:
    """The best share by GLCM and entropy."""
    here = found.kept
    if not here:
        return
    values = aggregate([scores[path] for path in here], RANKED)
    order = sorted(range(len(here)), key=lambda n: (-values[n], here[n]))
    last = max(1, round(share * len(here)))
    for n in order[last:]:
        found.reasons[here[n]] = "below the cut of stage 1"
    found.aggregates[1] = dict(zip(here, values.tolist(), strict=True))
    found.cuts[1] = float(values[order[last - 1]])


def _by_gates(found: Decisions, scores: dict[str, dict[str, Any]], rules: Rules) -> None:
    """Stage 2: too degraded, or not pleasing enough; each gate by itself. Raises SettingError."""
    for path in found.kept:
        if path not in scores:
            found.reasons[path] = "not scored in stage 2"
        elif scores[path]["error"]:
            found.reasons[path] = f"unreadable ({scores[path]['error']})"
    here = found.kept
    if not here:
        return
    most = _largest({path: scores[path] for path in here}, rules)
    found.gates = most | {"aesthetic": rules.aesthetic}
    for path in here:
        row = scores[path]
        beyond = next((name for name, value in most.items() if row[name] > value), None)
        if beyond:
            found.reasons[path] = f"{_BEYOND[beyond]} ({row[beyond]:.3g})"
        elif row["aesthetic"] < rules.aesthetic:
            found.reasons[path] = f"below the least aesthetic score ({row['aesthetic']:.3g})"


_BEYOND = {"degradation": "too degraded", "blur": "too blurred", "noise": "too noisy"}
"""What a picture is that lies beyond a gate of stage 2."""


def _largest(scores: dict[str, dict[str, Any]], rules: Rules) -> dict[str, float]:
    """The largest value that each gate lets through. Raises SettingError where blur and noise were not scored, but a
    rule is on them."""
    apart = all(_is_number(row.get(name)) for row in scores.values() for name in ("blur", "noise"))
    given = {name: getattr(rules, name) for name in _BEYOND if getattr(rules, name) is not None}
    if not apart and given.keys() & {"blur", "noise"}:
        raise SettingError(
            f"The rules have {given}, but pictures were scored by a model that gives one number: use "
            "--most-degradation, or remove scores/stage2 and score with a model of blur and noise."
        )
    usual = ("blur", "noise") if apart else ("degradation",)
    shares = {name: float(np.quantile([row[name] for row in scores.values()], rules.keep[1])) for name in usual}
    return shares | given


def _is_number(value: float | None) -> bool:
    return value is not None and value == value


def _by_vision(found: Decisions, scores: dict[str, dict[str, Any]], least: float) -> None:
    for path in found.kept:
        row = scores.get(path)
        if row is None:
            found.reasons[path] = "not scored in stage 3"
        elif row["error"]:
            found.reasons[path] = f"unreadable ({row['error']})"
        elif row["vision"] != row["vision"]:
            found.reasons[path] = "no score in the vision model's answer"
        elif row["vision"] < least:
            found.reasons[path] = "below the least score of stage 3"

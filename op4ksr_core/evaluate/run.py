"""Evaluates methods picture by picture; what is done is kept, so that a stopped run can be resumed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from ..errors import ImageError, NotMeasurable, Op4ksrError, SettingError
from ..files import read_lines
from ..picture.read import Picture, read_picture
from ..workers import spread
from .measures import quantised
from .metrics import METRICS, SET, Metric, Tiles, pyiqa_fid
from .pairing import Method, Pair

VERSION = 3
"""Of the measures: numbers kept under another version are measured again."""


@dataclass(frozen=True)
class Row:
    """One picture of one method: its values, or why there are none. Written as a line of JSON, and read again."""

    method: str
    name: str
    size: str = ""
    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    key: str = ""

    @property
    def error(self) -> str:
        """Why the picture as a whole could not be judged."""
        return self.errors.get("", "")

    @property
    def problems(self) -> list[str]:
        """What could not be judged, a sentence each."""
        return [f"{name}: {why}" if name else why for name, why in self.errors.items()]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation gave: rows in order, values of whole sets by method, and metrics that could not run."""

    methods: tuple[Method, ...]
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    sets: dict[str, dict[str, float]]
    unavailable: dict[str, str]
    tiles: Tiles

    def values(self, method: str, metric: str) -> dict[str, float]:
        """Value by picture."""
        return {row.name: row.values[metric] for row in self.rows if row.method == method and metric in row.values}

    @property
    def failed(self) -> list[Row]:
        """Rows that lack the picture or one of the values."""
        return [row for row in self.rows if row.errors]


def key_of(pair: Pair, metrics: Sequence[Metric], tiles: Tiles) -> str:
    """What a row depends on: the files as they are now, the metrics and the tiles."""
    files = [
        [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in _files(pair) if path.exists()
    ]
    return json.dumps([VERSION, files, [metric.name for metric in metrics], asdict(tiles)])


def _files(pair: Pair) -> list[Path]:
    return [pair.picture, *([pair.truth] if pair.truth else [])]


def judge(method: str, pair: Pair, metrics: Sequence[str], tiles: Tiles) -> Row:
    """All values of one pair. What cannot be read or measured is reported in the row; nothing is resized."""
    chosen = [METRICS[name] for name in metrics]
    key = key_of(pair, chosen, tiles)
    try:
        picture, truth, notes = _read(pair)
    except Op4ksrError as error:
        return Row(method, pair.name, errors={"": str(error)}, key=key)
    values, errors = {}, {}
    with torch.inference_mode():
        for metric in chosen:
            try:
                values[metric.name] = metric(picture, truth, tiles)
            except NotMeasurable as error:
                notes = (*notes, f"{metric.title} left out: {error}")
            except (Op4ksrError, RuntimeError, ValueError) as error:
                errors[metric.name] = str(error).splitlines()[0]
    size = f"{picture.shape[-1]}x{picture.shape[-2]}"
    return Row(method, pair.name, size, values, errors, notes, key)


def _judge_job(job: tuple[str, Pair], metrics: Sequence[str], tiles: Tiles) -> Row:
    return judge(*job, metrics, tiles)


def _read(pair: Pair) -> tuple[torch.Tensor, torch.Tensor | None, tuple[str, ...]]:
    picture = read_picture(pair.picture)
    if pair.truth is None:
        return quantised(picture.rgb), None, _notes(picture, None)
    truth = read_picture(pair.truth)
    if picture.rgb.shape != truth.rgb.shape:
        sizes = [f"{p.rgb.shape[-1]}x{p.rgb.shape[-2]}" for p in (picture, truth)]
        raise ImageError(
            f"{pair.picture} is {sizes[0]} px and its ground truth {pair.truth} {sizes[1]} px. Nothing is "
            "resized here: make the picture at the truth's size."
        )
    return quantised(picture.rgb), quantised(truth.rgb), _notes(picture, truth)


def _notes(picture: Picture, truth: Picture | None) -> tuple[str, ...]:
    notes = []
    for which, one in (("picture", picture), ("ground truth", truth)):
        if one is not None:
            notes += [f"{which}: alpha left out"] if one.alpha is not None else []
            notes += [f"{which}: {one.depth} bits rounded to 8"] if one.depth != 8 else []
            notes += [f"{which}: {note}" for note in one.notes]
    return tuple(notes)


def evaluate(
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    tiles: Tiles = Tiles(),
    keep: Path | None = None,
    workers: int = 1,
    unavailable: dict[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Judges every picture of every method.

    `keep` is a file of finished rows: those that still fit their files are taken from it, new ones go into it, each as
    it is done. `workers` processes share the pictures. Raises Op4ksrError where nothing can start.
    """
    singles = [metric for metric in metrics if metric.kind != SET]
    jobs = [(method.name, pair) for method in methods for pair in method.pairs]
    kept = _kept(keep)
    rows: dict[int, Row] = {}
    for n, (method, pair) in enumerate(jobs):
        row = kept.get((method, pair.name))
        if row is not None and row.key == key_of(pair, singles, tiles):
            rows[n] = row
    left = [n for n in range(len(jobs)) if n not in rows]
    judging = partial(_judge_job, metrics=[metric.name for metric in singles], tiles=tiles)
    for n, row in zip(left, spread(judging, [jobs[n] for n in left], workers), strict=True):
        rows[n] = row
        if keep is not None:
            with open(keep, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        if progress:
            progress(len(rows), len(jobs))
    sets, absent = _whole_sets(methods, [metric for metric in metrics if metric.kind == SET])
    ordered = tuple(rows[n] for n in range(len(jobs)))
    return Outcome(tuple(methods), tuple(metrics), ordered, sets, (unavailable or {}) | absent, tiles)


def _kept(path: Path | None) -> dict[tuple[str, str], Row]:
    """Finished rows of an earlier run; a line that a kill cut short is left out."""
    rows: dict[tuple[str, str], Row] = {}
    if path is None or not path.exists():
        return rows
    if not path.is_file():
        raise SettingError(f"{path} keeps finished rows and must be a file; it is a folder. Move it away.")
    for line in read_lines(path):
        try:
            row = Row(**json.loads(line))
        except (ValueError, TypeError):
            continue
        rows[row.method, row.name] = row
    return rows


def _whole_sets(
    methods: Sequence[Method], metrics: Sequence[Metric]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Metrics of whole folders, such as FID, by method; and why there are none."""
    sets: dict[str, dict[str, float]] = {method.name: {} for method in methods}
    absent = {}
    for metric in metrics:
        for method in methods:
            try:
                truths = {pair.truth.parent for pair in method.pairs if pair.truth}
                if len(truths) != 1 or {pair.picture.parent for pair in method.pairs} != {method.folder}:
                    raise ImageError("it wants all pictures in one folder and all ground truths in another.")
                sets[method.name][metric.name] = pyiqa_fid(str(method.folder), str(truths.pop()))
            except (Op4ksrError, RuntimeError, ValueError) as error:
                absent[metric.name] = str(error)
    return sets, absent

"""Scores by stage, in Parquet files: many processes, or Ray.

Scores are found by picture (path, bytes, time of change), whichever file holds them: only what lacks them is measured,
into new files.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ImageError, SettingError
from ..files import write_atomically
from ..workers import single_thread, spread
from .features import SCORES, measure
from .models import STAGE_2, STAGE_3, Models, judge_by_models, judge_by_vision

ENGINES = ("processes", "ray")
SCORES_OF = {1: SCORES, 2: STAGE_2, 3: STAGE_3}
"""The scores of each stage and which way is better."""

_SCHEMAS = {
    1: {"width": pa.int32(), "height": pa.int32(), "sha256": pa.string(), "phash": pa.string()},
    2: {},
    3: {"answer": pa.string()},
}


@dataclass(frozen=True)
class Shard:
    """Some pictures, and the file that their scores go to."""

    stage: int
    paths: tuple[str, ...]
    file: Path
    models: Models


def schema_of(stage: int) -> pa.Schema:
    """Columns of a stage's shards: the file as it was, an error or none, scores and details."""
    fields = {"path": pa.string(), "bytes": pa.int64(), "modified": pa.int64(), "error": pa.string()}
    fields |= {name: pa.float64() for name in SCORES_OF[stage]} | _SCHEMAS[stage]
    return pa.schema(list(fields.items()))


def missing_shards(stage: int, paths: Sequence[str], place: Path, models: Models, size: int) -> list[Shard]:
    """Shards of `size` pictures for those that have no scores as they are now. Raises SettingError."""
    known = read_scores(place)
    missing = [path for path in paths if _is_new(path, known.get(path))]
    numbers = [int(file.stem) for file in place.glob("*.parquet") if file.stem.isdecimal()]
    first = max(numbers, default=-1) + 1
    return [
        Shard(stage, tuple(missing[start : start + size]), place / f"{first + number:06d}.parquet", models)
        for number, start in enumerate(range(0, len(missing), size))
    ]


def _is_new(path: str, row: dict[str, Any] | None) -> bool:
    return row is None or (row["bytes"], row["modified"]) != _state(Path(path))


def score_shard(shard: Shard) -> int:
    """Scores the shard's pictures and writes its file, whole or not at all; how many there are."""
    rows = []
    for path in shard.paths:
        size, modified = _state(Path(path))
        rows.append({"path": path, "bytes": size, "modified": modified} | _score(shard, Path(path)))
    table = pa.Table.from_pylist(rows, schema_of(shard.stage))
    write_atomically(shard.file, lambda file: pq.write_table(table, file))
    return len(rows)


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        rows = pq.read_table(file).to_pylist()
        return [row for row in rows if row["path"]]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise SettingError(f"{file} is damaged ({error}). Remove it: its scores are then computed again.") from error


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _score(shard: Shard, path: Path) -> dict[str, Any]:
    judges: dict[int, Callable[[Path], dict[str, Any]]] = {
        1: measure,
        2: partial(judge_by_models, models=shard.models),
        3: partial(judge_by_vision, models=shard.models),
    }
    try:
        return judges[shard.stage](path)
    except ImageError as error:
        return {"error": str(error)}


def run_shards(
    shards: Sequence[Shard], engine: str, workers: int, progress: Callable[[int, int], None] | None = None
) -> int:
    """Scores all shards; how many pictures. Raises SettingError on an unknown engine."""
    total = sum(len(shard.paths) for shard in shards)
    done = 0
    for pictures in _engine(engine)(shards, workers) if shards else ():
        done += pictures
        if progress:
            progress(done, total)
    return done


def _engine(name: str) -> Callable[[Sequence[Shard], int], Iterator[int]]:
    if name not in ENGINES:
        raise SettingError(f"The engine must be one of {', '.join(ENGINES)}, got {name!r}.")
    return _by_ray if name == "ray" else _by_processes


def _by_processes(shards: Sequence[Shard], workers: int) -> Iterator[int]:
    return spread(score_shard, shards, workers)


def _by_ray(shards: Sequence[Shard], workers: int) -> Iterator[int]:
    """The same as a Ray Data pipeline; on a cluster the files must be seen by every machine."""
    from ..workers import ray_data

    data = ray_data().from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    scored = data.map(_score_row, concurrency=max(1, workers))
    yield from (row["pictures"] for row in scored.iter_rows())


def _score_row(row: dict[str, Any]) -> dict[str, int]:
    single_thread()
    return {"pictures": score_shard(row["shard"])}


def read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """All rows of a stage by path; of a picture that was scored again, the last."""
    rows: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.parquet")):
        rows |= {row["path"]: row for row in _rows(file)}
    return rows

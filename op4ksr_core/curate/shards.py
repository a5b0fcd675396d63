"""Scores by stage and shard, one Parquet file each: many processes, or Ray; what is there is not computed again."""

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


def score_shard(shard: Shard) -> tuple[int, int]:
    """Scores what the shard's file lacks and writes it, whole or not at all; (pictures, of them computed now)."""
    known = {row["path"]: row for row in _rows(shard.file)} if shard.file.exists() else {}
    rows, fresh = [], 0
    for path in shard.paths:
        state = _state(Path(path))
        row = known.pop(path, None)
        if row is None or (row["bytes"], row["modified"]) != state:
            row, fresh = {"path": path, "bytes": state[0], "modified": state[1]} | _score(shard, Path(path)), fresh + 1
        rows.append(row)
    if fresh or not shard.file.exists():
        rows += known.values()  # of pictures that an earlier decision let through
        table = pa.Table.from_pylist(rows, schema_of(shard.stage))
        write_atomically(shard.file, lambda file: pq.write_table(table, file))
    return len(shard.paths), fresh


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
) -> tuple[int, int]:
    """Scores all shards; (pictures, of them computed now). Raises SettingError on an unknown engine."""
    total = sum(len(shard.paths) for shard in shards)
    done = fresh = 0
    for pictures, computed in _engine(engine)(shards, workers):
        done, fresh = done + pictures, fresh + computed
        if progress:
            progress(done, total)
    return done, fresh


def _engine(name: str) -> Callable[[Sequence[Shard], int], Iterator[tuple[int, int]]]:
    if name not in ENGINES:
        raise SettingError(f"The engine must be one of {', '.join(ENGINES)}, got {name!r}.")
    return _by_ray if name == "ray" else _by_processes


def _by_processes(shards: Sequence[Shard], workers: int) -> Iterator[tuple[int, int]]:
    return spread(score_shard, shards, workers)


def _by_ray(shards: Sequence[Shard], workers: int) -> Iterator[tuple[int, int]]:
    """The same as a Ray Data pipeline; on a cluster the files must be seen by every machine."""
    from ..workers import ray_data

    data = ray_data().from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    scored = data.map(_score_row, concurrency=max(1, workers))
    yield from ((row["pictures"], row["computed"]) for row in scored.iter_rows())


def _score_row(row: dict[str, Any]) -> dict[str, int]:
    single_thread()
    pictures, computed = score_shard(row["shard"])
    return {"pictures": pictures, "computed": computed}


def read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """All rows of a stage by path."""
    rows: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.parquet")):
        rows |= {row["path"]: row for row in _rows(file)}
    return rows

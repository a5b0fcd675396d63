"""`op4ksr upscale --engine ray`: a model in each of many actors."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..settings import UpscaleSettings
from ..workers import ray_data
from .batch import BatchSettings, Job, Result, run_jobs


class UpscaleActor:
    """One model, and pictures that come one by one: a step of a Ray Data pipeline."""

    def __init__(self, arguments: argparse.Namespace, settings: UpscaleSettings, batch: BatchSettings):
        from .options import make_upscaler

        self.upscaler, self.batch = make_upscaler(arguments, settings), batch

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        job = Job(Path(row["source"]), Path(row["output"]))
        return {"result": json.dumps(next(iter(run_jobs(self.upscaler, [job], self.batch))).as_dict())}


def upscale_by_ray(
    arguments: argparse.Namespace, settings: UpscaleSettings, batch: BatchSettings, jobs: Sequence[Job]
) -> Iterator[Result]:
    """`run_jobs` over actors with a model each, `arguments.workers` of them; on a cluster every machine must see the
    files. Results come as they are done. Outputs that exist are skipped, so a stopped run can be resumed."""
    rows = [{"source": str(job.source), "output": str(job.output)} for job in jobs]
    data = ray_data().from_items(rows, override_num_blocks=len(rows))
    on_gpu = torch.cuda.is_available() if arguments.device is None else arguments.device.startswith("cuda")
    done = data.map(
        UpscaleActor,
        fn_constructor_args=(arguments, settings, batch),
        concurrency=max(1, min(arguments.workers, len(jobs))),
        num_cpus=0.5,  # more actors than cores would wait for each other for ever
        num_gpus=1 if on_gpu else None,
    )
    for row in done.iter_rows():
        result = json.loads(row["result"])
        yield Result(**result | {"notes": tuple(result["notes"])})

"""What the commands that study a model share: a study of each input, and one bad picture not stopping the rest."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..errors import Op4ksrError
from ..files import check_folders, json_text, printable, write_atomically, write_text
from ..picture.read import Picture, read_picture
from ..pipeline.upscaler import Upscaler
from ..progress import Progress
from ..settings import UpscaleSettings
from .batch import Job, plan_jobs
from .console import Display, complain, say
from .options import make_upscaler

Study = Callable[[Upscaler, Job, Picture, Progress], None]


def run_study(arguments: argparse.Namespace, settings: UpscaleSettings, study: Study) -> int:
    """Runs the study over the inputs; 1 if one of them failed. One bad picture does not stop the rest."""
    jobs = plan_jobs(arguments.inputs, arguments.output)
    check_folders([job.output for job in jobs])
    upscaler = make_upscaler(arguments, settings)
    failed = False
    with Display(len(jobs)) as display:
        for job in jobs:
            try:
                study(upscaler, job, read_picture(job.source), display.start(job))
            except Op4ksrError as error:
                failed = True
                complain(printable(f"failed {job.source}: {error}"))
            display.pictures.update()
    return int(failed)


def tell(job: Job, lines: list[str]) -> None:
    say("\n  ".join([printable(f"{job.source}:"), *lines]))


def write_png(path: Path, image) -> None:
    write_atomically(path, lambda file: image.save(file, "png"))


def write_json(path: Path, content: dict) -> None:
    write_text(path, json_text(content))

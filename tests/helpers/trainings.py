"""A training run in a folder, and what its log says."""

import json

from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.write import write_picture
from op4ksr_core.train.trainer import Trainer


def write_three(folder, photo):
    """Three pictures of 120 px cut from the bundled photo; returns their folder."""
    for n in range(3):
        write_picture(folder / f"{n}.png", Picture(photo[..., 60 * n : 60 * n + 120, 40 * n : 40 * n + 120]))
    return folder


def run_training(settings, sources, photos, run, **options):
    """Trains on a CPU, with a checkpoint every five steps; the step reached."""
    trainer = Trainer(settings, sources, [photos], run, cpu=True, save_every=5)
    try:
        return trainer.run(**options)
    finally:
        trainer.close()


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]

"""A training run in a folder, and what its log says."""

import json

from op4ksr_core.train.trainer import Trainer


def run_training(settings, sources, photos, run, **options):
    """Trains on a CPU, with a checkpoint every five steps; the step reached."""
    trainer = Trainer(settings, sources, [photos], run, cpu=True, save_every=5)
    try:
        return trainer.run(**options)
    finally:
        trainer.close()


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]

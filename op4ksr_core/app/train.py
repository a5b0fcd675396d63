"""What `op4ksr train`, `pairs`, `convert` and `merge` do."""

import argparse
import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import SettingError
from ..picture.files import write_atomically
from ..train.data import PairDataset, find_pictures, pair_sheet, usable
from ..train.memory import GB, largest_crop, meta_model, plan_training
from ..train.settings import PRESETS, LossWeights, TrainSettings
from ..weights.convert import convert, merge
from .batch import check_folders
from .upscale import find_sources


def train_settings(arguments: argparse.Namespace) -> TrainSettings:
    """The preset with every option that was given put over it. Raises SettingError."""
    if arguments.preset not in PRESETS:
        raise SettingError(f"There is no training preset {arguments.preset!r}; there are {', '.join(PRESETS)}.")
    preset, given = PRESETS[arguments.preset], {k: v for k, v in vars(arguments).items() if v is not None}
    rope = replace(preset.rope, **{k: given[k] for k in ("theta", "scheme") if k in given})
    weights = {f.name: given[f"loss_{f.name}"] for f in fields(LossWeights) if f"loss_{f.name}" in given}
    names = [f.name for f in fields(TrainSettings) if f.name not in ("rope", "losses")]
    own = {name: given[name] for name in names if name in given}
    return replace(preset, rope=rope, losses=replace(preset.losses, **weights), **own)


def train(arguments: argparse.Namespace) -> int:
    """Prints settings and memory plan, then trains; with --plan or --print-settings that is all."""
    from ..train.trainer import Trainer

    settings = train_settings(arguments)
    if arguments.print_settings:
        print(json.dumps(settings.as_dict(), indent=2))
        return 0
    sources = find_sources(arguments)
    first = _is_first()
    if first:
        print(f"settings: {json.dumps(settings.as_dict())}")
        _print_plan(settings, sources, arguments.plan, _shards(arguments))
    if arguments.plan is not None:
        return 0
    if not arguments.inputs or not arguments.output:
        raise SettingError("A training wants pictures (folders, files or lists) and -o, the folder of the run.")
    trainer = Trainer(
        settings,
        sources,
        arguments.inputs,
        Path(arguments.output).expanduser(),
        workers=arguments.workers,
        save_every=arguments.save_every,
        picture_every=arguments.picture_every,
        cpu=arguments.device == "cpu",
        shard=arguments.shard,
    )
    start = trainer.step
    if first:
        count = trainer.accelerator.num_processes
        print(f"{count} process{'es' if count > 1 else ''} on {trainer.accelerator.device.type}", flush=True)
    try:
        step = trainer.run(arguments.minutes, arguments.stop_after)
    finally:
        trainer.close()
    if first:
        print(f"trained from step {start} to {step} of {settings.steps}: {trainer.run_folder / 'checkpoints'}")
    return 0


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _shards(arguments: argparse.Namespace) -> int:
    """Over how many processes the transformer is shared."""
    return int(arguments.processes or os.environ.get("WORLD_SIZE", "1")) if arguments.shard else 1


def _print_plan(settings: TrainSettings, sources: Any, card: float | None, shards: int) -> None:
    model = meta_model(sources, settings)
    plan = plan_training(model, settings, shards=shards)
    print(f"memory plan per GPU, computed: {plan}", flush=True)
    if card:
        crop = largest_crop(model, settings, card * GB, shards=shards)
        print(f"on a card of {card:g} GB: " + (f"crops up to {crop} px" if crop else "not even a crop of 256 px fits"))
    elif torch.cuda.is_available():
        held = torch.cuda.get_device_properties(0).total_memory
        if plan.total > held:
            crop = largest_crop(model, settings, held, shards=shards)
            raise SettingError(
                f"The plan of {plan.total / GB:.0f} GB does not fit the {held / GB:.0f} GB of this card"
                + (f": --crop {crop} does." if crop else ".")
            )


def pairs(arguments: argparse.Namespace) -> int:
    """A sheet of LR above HR: what a training would see."""
    paths = usable(find_pictures(arguments.inputs), arguments.crop)
    data = PairDataset(paths, arguments.crop, 4, arguments.degradation, arguments.seed, arguments.count)
    path = Path(arguments.output).expanduser()
    check_folders([path])
    sheet = pair_sheet(data, arguments.count)
    write_atomically(path, lambda file: sheet.save(file, "png"))
    print(f"{min(arguments.count, len(data))} pairs of {len(paths)} pictures: {path}")
    return 0


def convert_adapter(arguments: argparse.Namespace) -> int:
    """An adapter in another form."""
    convert(arguments.adapter, arguments.output, arguments.to)
    print(f"{arguments.adapter} -> {arguments.output} ({arguments.to})")
    return 0


def merge_model(arguments: argparse.Namespace) -> int:
    """A model with its adapters in its weights."""
    merge(find_sources(arguments), arguments.output, getattr(torch, arguments.dtype) if arguments.dtype else None)
    print(f"{arguments.output}: merged")
    return 0

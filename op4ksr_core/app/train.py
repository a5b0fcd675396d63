"""`op4ksr train`: makes adapters, LoRA on the encoder and the transformer."""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ..declared import add_options as add_options_of
from ..declared import check_choice, declarations, find_setting, given_options
from ..errors import SettingError, TrainingError
from ..evaluate.metrics import FORMER_NAMES, SET, Metric, Tiles, find_metrics
from ..files import at_home, json_text
from ..train.presets import PRESETS
from ..train.settings import GROUPS, NESTED, TrainSettings
from ..train.validation import HeldOut, Measure
from .argument_types import number, whole
from .console import bar_with_lines, say
from .options import add_sources, find_sources, read_values, settings_from


def add_options(parser: argparse.ArgumentParser) -> None:
    """The run's own options, and one for every setting."""
    add_sources(parser)
    parser.add_argument("inputs", nargs="*", metavar="DATA", help="folders, pictures, text files of paths, or tables")
    parser.add_argument("-o", "--output", metavar="RUN", help="folder of the run; an existing one is resumed")
    parser.add_argument(
        "--pairs", metavar="FOLDER", help="the small picture of each of DATA, NAME or NAMEx4: nothing is degraded"
    )
    parser.add_argument("--preset", default="embedded", help=f"settings to start from: {', '.join(PRESETS)}")
    parser.add_argument("--settings", metavar="FILE", help="JSON as of --print-settings; options go before it")
    parser.add_argument("--print-settings", action="store_true", help="print the settings as JSON and stop")
    parser.add_argument(
        "--plan",
        type=_card,
        nargs="?",
        const=0.0,
        metavar="GB",
        help="print the memory plan (for a card) and stop",
    )
    parser.add_argument(
        "--minutes", type=number(0, 1e7), default=float("inf"), help="stop after this long; run again to resume"
    )
    parser.add_argument("--stop-after", type=whole(1), metavar="STEP", help="stop at this step; run again to resume")
    parser.add_argument(
        "--workers", type=whole(0, 256), default=0, help="processes that read pictures (default 0: none)"
    )
    parser.add_argument("--save-every", type=whole(1), default=100, help="steps between checkpoints (default 100)")
    parser.add_argument("--log-every", type=whole(1), default=10, help="steps between printed lines (default 10)")
    parser.add_argument(
        "--picture-every", type=whole(1), default=100, help="steps between logged pictures (default 100)"
    )
    parser.add_argument(
        "--wandb", default="", metavar="PROJECT", help="log to this project of Weights & Biases too (extra wandb)"
    )
    parser.add_argument(
        "--licence", default="", metavar="NAME", help="for the model card of each checkpoint, such as cc-by-4.0"
    )
    valid = parser.add_argument_group("validation")
    valid.add_argument(
        "--validate", nargs="+", metavar="DATA", help="held-out photographs, judged as the training goes on"
    )
    valid.add_argument("--validate-pairs", metavar="FOLDER", help="as --pairs, of the held-out photographs")
    valid.add_argument("--validate-every", type=whole(1), default=100, help="steps between validations (default 100)")
    valid.add_argument("--validate-count", type=whole(1, 10_000), default=8, help="crops that are judged (default 8)")
    valid.add_argument(
        "--metrics",
        nargs="+",
        default=["psnr", "ssim", "hf_correlation", "hf_energy_db"],
        metavar="NAME",
        help="as of `op4ksr evaluate`",
    )
    valid.add_argument(
        "--best", default="psnr", metavar="NAME", help="the metric whose best adapters RUN/best holds (default psnr)"
    )
    parser.add_argument("--shard", action="store_true", help="share the transformer out over the processes (FSDP)")
    parser.add_argument(
        "--processes", type=whole(1, 100_000), metavar="N", help="what --plan counts with (default: those launched)"
    )
    parser.add_argument("--device", choices=("cpu",), help="cpu: do not use a GPU")
    for title, names in GROUPS.items():
        group = parser.add_argument_group(f"{title} (the preset's where not given)")
        add_options_of(group, TrainSettings, leave_out={one.name for one in declarations(TrainSettings)} - {*names})
        if title in NESTED:
            field, prefix = NESTED[title]
            add_options_of(group, find_setting(TrainSettings, field).kind, prefix=prefix)


def _card(text: str) -> float:
    """GB of a card, 0 for none, for argparse."""
    value = number(0, 1e6)(text)
    if 0 < value < 0.1:
        raise argparse.ArgumentTypeError(f"must be 0 or a number from 0.1 to 1e+06, got {text}")
    return value


def train_settings(arguments: argparse.Namespace) -> TrainSettings:
    """The preset, the settings file over it, and over both every option that was given. Raises SettingError."""
    check_choice("preset", arguments.preset, tuple(PRESETS))
    settings = PRESETS[arguments.preset]
    if arguments.settings is not None:
        settings = _over(settings, arguments.settings)
    own = given_options(arguments, TrainSettings)
    if "rank" in own and "alpha" not in own:
        own["alpha"] = _alpha_at(own["rank"], settings)
    for field, prefix in NESTED.values():
        nested = getattr(settings, field)
        own[field] = replace(nested, **given_options(arguments, type(nested), prefix))
    return replace(settings, **own)


def _over(base: TrainSettings, file: str) -> TrainSettings:
    """A settings file over a preset; alpha follows a rank that the file changes alone. Raises SettingError."""
    values = read_values(file)
    held = settings_from(file, values, base)
    if "alpha" in values:
        return held
    return replace(held, alpha=_alpha_at(held.rank, base))


def _alpha_at(rank: int, settings: TrainSettings) -> int:
    """The alpha that keeps the LoRA as strong at another rank."""
    return max(1, round(rank * settings.alpha / settings.rank))


def run(arguments: argparse.Namespace) -> int:
    """Prints settings and memory plan, then trains; with --plan or --print-settings that is all."""
    settings = train_settings(arguments)
    if arguments.print_settings:
        say(json_text(settings.as_dict()).rstrip())
        return 0
    sources = find_sources(arguments, conditioned=settings.stage not in ("decoder", "encoder"))
    first = _is_first()
    if first:
        say(f"settings: {json.dumps(settings.as_dict())}")
        _print_plan(settings, sources, arguments)
    if arguments.plan is not None:
        return 0
    if not arguments.inputs or not arguments.output:
        raise SettingError("A training wants pictures (folders, files or lists) and -o, the folder of the run.")
    with bar_with_lines("step") as (report, above):
        return _train(settings, sources, arguments, report, above)


def _train(
    settings: TrainSettings,
    sources: Any,
    arguments: argparse.Namespace,
    report: Callable[[int, int], None],
    above: Callable[[str], None],
) -> int:
    """The training itself; `report` moves a bar, and `above` prints lines above it."""
    from ..train.trainer import Trainer

    first = _is_first()
    trainer = Trainer(
        settings,
        sources,
        arguments.inputs,
        at_home(arguments.output),
        workers=arguments.workers,
        save_every=arguments.save_every,
        picture_every=arguments.picture_every,
        cpu=arguments.device == "cpu",
        shard=arguments.shard,
        log_every=arguments.log_every,
        say=above,
        held_out=_held_out(arguments),
        licence=arguments.licence,
        pairs=arguments.pairs,
        wandb=arguments.wandb,
        report=report if first else None,
    )
    start = trainer.step
    if first:
        count = trainer.accelerator.num_processes
        above(f"{count} process{'es' if count > 1 else ''} on {trainer.accelerator.device.type}")
    try:
        step = trainer.run(arguments.minutes, arguments.stop_after)
    except TrainingError:
        if first:
            raise
        return 1  # all processes stop; one says why
    finally:
        trainer.close()
    if first:
        above(f"trained from step {start} to {step} of {settings.steps}: {trainer.run_folder / 'checkpoints'}")
    return 0


def _held_out(arguments: argparse.Namespace) -> HeldOut | None:
    """What the options say of validation. Raises SettingError where a metric cannot run here."""
    if not arguments.validate:
        return None
    best = FORMER_NAMES.get(arguments.best, arguments.best)
    metrics, absent = find_metrics([*arguments.metrics, best], with_truth=True)
    if absent:
        raise SettingError("; ".join(f"--metrics {name}: {why}" for name, why in absent.items()) + ".")
    measures = [Measure(one.name, partial(_measured, one), one.goodness) for one in metrics if one.kind != SET]
    every, count = arguments.validate_every, arguments.validate_count
    return HeldOut(arguments.validate, measures, best, every, count, arguments.validate_pairs)


def _measured(metric: Metric, restored: Tensor, truth: Tensor) -> float:
    return metric(restored, truth, Tiles())


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _shards(arguments: argparse.Namespace) -> int:
    """Over how many processes the transformer is shared."""
    return int(arguments.processes or os.environ.get("WORLD_SIZE", "1")) if arguments.shard else 1


def _print_plan(settings: TrainSettings, sources: Any, arguments: argparse.Namespace) -> None:
    import torch

    from ..model.precision import half_is_fast
    from ..train.cost import cost_of
    from ..train.memory import GB, largest_crop, meta_model, plan_training
    from ..train.strategies.flow import FlowStrategy

    if settings.stage == "compensation":
        say("memory plan: none for the stage compensation")
        return
    model, card, shards = meta_model(sources, settings), arguments.plan, _shards(arguments)
    processes = int(arguments.processes or os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available() and arguments.device != "cpu"
    device = torch.device("cuda" if cuda else "cpu")
    if isinstance(model, FlowStrategy) and (settings.precision == "no" or half_is_fast(device)):
        say(f"computing: {cost_of(model, settings, device, processes)}")
    plan = plan_training(model, settings, shards=shards)
    say(f"memory plan per GPU, computed: {plan}")
    if settings.losses.adversarial and settings.critic == "features" and not settings.features:
        say("the critic is not counted: name its folder with --features")
    if card:
        crop = largest_crop(model, settings, card * GB, shards=shards)
        say(f"on a card of {card:g} GB: " + (f"crops up to {crop} px" if crop else "not even a crop of 256 px fits"))
    elif torch.cuda.is_available():
        held = torch.cuda.get_device_properties(0).total_memory
        if plan.total > held:
            crop = largest_crop(model, settings, held, shards=shards)
            raise SettingError(
                f"The plan of {plan.total / GB:.0f} GB does not fit the {held / GB:.0f} GB of this card"
                + (f": --crop {crop} does." if crop else ".")
            )

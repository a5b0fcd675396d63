"""The model card of a checkpoint: what it was trained from, how, how good it was, and under which licence."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from .settings import TrainSettings

CARD = "README.md"


def model_card(
    step: int,
    settings: TrainSettings,
    sources: Any,
    origin: Mapping[str, str],
    figures: Mapping[str, float],
    data: str,
    licence: str = "",
) -> str:
    """Markdown with the YAML header that model hubs read.

    `origin` has the fingerprints of `origin.py`, `figures` the last losses and validation by name, `data` how the small
    pictures were made. Without a licence the card says that none was named.
    """
    header = ["---", "library_name: op4ksr", "pipeline_tag: image-to-image"]
    header += [f"license: {licence}"] if licence else []
    header += ["tags: [super-resolution, lora, op4ksr]", "---"]
    stated = f"{licence}." if licence else "none was named (`op4ksr train --licence NAME`). Ask whoever trained it."
    lines = [
        *header,
        "",
        f"# {settings.stage} of an `op4ksr train` run, step {step} of {settings.steps}",
        "",
        f"Licence: {stated}",
        "",
        "## Data",
        "",
        f"{origin.get('photographs', 'unknown')} (how many, and a fingerprint of their names and sizes); "
        f"{data}, scale {settings.scale}, crops of {settings.crop} px.",
        "",
        "## Model",
        "",
        *(f"- {name}: `{place}`" for name, place in _places(sources)),
        "",
        "## Settings",
        "",
        "All are in `settings.json`, which `op4ksr train --settings` reads.",
        "",
        *(f"- {name}: {getattr(settings, name)}" for name in ("rank", "alpha", "learning_rate", "batch", "seed")),
        "",
        "## Figures of this step",
        "",
        "`valid_...` are means over the held-out crops; the others are losses on the training's own pictures.",
        "",
        "| figure | value |",
        "|---|---|",
        *(f"| {name} | {value:.6g} |" for name, value in figures.items()),
    ]
    return "\n".join(lines) + "\n"


def _places(sources: Any) -> list[tuple[str, str]]:
    """The parts of the model and the ends of their paths, which say nothing of the machine."""
    held = [(field.name, getattr(sources, field.name)) for field in fields(sources)]
    return [(name, "/".join(place.parts[-2:])) for name, place in held if isinstance(place, Path)]

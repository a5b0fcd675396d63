"""What an artist wishes for, in an artist's words, as settings: the picture's content, creativity and resemblance.

Both hosts call `with_wishes` on the preset; what is set explicitly comes after it and wins. No torch.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from .declared import check, check_choice, setting
from .settings import UpscaleSettings, with_strength

Content = Literal["any", "photo", "portrait", "drawing", "noisy"]

CONTENT_KINDS: tuple[str, ...] = get_args(Content)


@dataclass(frozen=True)
class Wishes:
    """What is wished for; it becomes settings. Raises SettingError on a value out of range."""

    content: Content = setting(
        "any",
        "What the picture shows: photo, portrait, drawing (lettering too), noisy (or compressed). Sets "
        "strength, protect and denoise unless you set them; any leaves the preset as it is.",
    )

    creativity: float = setting(
        0.0,
        "How freely the model may add: -1 only enlarges, 0 is the preset, 1 adds most. FLUX models also draw noise "
        "above 0, so that each seed gives another picture.",
        low=-1,
        high=1,
        step=0.05,
    )

    resemblance: float = setting(
        0.0,
        "How closely the result keeps to the picture: 1, made small again it is the input; 0 is the preset; -1 leaves "
        "what the model drew.",
        low=-1,
        high=1,
        step=0.05,
    )

    def __post_init__(self) -> None:
        check(self)


CONTENTS: dict[str, dict[str, Any]] = {
    "any": {},
    "photo": {"strength": 1.25},
    "portrait": {"strength": 0.75, "protect": "faces"},
    "drawing": {"strength": 0.6},
    "noisy": {"denoise": 1.0},
}
"""What each content sets over the preset. Chosen by eye and PSNR (docs/nodes.md, benchmarks/content.py)."""

DRAWS_NOISE = ("op4ksr", "ultraflux", "omgsr")
"""Presets of flow models that may start from noise. The bundled model never learnt to, and the UNets' own methods do
not."""


def with_wishes(
    settings: UpscaleSettings, wishes: Wishes, preset: str, given: Collection[str] = ()
) -> tuple[UpscaleSettings, list[str]]:
    """A preset's settings as wished, and a sentence for each wish on what it set.

    `given` names what is set explicitly (strength, or fields of UpscaleSettings): a content leaves it alone.
    """
    told = []
    sets = content_sets(wishes.content, given)
    if wishes.content != "any":
        words = ", ".join(f"{name} {value}" for name, value in sets.items())
        told.append(f"Content {wishes.content}: {words or 'nothing is left to set'}.")
    strength = sets.pop("strength", 1.0)
    settings = with_strength(replace(settings, **sets), strength)
    freer = with_creativity(settings, wishes.creativity, preset)
    closer = with_resemblance(freer, wishes.resemblance)
    if wishes.creativity:
        told.append(f"Creativity {wishes.creativity:g}: {_changed(settings, freer)}.")
    if wishes.resemblance:
        told.append(f"Resemblance {wishes.resemblance:g}: {_changed(freer, closer)}.")
    return closer, told


def content_sets(content: str, given: Collection[str] = ()) -> dict[str, Any]:
    """What a content sets, but for the names in `given`. Raises SettingError on a content that there is not."""
    check_choice("content", content, CONTENT_KINDS)
    return {name: value for name, value in CONTENTS[content].items() if name not in given}


def with_creativity(settings: UpscaleSettings, creativity: float, preset: str) -> UpscaleSettings:
    """Strength 1 + creativity. A model that starts from noise already redraws from a larger sigma, or a smaller one;
    another flow model draws that share of sigma's noise. Not tried on published weights."""
    settings = with_strength(settings, 1 + creativity)
    if preset not in DRAWS_NOISE:
        return settings
    if settings.noise:
        return replace(settings, sigma=min(1.0, settings.sigma * (1 + creativity / 2)))
    return replace(settings, noise=max(0.0, creativity))


def with_resemblance(settings: UpscaleSettings, resemblance: float) -> UpscaleSettings:
    """Fidelity on its way to 1, or to 0 below 0."""
    kept = settings.fidelity
    kept += resemblance * (1 - kept if resemblance > 0 else kept)
    return replace(settings, fidelity=kept)


def _changed(before: UpscaleSettings, after: UpscaleSettings) -> str:
    """Name and value of what differs."""
    pairs = [(one.name, getattr(before, one.name), getattr(after, one.name)) for one in fields(after)]
    words = [f"{name} {new:.3g}" for name, old, new in pairs if new != old]
    return ", ".join(words) or "the preset has nothing to change"

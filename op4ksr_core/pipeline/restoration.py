"""The one way from a small picture to a large one: `plan` once, then `run`. A host only says how its models are run.

The order: enlarge, pad, encode, transform, decode, finish, compensate. Padding is done here, so that every host sees
the same pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ImageError, SettingError
from ..geometry import Frame, Size, SizePlan, padded_side, plan_target
from ..model.denoise import denoise
from ..model.windows import Place, in_placed_windows
from ..picture.colour import finish
from ..picture.framing import restore_region
from ..picture.resample import crop, lanczos, pad_reflect, resize
from ..progress import Progress
from ..settings import UpscaleSettings
from ..subjects.protect import protected_mask, strength_map
from .composite import Framed, restore_framed
from .memory import MemoryPlan


class Host(Protocol):
    """Runs one family of models. Pictures are (B, 3, H, W) in [0, 1], latents (B, C, h, w) in the host's own scale,
    both float32. Each phase reports its progress, and may raise from it to cancel."""

    @property
    def device(self) -> torch.device:
        """Where pictures are enlarged and finished."""
        ...

    @property
    def latent_factor(self) -> int:
        """Picture px per latent px: 16, 8 or 4."""
        ...

    @property
    def multiple_px(self) -> int:
        """What the sides of a padded picture must divide by, in px; a multiple of `latent_factor`."""
        ...

    def check(self, settings: UpscaleSettings) -> None:
        """Raises SettingError, naming the setting, where these models cannot do what the settings ask for."""
        ...

    def plan_memory(self, size: SizePlan, count: int) -> MemoryPlan:
        """What `count` pictures need, and how the models will run. Raises MemoryPlanError where nothing fits."""
        ...

    def prepare(self, memory: MemoryPlan | None) -> None:
        """Sets how the models run for the next picture, the fastest way without a plan, and makes room for it."""
        ...

    def condition_on(self, enlarged: Tensor) -> None:
        """Sees the enlarged picture before it is padded. For models whose condition is the picture itself; the others
        do nothing."""
        ...

    def look_at(self, top: int, left: int, size: Size) -> None:
        """The next `transform` is of this part of the picture, in px of the padded one; called before each. For models
        whose condition is the picture itself; the others do nothing."""
        ...

    def encode(self, padded: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        """Picture, its sides multiples of `multiple_px` -> latent: the posterior's mode, or a sample drawn on the CPU
        from `settings.posterior_seed`."""
        ...

    def transform(self, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        """Latent of the enlarged picture, its sides multiples of multiple_px / latent_factor -> restored latent:
        `settings.steps` evaluations from `settings.sigma`."""
        ...

    def decode(self, z: Tensor, report: Progress) -> Tensor:
        """Latent -> picture about [0, 1], not clamped."""
        ...

    def compensate(self, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
        """Picture with `strength` times the fine detail that the network misses in it, clamped to [0, 1]."""
        ...


SMALLEST = 8
"""px: a picture with a shorter side is enlarged by Lanczos alone, and no model runs. A line of px has nothing that
could be restored, and the networks' padding would outweigh it."""

SLIGHT = 4096**2
"""px of the result: up to this, what Lanczos alone enlarges needs no memory plan. A strip of 1 px by millions does."""

OVERRULED = "The strength mask takes precedence over protect, which was left out."

Show = Callable[[Tensor], None]
"""Is given pictures (B, 3, any size) about [0, 1] on the way: after the encoder, the transformer and the decoder."""


@dataclass(frozen=True)
class Request:
    """What is wanted of one picture, or of `count` pictures of one size. Raises SettingError on settings of another
    type."""

    frame: Frame
    settings: Sequence[UpscaleSettings]
    """One, or several for `variants`."""
    count: int = 1
    check_memory: bool = True
    """False starts even if the estimate does not fit."""

    def __post_init__(self) -> None:
        for one in self.settings:
            check_settings(one)


@dataclass(frozen=True)
class Plan:
    """How a request is carried out: sizes with padding, and memory, None where it was not checked or is slight."""

    frame: Frame
    settings: tuple[UpscaleSettings, ...]
    size: SizePlan
    memory: MemoryPlan | None


@dataclass(frozen=True)
class Variant:
    """A picture (B, 3, H, W) and what it came from: settings, latent (B, C, h, w) before and after the transformer.

    plain: the picture before compensation, which can hide what the model draws. protected: where the model acted less,
    (B, 1, h, w) of the LR picture's size in [0, 1]; None where nothing was to be protected. Latents are empty where no
    model ran.
    """

    settings: UpscaleSettings
    before: Tensor
    after: Tensor
    picture: Tensor
    plain: Tensor
    protected: Tensor | None = None


def check_settings(settings: UpscaleSettings) -> UpscaleSettings:
    """Returns the settings if they are UpscaleSettings, else raises SettingError."""
    if not isinstance(settings, UpscaleSettings):
        raise SettingError(
            f"Settings are UpscaleSettings, for example PRESETS['embedded'], got {type(settings).__name__}."
        )
    return settings


def plan(host: Host, request: Request) -> Plan:
    """Sizes, padding and memory of a request, before its pixels are needed.

    Raises SettingError where the host cannot honour a setting, or where several settings differ in posterior_seed or
    denoise, which come before the transformer; MemoryPlanError where the picture does not fit.
    """
    for one in request.settings:
        host.check(one)
    seeds = {one.posterior_seed for one in request.settings}
    if len(seeds) != 1:
        raise SettingError(
            f"Variants of one picture are encoded once: give settings with the same posterior seed, got {seeds}."
        )
    amounts = {one.denoise for one in request.settings}
    if len(amounts) != 1:
        raise SettingError(
            f"Variants of one picture are encoded once: give settings with the same denoise, got {amounts}."
        )
    frame = request.frame
    size = plan_target(frame.used, frame.target, host.multiple_px, host.latent_factor)
    is_slight = is_too_small(size.source) and size.target.pixels <= SLIGHT
    memory = host.plan_memory(size, request.count) if request.check_memory and not is_slight else None
    return Plan(frame, tuple(request.settings), size, memory)


def run(
    host: Host,
    plan: Plan,
    rgb: Tensor,
    report: Progress,
    alpha: Tensor | None = None,
    region: Tensor | None = None,
    show: Show | None = None,
) -> Framed:
    """Pictures (B, 3, h, w) in [0, 1] of the plan's source size -> large ones, with alpha and region as
    `restore_framed` takes them. With a region of one's own, nothing is protected by itself, and a note says so.

    Raises ImageError where a shape does not fit, SettingError where the plan holds several settings.
    """
    if len(plan.settings) != 1:
        raise SettingError(f"One picture has one result; this plan has {len(plan.settings)} settings. Use variants.")

    [settings] = plan.settings
    overruled = region is not None and settings.protect != "nothing"
    if overruled:
        plan = replace(plan, settings=(replace(settings, protect="nothing"),))
    protected: Tensor | None = None

    def restored(lr: Tensor) -> Tensor:
        nonlocal protected
        one = next(variants(host, plan, lr, report, show=show))
        protected = one.protected
        return one.picture

    framed = restore_framed(rgb, plan.frame, restored, alpha, region)
    notes = (*framed.notes, OVERRULED) if overruled else framed.notes
    return replace(framed, protected=protected, protect=settings.protect, notes=notes)


def variants(
    host: Host,
    plan: Plan,
    lr: Tensor,
    report: Progress,
    decode: bool = True,
    show: Show | None = None,
) -> Iterator[Variant]:
    """LR pictures (B, 3, h, w) of `plan.size.source` px under each of the plan's settings, encoded once; results are
    float32, pictures in [0, 1] and on the device of `lr`.

    Without `decode` the latents are all that is made, and pictures are empty. Pictures with a side below SMALLEST px
    are enlarged by Lanczos. Noise is taken out first, and what is protected is blended with the LR picture by Lanczos.
    Raises ImageError where the picture has another size than the plan.
    """
    size = Size(*lr.shape[-2:])
    if size != plan.size.source:
        raise ImageError(f"The plan is for a picture of {plan.size.source} px, this one has {size} px. Plan it anew.")
    if decode and is_too_small(size):
        yield from _enlarged_alone(plan, lr)
        return
    host.prepare(plan.memory)
    home, lr = lr.device, denoise(lr.to(host.device, torch.float32), plan.settings[0].denoise)
    kinds = {one.protect for one in plan.settings if decode and one.protect != "nothing"}
    masks: dict[str, Tensor] = {kind: protected_mask(lr, kind) for kind in kinds}
    before = encode_picture(host, lr, plan.size, plan.settings[0], report)
    if show:
        show(lr)
    for one in plan.settings:
        after = transform_latent(host, before, one, report)
        if not decode:
            yield Variant(one, before, after, after.new_zeros(0), after.new_zeros(0))
            continue
        if show:
            show(host.decode(_middle(after[:1]), lambda *_: None))
        picture = decode_picture(host, after, lr, plan.size, one, report)
        if show:
            show(picture)
        made = compensate_picture(host, picture, lr, one.compensation, report)
        protected = masks.get(one.protect)
        if protected is not None:
            made = restore_region(made, lr, strength_map(protected))
        yield Variant(one, before, after, made.to(home), picture.to(home), protected)


def is_too_small(source: Size) -> bool:
    """Whether a picture is enlarged by Lanczos alone."""
    return min(source.height, source.width) < SMALLEST


def _enlarged_alone(plan: Plan, lr: Tensor) -> Iterator[Variant]:
    picture = lanczos(lr, plan.size.target).float().clamp(0, 1)
    nothing = picture.new_zeros(0)
    for one in plan.settings:
        yield Variant(one, nothing, nothing, picture, picture)


def encode_picture(host: Host, lr: Tensor, size: SizePlan, settings: UpscaleSettings, report: Progress) -> Tensor:
    """LR picture -> latent of the picture enlarged to its target size and mirrored onwards to its padded size."""
    enlarged = resize(lr, size.target)
    host.condition_on(enlarged)
    return host.encode(pad_reflect(enlarged, size.padded), settings, report)


def transform_latent(host: Host, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
    """Latent of the enlarged picture -> restored latent, whole or in the windows that the settings ask for.

    A latent that was not encoded for this host (stock VAE Encode) is mirrored onwards to what the host's models divide,
    and cropped afterwards. Windows are rounded down to a multiple of that.
    """
    unit = host.multiple_px // host.latent_factor
    height, width = z.shape[-2:]
    if height % unit == width % unit == 0:
        return _transform_padded(host, z, settings, report)
    padded = pad_reflect(z, Size(padded_side(height, unit), padded_side(width, unit)))
    return crop(_transform_padded(host, padded, settings, report), Size(height, width)).contiguous()


def _transform_padded(host: Host, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
    factor = host.latent_factor

    def work(part: Tensor, place: Place) -> Tensor:
        size = Size(part.shape[-2] * factor, part.shape[-1] * factor)
        host.look_at(place.top * factor, place.left * factor, size)
        return host.transform(part, settings, report)

    if not settings.window:
        return work(z, Place(0, 0))
    side = settings.window // host.multiple_px * (host.multiple_px // factor)
    overlap = settings.window_overlap // factor
    return in_placed_windows(z, side, work, overlap, settings.window_weights)


def decode_picture(
    host: Host, z: Tensor, lr: Tensor, size: SizePlan, settings: UpscaleSettings, report: Progress
) -> Tensor:
    """Restored latent -> picture of the target size, with the LR picture's colours and, by fidelity, its own band."""
    return finish(host.decode(z, report), lr, size.target, settings.colour, settings.fidelity)


def compensate_picture(host: Host, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
    """The picture with its missing fine detail; itself at strength 0."""
    return host.compensate(picture, lr, strength, report) if strength else picture


def _middle(z: Tensor) -> Tensor:
    """At most 32x32 px of a latent's middle: quickly decoded, the restored picture at its own size."""
    top, left = (max(0, side - 32) // 4 * 2 for side in z.shape[-2:])
    return z[..., top : top + 32, left : left + 32].contiguous()

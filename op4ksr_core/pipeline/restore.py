"""The one order of work: encode, transform, decode, finish, compensate. A host only says how its models are run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from ..errors import SettingError
from ..geometry import SizePlan
from ..model.windows import in_windows
from ..picture.colour import finish
from ..picture.resample import lanczos, pad_reflect, resize
from ..progress import Progress
from ..settings import UpscaleSettings


class Host(Protocol):
    """Runs one family of models. Pictures are (B, 3, H, W) in [0, 1], latents (B, C, h, w) in the host's own scale,
    both float32. Each phase reports its progress, and may raise from it to cancel."""

    @property
    def latent_factor(self) -> int:
        """Picture px per latent px: 16 or 8."""
        ...

    def encode(self, padded: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        """Picture, its sides multiples of 2 latent_factor -> latent."""
        ...

    def transform(self, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
        """Latent of the enlarged picture -> restored latent: `settings.steps` evaluations from `settings.sigma`."""
        ...

    def decode(self, z: Tensor, report: Progress) -> Tensor:
        """Latent -> picture about [0, 1], not clamped."""
        ...

    def compensate(self, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
        """Picture with `strength` times the fine detail that the network misses in it, clamped to [0, 1]."""
        ...


@dataclass(frozen=True)
class Variant:
    """A picture (B, 3, H, W) and what it came from: settings, latent (B, C, h, w) before and after the transformer.

    plain: the picture before compensation, which can hide what the model draws.
    """

    settings: UpscaleSettings
    before: Tensor
    after: Tensor
    picture: Tensor
    plain: Tensor


def encode_picture(host: Host, lr: Tensor, plan: SizePlan, settings: UpscaleSettings, report: Progress) -> Tensor:
    """LR picture -> latent of the picture enlarged to its target size and padded to whole tokens."""
    return host.encode(pad_reflect(resize(lr, plan.target), plan.padded), settings, report)


def transform_latent(host: Host, z: Tensor, settings: UpscaleSettings, report: Progress) -> Tensor:
    """Latent of the enlarged picture -> restored latent, whole or in the windows that the settings ask for."""
    if not settings.window:
        return host.transform(z, settings, report)
    side = settings.window // (2 * host.latent_factor) * 2
    overlap = settings.window_overlap // host.latent_factor
    work = partial(host.transform, settings=settings, report=report)
    return in_windows(z, side, work, overlap, settings.window_weights)


def decode_picture(
    host: Host, z: Tensor, lr: Tensor, plan: SizePlan, settings: UpscaleSettings, report: Progress
) -> Tensor:
    """Restored latent -> picture of the target size, with the LR picture's colours and, by fidelity, its own band."""
    return finish(host.decode(z, report), lr, plan.target, settings.colour, settings.fidelity)


def compensate_picture(host: Host, picture: Tensor, lr: Tensor, strength: float, report: Progress) -> Tensor:
    """The picture with its missing fine detail; itself at strength 0."""
    return host.compensate(picture, lr, strength, report) if strength else picture


SMALLEST = 8
"""px: a picture with a shorter side is enlarged by Lanczos alone. A line of px has nothing that could be restored, and
the networks' padding would outweigh it."""

Show = Callable[[Tensor], None]
"""Is given pictures (B, 3, any size) about [0, 1] on the way: after the encoder, the transformer and the decoder."""


def restore(
    host: Host, lr: Tensor, plan: SizePlan, settings: UpscaleSettings, report: Progress, show: Show | None = None
) -> Tensor:
    """LR picture (B, 3, h, w) in [0, 1] -> picture of `plan.target`, float32 in [0, 1]."""
    return next(variants(host, lr, plan, [settings], report, show=show)).picture


def variants(
    host: Host,
    lr: Tensor,
    plan: SizePlan,
    settings: Sequence[UpscaleSettings],
    report: Progress,
    decode: bool = True,
    show: Show | None = None,
) -> Iterator[Variant]:
    """The same picture under each of the settings, one after the other, encoded once.

    Without `decode` the latents are all that is made, and pictures are empty. Pictures with a side below SMALLEST px
    are enlarged by Lanczos. Raises SettingError where the settings
    differ in posterior_seed, which the encoder uses.
    """
    if len({one.posterior_seed for one in settings}) != 1:
        raise SettingError("Variants of one picture are encoded once: give settings with the same posterior seed.")
    before = encode_picture(host, lr, plan, settings[0], report)
    if show:
        show(lr)
    for one in settings:
        after = transform_latent(host, before, one, report)
        if not decode:
            yield Variant(one, before, after, after.new_zeros(0), after.new_zeros(0))
            continue
        if show:
            show(host.decode(_middle(after[:1]), lambda *_: None))
        picture = decode_picture(host, after, lr, plan, one, report)
        if show:
            show(picture)
        if min(lr.shape[-2:]) < SMALLEST:
            yield Variant(one, before, after, lanczos(lr, plan.target).clamp(0, 1).to(picture), picture)
            continue
        compensated = compensate_picture(host, picture, lr, one.compensation, report)
        yield Variant(one, before, after, compensated, picture)


def _middle(z: Tensor) -> Tensor:
    """At most 32x32 px of a latent's middle: quickly decoded, the restored picture at its own size."""
    top, left = (max(0, side - 32) // 4 * 2 for side in z.shape[-2:])
    return z[..., top : top + 32, left : left + 32].contiguous()

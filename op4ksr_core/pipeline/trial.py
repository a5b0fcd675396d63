"""A part of a picture, enlarged as it would be within the whole: for tuning before the long run.

The part is cut with a margin, on the models' grid where the scale allows, and the margin is left out of the result.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import SettingError
from ..geometry import Frame, Part, Size
from .composite import Framed

MARGIN = 32
"""px of the small picture that are enlarged around the part, so that its borders have neighbours."""

LEAST = 96
"""px of the small picture: the least side of its middle."""

_REACH = 64
"""px of the small picture within which an edge is moved outwards to the models' grid."""


@dataclass(frozen=True)
class Trial:
    """part: what is wanted, in px of the small picture. frame: the part with its margin, at the scale of the whole.
    shown: the part in px of `frame.target`. whole: the frame of the whole picture."""

    part: Part
    frame: Frame
    shown: Part
    whole: Frame

    def __str__(self) -> str:
        return (
            f"Only the part {self.part} (left, top, width, height) of the picture: {self.shown.size} of "
            f"{self.whole.target} px. It differs a little from the whole result: the models see less around it."
        )


def middle_of(whole: Frame) -> Part:
    """The middle of what a frame uses: a quarter of each side, or LEAST px where that is more and there are so many."""
    width, height = (min(side, max(LEAST, side // 4)) for side in (whole.used.width, whole.used.height))
    left, top = whole.left + (whole.used.width - width) // 2, whole.top + (whole.used.height - height) // 2
    return Part(left, top, width, height)


def plan_trial(whole: Frame, part: Part, unit: int, margin: int = MARGIN) -> Trial:
    """A part of the picture that `whole` enlarges; `unit` px of the result are what the models divide by. `margin`: px
    of the small picture around it, at least.

    Raises SettingError where the part reaches outside the picture, or outside what the frame uses of it.
    """
    if part.left + part.width > whole.source.width or part.top + part.height > whole.source.height:
        raise SettingError(
            f"The region {part} reaches outside the picture of {whole.source} px. Give left,top,width,height within it."
        )
    across = _Axis(whole.left, whole.used.width, whole.target.width, unit).cut(part.left, part.width, margin)
    down = _Axis(whole.top, whole.used.height, whole.target.height, unit).cut(part.top, part.height, margin)
    if across is None or down is None:
        raise SettingError(
            f"The region {part} reaches outside what the crop keeps: {whole.used} px from {whole.left},{whole.top}. "
            "Give left,top,width,height within it."
        )
    used, target = Size(down.length, across.length), Size(down.enlarged, across.enlarged)
    shown = Part(across.shown, down.shown, across.shown_length, down.shown_length)
    frame = Frame(whole.source, down.start, across.start, used, target, target)
    return Trial(part, frame, shown, whole)


def without_margin(made: Framed, trial: Trial) -> Framed:
    """The result of the trial's frame -> that of its part alone, with its part of the LR picture."""
    frame, part = trial.frame, trial.part
    inner = Part(part.left - frame.left, part.top - frame.top, part.width, part.height)
    size = trial.shown.size
    return replace(
        made,
        rgb=_cut(made.rgb, trial.shown),
        alpha=None if made.alpha is None else _cut(made.alpha, trial.shown),
        lr=_cut(made.lr, inner),
        frame=Frame(frame.source, part.top, part.left, part.size, size, size),
        notes=(str(trial), *made.notes),
        protected=None if made.protected is None else _cut(made.protected, inner),
    )


def _cut(x_bchw: Tensor, part: Part) -> Tensor:
    return x_bchw[..., part.top : part.top + part.height, part.left : part.left + part.width].contiguous()


@dataclass(frozen=True)
class _Cut:
    """One axis of a trial: px of the small picture from `start`, what they become, and where the part lies in that."""

    start: int
    length: int
    enlarged: int
    shown: int
    shown_length: int


@dataclass(frozen=True)
class _Axis:
    """One axis of the whole: `used` px of the small picture from `start` become `target` px."""

    start: int
    used: int
    target: int
    unit: int

    def cut(self, start: int, length: int, margin: int) -> _Cut | None:
        """The part from `start` with its margin; None where it reaches outside what is used."""
        first, last = start - self.start, start - self.start + length
        if first < 0 or last > self.used:
            return None
        low = self._on_grid(range(max(0, first - margin), max(0, first - margin - _REACH) - 1, -1))
        ends = range(last + margin, min(self.used, last + margin + _REACH) + 1)
        high = self._on_grid(ends) if ends else self.used
        begin = self._at(low)
        shown, shown_end = self._at(first) - begin, self._at(last) - begin
        return _Cut(self.start + low, high - low, self._at(high) - begin, shown, max(1, shown_end - shown))

    def _at(self, px: int) -> int:
        """Where a px of the small picture begins in the result."""
        return (2 * px * self.target + self.used) // (2 * self.used)

    def _on_grid(self, places: range) -> int:
        """The place whose enlargement is nearest to a multiple of `unit`; the first of several."""

        def distance(px: int) -> int:
            if px == self.used:
                return 0  # the whole picture's own end, mirrored onwards alike
            over = px * self.target % (self.unit * self.used)
            return min(over, self.unit * self.used - over)

        return min(places, key=distance)

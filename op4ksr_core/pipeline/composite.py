"""Around the restoration of a picture: its exact size, its transparency, and the regions to be kept."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..errors import ImageError
from ..geometry import Frame, Size
from ..picture.alpha import enlarge_alpha, fill_hidden
from ..picture.framing import check_region, cut, resize_region, restore_region, set_into
from ..picture.resample import lanczos
from ..settings import Protect
from ..subjects.protect import protected_in_words


@dataclass(frozen=True)
class Framed:
    """rgb (B, 3, H, W) and alpha (B, 1, H, W) or None, of `frame.canvas` px; before: the LR picture by Lanczos.

    lr: the part of the LR picture (B, 3, h, w) that was enlarged; notes: sentences for the user; protected: where the
    model acted less, (B, 1, h, w) in [0, 1], None where nothing was to be protected; protect: what was looked for.
    """

    rgb: Tensor
    alpha: Tensor | None
    lr: Tensor
    frame: Frame
    notes: tuple[str, ...] = ()
    protected: Tensor | None = None
    protect: Protect = "nothing"

    @property
    def told(self) -> tuple[str, ...]:
        """The notes, and how much was protected."""
        if self.protected is None:
            return self.notes
        return *self.notes, protected_in_words(self.protected, self.protect, self.frame.used == self.frame.source)

    @property
    def enlarged(self) -> Tensor:
        """The picture without the bars of a padded canvas: (B, 3, H, W) of `frame.target` px."""
        spare = self.frame.canvas.height - self.frame.target.height, self.frame.canvas.width - self.frame.target.width
        top, left = (one // 2 for one in spare)
        return self.rgb[..., top : top + self.frame.target.height, left : left + self.frame.target.width]

    @cached_property
    def before(self) -> Tensor:
        """The LR picture by Lanczos at the size of `rgb`, in [0, 1]; made when it is first asked for."""
        return set_into(lanczos(self.lr, self.frame.target).clamp(0, 1).to(self.rgb), self.frame)


NOTHING_RESTORED = "The strength mask is 0 everywhere: the picture was only enlarged."


def restore_framed(
    rgb: Tensor,
    frame: Frame,
    restore: Callable[[Tensor], Tensor],
    alpha: Tensor | None = None,
    region: Tensor | None = None,
) -> Framed:
    """Cuts the picture (B, 3, h, w) to its frame, restores it by `restore(lr)` and sets it into its canvas.

    alpha (B, 1, h, w) goes along by a rule of its own; bars of a padded canvas are transparent. region (B or 1, 1, any
    size) in [0, 1] is how much of what the model adds is wanted where. Raises ImageError.
    """
    source = Size(*rgb.shape[-2:])
    if source != frame.source:
        raise ImageError(f"The picture was planned at {frame.source} px and has {source} px. Plan it anew.")
    if alpha is not None and (alpha.shape[-2:] != rgb.shape[-2:] or len(alpha) not in (1, len(rgb))):
        raise ImageError(f"The alpha is {list(alpha.shape)}, the picture {list(rgb.shape)}: they must match.")
    if region is not None:
        check_region(region, len(rgb))
    lr = cut(fill_hidden(rgb, alpha), frame)
    large = restore(lr)
    if region is not None:
        large = restore_region(large, lr, cut(resize_region(region, source), frame))
    if alpha is not None:
        alpha = set_into(enlarge_alpha(cut(alpha, frame), frame.target), frame)
    elif frame.canvas != frame.target:
        alpha = set_into(large.new_ones(len(large), 1, *large.shape[-2:]), frame)
    notes = (NOTHING_RESTORED,) if region is not None and not bool(region.any()) else ()
    return Framed(set_into(large, frame), alpha, lr, frame, notes)

"""Where faces and lettering are, as one mask: there the model is to act less."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..declared import check_choice
from ..settings import PROTECTS, Protect
from .faces import find_faces
from .lettering import find_lettering

KEPT = 0.6
"""How much of what the model adds is left out where something is protected."""

_LIKELY = 0.5  # probability from which a place counts as text
_AROUND = 1.3  # times the box: an ellipse that holds the whole face, chin and forehead too
_EDGE = 0.15  # of the ellipse's radius, over which it fades


def protected_mask(images: Tensor, protect: Protect) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] -> (B, 1, H, W), 1 on what is to be protected and 0 elsewhere, with soft edges.

    Raises SettingError, ImageError.
    """
    check_choice("protect", protect, PROTECTS)
    masks = [_mask_of(image.float().cpu(), protect) for image in images]
    return torch.stack(masks)[:, None].to(images.device)


def strength_map(mask: Tensor) -> Tensor:
    """How much of what the model adds is wanted, [0, 1], from what is protected."""
    return 1 - KEPT * mask


def protected_in_words(mask: Tensor, protect: Protect, whole: bool = True) -> str:
    """A sentence on how much of the pictures, or of a part of them, is protected, from `protected_mask` (B, 1, H, W),
    or that nothing is."""
    what = "faces and lettering" if protect == "both" else protect
    share = float(mask.float().mean())
    if share == 0:
        return f"Protect found no {what.replace(' and ', ' or ')}: nothing was protected."
    amount = "less than 1%" if share < 0.01 else f"{share:.0%}"
    of_what = ("picture" if whole else "part") + ("" if len(mask) == 1 else "s")
    return f"Protected {what}: {amount} of the {of_what}."


def _mask_of(image: Tensor, protect: Protect) -> Tensor:
    mask = torch.zeros(image.shape[-2:])
    if protect in ("faces", "both"):
        mask = torch.maximum(mask, face_mask(find_faces(image), mask.shape))
    if protect in ("lettering", "both"):
        mask = torch.maximum(mask, lettering_mask(find_lettering(image)))
    return mask


def face_mask(boxes: Tensor, shape: torch.Size) -> Tensor:
    """Boxes (n, 5) in px -> ellipses (H, W) in [0, 1]."""
    y, x = torch.arange(shape[0])[:, None] + 0.5, torch.arange(shape[1])[None] + 0.5
    mask = torch.zeros(shape)
    for left, top, right, bottom, _ in boxes.tolist():
        across, down = _AROUND * max(right - left, 1) / 2, _AROUND * max(bottom - top, 1) / 2
        radius = (((x - (left + right) / 2) / across).square() + ((y - (top + bottom) / 2) / down).square()).sqrt()
        mask = torch.maximum(mask, ((1 + _EDGE - radius) / _EDGE).clamp(0, 1))
    return mask


def lettering_mask(likely: Tensor) -> Tensor:
    """Probabilities (H, W) -> places of text, 4 px wider, with soft edges of 4 px."""
    places = (likely > _LIKELY).float()[None, None]
    wider = F.max_pool2d(places, 9, 1, 4)
    return F.avg_pool2d(wider, 9, 1, 4, count_include_pad=False)[0, 0]

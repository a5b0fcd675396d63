"""Faces, by the three small networks of MTCNN (Zhang et al., arXiv 1604.02878), in plain torch.

The first looks at the whole picture at many sizes, the second and the third at what the one before proposes. The
weights are those of `facenet-pytorch` (MIT licence), see assets/NOTICE.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.bundled import bundled_weights
from ..paths import FACES
from ..picture.checks import check_image

LEAST = 14
"""px: the smallest face that is looked for."""

_LONGEST = 1280  # px: larger pictures are looked at in this size
_RATIO = 0.709  # from one size to the next, about the square root of a half
_CELL, _STRIDE = 12, 2  # px that a place of the first network sees, and from one to the next
_CERTAIN = (0.6, 0.7, 0.9)  # probability that each network must give
_KEPT = 600  # proposals of one size that go on
_REFINED, _JUDGED = 24, 48  # px: what the second and third network see


@cache
def _weights() -> dict[str, Tensor]:
    return bundled_weights(FACES)


def find_faces(image_chw: Tensor) -> Tensor:
    """(3, H, W) in [0, 1] -> boxes (n, 5): left, top, right, bottom in px of the picture, and the probability.

    The surest comes first; faces of LEAST px and more are looked for, or of a 90th of the long side in pictures of more
    than 1280 px. Raises ImageError.
    """
    check_image(image_chw[None], "The picture to find faces in")
    height, width = image_chw.shape[-2:]
    shrink = min(1.0, _LONGEST / max(height, width))
    x = (image_chw[None].float() - 0.5) * 2
    if shrink < 1:
        x = _resized(x, round(height * shrink), round(width * shrink))
    boxes = _refined(x, _proposed(x))
    boxes[:, :4] /= shrink
    return boxes


def _proposed(x: Tensor) -> Tensor:
    """Boxes (n, 5) that the first network finds at any size."""
    height, width = x.shape[-2:]
    scale, found = _CELL / LEAST, []
    while min(height, width) * scale >= _CELL:
        small = _resized(x, int(height * scale + 1), int(width * scale + 1))
        probability, offsets = _first(small)
        rows, columns = torch.nonzero(probability > _CERTAIN[0], as_tuple=True)
        corner = torch.stack([columns, rows], 1) * _STRIDE
        boxes = torch.cat([corner, corner + _CELL], 1) / scale
        found.append(_suppressed(boxes, probability[rows, columns], offsets[:, rows, columns].T, 0.5)[:_KEPT])
        scale *= _RATIO
    return torch.cat(found) if found else x.new_zeros(0, 5)


def _refined(x: Tensor, boxes: Tensor) -> Tensor:
    """The proposals that the second and the third network keep, moved to where the face is."""
    for network, side, certain in ((_second, _REFINED, _CERTAIN[1]), (_third, _JUDGED, _CERTAIN[2])):
        if len(boxes) == 0:
            break
        square = _squared(boxes[:, :4])
        parts = torch.cat([_cut(x, box, side) for box in square.tolist()])
        probability, offsets = network(parts)
        kept = probability > certain
        boxes = _suppressed(square[kept], probability[kept], offsets[kept], 0.6)
    return boxes


def _suppressed(boxes: Tensor, probability: Tensor, offsets: Tensor, most: float) -> Tensor:
    """Boxes (n, 4) moved by their offsets (n, 4) in shares of their sides, without those that overlap a surer one by
    more than `most` of both: (m, 5), the surest first."""
    order = probability.argsort(descending=True)[: 4 * _KEPT]
    boxes, probability, offsets = boxes[order], probability[order], offsets[order]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = boxes + offsets * sides
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for n in range(len(boxes)):
        if kept[n]:
            kept[n + 1 :] &= _overlap(boxes[n], boxes[n + 1 :]) <= most
    return torch.cat([boxes[kept], probability[kept, None]], 1)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Area that a box (4) shares with others (n, 4), over the area of both."""
    inner = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return inner / (areas - inner).clamp(min=1e-6)


def _squared(boxes: Tensor) -> Tensor:
    """Squares of the longer side about the same middle, in whole px."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([middle - half, middle + half], 1).round()


def _cut(x: Tensor, box: list[float], side: int) -> Tensor:
    """The part of the picture inside the box, black beyond its borders, at `side` px."""
    left, top, right, bottom = (int(value) for value in box)
    height, width = x.shape[-2:]
    part = x[..., max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    around = max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height)
    return _resized(F.pad(part, around, value=-1.0), side, side)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    """By the mean over areas, as the networks were trained."""
    return F.interpolate(x, size=(max(1, height), max(1, width)), mode="area")


def _layer(x: Tensor, name: str) -> Tensor:
    """A convolution or linear layer and its PReLU."""
    w = _weights()
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    x = F.conv2d(x, weight, bias) if weight.ndim == 4 else F.linear(x, weight, bias)
    return F.prelu(x, w[f"{name}.slope"])


def _outputs(x: Tensor, name: str, apply: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Probability of a face, and offsets of the box."""
    w = _weights()
    is_face = apply(x, w[f"{name}.face.weight"], w[f"{name}.face.bias"]).softmax(1)[:, 1]
    return is_face, apply(x, w[f"{name}.box.weight"], w[f"{name}.box.bias"])


def _flat(x: Tensor) -> Tensor:
    """Maps as vectors, column by column: the networks come from a library that keeps pictures transposed."""
    return x.permute(0, 3, 2, 1).flatten(1)


def _first(x: Tensor) -> tuple[Tensor, Tensor]:
    """(1, 3, h, w) -> probability (r, c), offsets (4, r, c)."""
    x = F.max_pool2d(_layer(x, "first.1"), 2, ceil_mode=True)
    probability, offsets = _outputs(_layer(_layer(x, "first.2"), "first.3"), "first", F.conv2d)
    return probability[0], offsets[0]


def _second(x: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3, 24, 24) -> probability (n), offsets (n, 4)."""
    x = F.max_pool2d(_layer(x, "second.1"), 3, 2, ceil_mode=True)
    x = F.max_pool2d(_layer(x, "second.2"), 3, 2, ceil_mode=True)
    return _outputs(_layer(_flat(_layer(x, "second.3")), "second.4"), "second", F.linear)


def _third(x: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3, 48, 48) -> probability (n), offsets (n, 4)."""
    x = F.max_pool2d(_layer(x, "third.1"), 3, 2, ceil_mode=True)
    x = F.max_pool2d(_layer(x, "third.2"), 3, 2, ceil_mode=True)
    x = F.max_pool2d(_layer(x, "third.3"), 2, ceil_mode=True)
    return _outputs(_layer(_flat(_layer(x, "third.4")), "third.5"), "third", F.linear)

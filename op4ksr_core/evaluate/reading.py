"""How well lettering survives: the words of the truth, read at the same places in the result.

A recogniser finds the places of words and lines in the ground truth and reads them there and in the result. What it
reads in the truth is taken for right, so its own mistakes do not count, and no annotation is wanted. Upper and lower
case differ.
"""

from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import NotMeasurable, SettingError

Place = tuple[int, int, int, int]
"""Left, top, right and bottom of a word, px."""

LANGUAGES = ("en",)
"""What EasyOCR is asked to read."""


class Recogniser(Protocol):
    """What finds and reads words. Pictures are (1, 3, H, W) in [0, 1]."""

    def find(self, picture: Tensor) -> list[Place]:
        """The places of words."""

    def read(self, picture: Tensor, places: list[Place]) -> list[str]:
        """What stands at each place; an empty text where nothing can be read."""


def accuracy(picture: Tensor, truth: Tensor, recogniser: Recogniser | None = None) -> float:
    """ACC: the share of words that are read as in the truth, 0 to 1. Raises NotMeasurable where the truth has none."""
    pairs = _readings(picture, truth, recogniser or easyocr_recogniser())
    return sum(one == other for one, other in pairs) / len(pairs)


def ned(picture: Tensor, truth: Tensor, recogniser: Recogniser | None = None) -> float:
    """NED: the mean over words of `similarity`, 0 to 1, as ICDAR 2019's challenges count it (arXiv 1909.07145). Raises
    NotMeasurable where the truth has no words."""
    pairs = _readings(picture, truth, recogniser or easyocr_recogniser())
    return sum(similarity(one, other) for one, other in pairs) / len(pairs)


def similarity(one: str, other: str) -> float:
    """1 - edit distance / length of the longer text; 1 for two empty ones."""
    from torchmetrics.functional.text import edit_distance

    longer = max(len(one), len(other))
    if not longer:
        return 1.0
    return 1 - float(edit_distance([one], [other], reduction="sum")) / longer


def _readings(picture: Tensor, truth: Tensor, recogniser: Recogniser) -> list[tuple[str, str]]:
    """(the result's, the truth's) text of each place where the truth can be read."""
    places = recogniser.find(truth)
    texts = zip(recogniser.read(picture, places), recogniser.read(truth, places), strict=True)
    pairs = [(one, other) for one, other in texts if other]
    if not pairs:
        raise NotMeasurable("no words were found in the ground truth")
    return pairs


class EasyOcr:
    """EasyOCR's CRAFT detector and its recogniser, on the CPU. Its weights are downloaded at first use, or lie in
    the folder `model` of `EASYOCR_MODULE_PATH`."""

    def __init__(self) -> None:
        import easyocr

        try:
            self.reader: Any = easyocr.Reader(list(LANGUAGES), gpu=False, verbose=False)
        except Exception as error:  # no network, no such weights, another version: whatever it is, it is reported
            raise SettingError(f"EasyOCR could not start ({type(error).__name__}: {error}).") from error

    def find(self, picture: Tensor) -> list[Place]:
        """Places of level words; tilted ones by the box around them."""
        level, tilted = self.reader.detect(_as_array(picture))
        places = [(left, top, right, bottom) for left, right, top, bottom in level[0]]
        for corners in tilted[0]:
            x, y = zip(*corners, strict=True)
            places.append((min(x), min(y), max(x), max(y)))
        height, width = picture.shape[-2:]
        inside = [(max(0, int(a)), max(0, int(b)), min(width, int(c)), min(height, int(d))) for a, b, c, d in places]
        return [place for place in inside if place[0] < place[2] and place[1] < place[3]]

    def read(self, picture: Tensor, places: list[Place]) -> list[str]:
        grey = _as_array(picture)
        return [self._text(grey[top:bottom, left:right]) for left, top, right, bottom in places]

    def _text(self, part: np.ndarray) -> str:
        found = self.reader.recognize(np.ascontiguousarray(part), detail=0)
        return str(found[0]) if found else ""


def _as_array(picture: Tensor) -> np.ndarray:
    """(H, W, 3), 8 bits."""
    bytes_ = (picture[0] * 255).round().clamp(0, 255).to(torch.uint8)
    return bytes_.permute(1, 2, 0).cpu().numpy()


@cache
def easyocr_recogniser() -> EasyOcr:
    """EasyOCR, loaded once. Raises SettingError where it cannot start."""
    return EasyOcr()

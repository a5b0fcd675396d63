"""ACC and NED by a recogniser that the test gives: what is counted, and what is said where none is installed."""

import pytest
import torch

from op4ksr_core.errors import NotMeasurable, SettingError
from op4ksr_core.evaluate import metrics
from op4ksr_core.evaluate.metrics import METRICS, find_metrics
from op4ksr_core.evaluate.reading import accuracy, ned, similarity

PLACES = [(0, 0, 8, 4), (8, 0, 16, 4), (0, 4, 8, 8)]


class Letters:
    """Reads a place by its mean brightness: a word of a list by each tenth, so that a picture decides what is read."""

    words = ("", "kitten", "sitting", "4K", "4k")

    def find(self, picture):
        return PLACES if float(picture.max()) > 0 else []

    def read(self, picture, places):
        means = [float(picture[..., top:bottom, left:right].mean()) for left, top, right, bottom in places]
        return [self.words[round(10 * mean)] for mean in means]


def written(*numbers):
    """A picture whose places hold the words of these numbers."""
    picture = torch.zeros(1, 3, 8, 16)
    for (left, top, right, bottom), number in zip(PLACES, numbers, strict=True):
        picture[..., top:bottom, left:right] = number / 10
    return picture


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [("kitten", "sitting", 1 - 3 / 7), ("", "abc", 0.0), ("", "", 1.0), ("4K", "4K", 1.0), ("flaw", "lawn", 0.5)],
)
def test_ned_is_one_minus_the_edit_distance_over_the_longer_length(one, other, value):
    """kitten to sitting takes three edits (Wagner and Fischer 1974), and the longer word has seven letters."""
    assert similarity(one, other) == pytest.approx(value)
    assert similarity(other, one) == pytest.approx(value)


def test_acc_is_the_share_of_words_and_ned_their_mean():
    truth, result = written(2, 3, 1), written(1, 4, 1)
    assert accuracy(result, truth, Letters()) == pytest.approx(1 / 3)
    assert ned(result, truth, Letters()) == pytest.approx((1 - 3 / 7 + 0.5 + 1) / 3)
    assert accuracy(truth, truth, Letters()) == ned(truth, truth, Letters()) == 1


def test_what_the_truth_cannot_be_read_at_does_not_count():
    assert accuracy(written(1, 1, 1), written(1, 0, 0), Letters()) == 1
    assert ned(written(0, 1, 1), written(1, 0, 0), Letters()) == 0


def test_a_truth_without_words_is_not_measured():
    for measure in (accuracy, ned):
        with pytest.raises(NotMeasurable):
            measure(written(1, 1, 1), torch.zeros(1, 3, 8, 16), Letters())


def test_without_a_recogniser_the_metric_says_what_to_install(monkeypatch):
    monkeypatch.setattr(metrics, "is_installed", lambda library: library != "easyocr")
    with pytest.raises(SettingError, match=r"ocr_acc.*easyocr.*pip install 'op4ksr\[ocr\]'"):
        find_metrics(["ocr_acc", "ocr_ned"], with_truth=True)
    chosen, absent = find_metrics(["psnr", "ocr_acc"], with_truth=True)
    assert [one.name for one in chosen] == ["psnr"] and set(absent) == {"ocr_acc"}


def test_both_are_of_whole_pairs_and_need_the_download_of_a_recogniser():
    for name in ("ocr_acc", "ocr_ned"):
        assert METRICS[name].kind == "pair" and METRICS[name].higher and not METRICS[name].tiled
        assert name not in metrics.LOCAL

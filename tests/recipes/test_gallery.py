"""The gallery: two made-up photographs become pictures and a page, and what may not be shown is refused."""

import pytest
import torch
from PIL import Image
from places import ROOT

from op4ksr_core.picture.convert import as_picture
from recipes.gallery import SIDE, GalleryError, Shown, credits, cut, make, page, worst

HEAD = "file\tpx\tlicence\tsource\tcredit\n"
FREE, OTHER = "casa-mila", "canyon-wren"
"""Names of held-out photographs; the pictures here are made up."""


@pytest.fixture
def photos(tmp_path):
    noise = torch.rand(3, 10, 14, generator=torch.Generator().manual_seed(0))
    for name in (FREE, OTHER):
        as_picture(noise).resize((140, 100), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.jpg")
    rows = f'{FREE}.jpg\t140x100\tCC0\ta/b: c.jpg\tCredit: "One" by Ann\n{OTHER}.jpg\t140x100\tCC-BY-2.0\td\tBen\n'
    (tmp_path / "LIST.tsv").write_text(HEAD + rows)
    return tmp_path


def test_pictures_and_a_page_with_credits(photos, tmp_path):
    to = tmp_path / "gallery"
    to.mkdir()
    shown = [Shown("Sky and blur", FREE, (40, 30)), Shown("Night", OTHER)]
    made = make(photos, to, shown, side=64)
    text = page(made)
    assert (
        '"One" by Ann (CC0; a/b: c.jpg)' in text
        and "Ben ([CC-BY-2.0](https://creativecommons.org/licenses/by/2.0/); d)" in text
    )
    assert "(gallery/sky-and-blur.jpg)" in text
    with Image.open(to / "sky-and-blur.jpg") as first, Image.open(to / "night.jpg") as second:
        assert first.size == second.size == (136, 92)
        halves = [first.crop((left, 28, left + 64, 92)).tobytes() for left in (0, 72)]
        assert halves[0] != halves[1] and first.tobytes() != second.tobytes()
    assert all(-1 <= one.hf_correlation <= 1 for one in made)


@pytest.mark.parametrize(
    ("shown", "licence", "named"),
    [
        (Shown("Night", FREE), "CC-BY-4.0 or CC0", "CC-BY-4.0 or CC0"),
        (Shown("Night", "twigonometry"), "CC0", "twigonometry"),
        (Shown("Night", "unlisted"), "CC0", "unlisted"),
    ],
    ids=["licence", "trained on", "not listed"],
)
def test_what_may_not_be_shown_is_refused(photos, shown, licence, named):
    lines = [f"{name}.jpg\t140x100\t{licence}\ta\tb\n" for name in (FREE, "twigonometry")]
    (photos / "LIST.tsv").write_text(HEAD + "".join(lines))
    with pytest.raises(GalleryError, match=named):
        make(photos, photos, [shown])


def test_a_cut_outside_the_photograph_is_refused():
    with pytest.raises(GalleryError, match="90, 0"):
        cut(Image.new("RGB", (140, 100)), Shown("Night", FREE, (90, 0)), 64)


def test_the_worst_are_picked_by_their_figures(photos):
    rows = {
        FREE: {"hf_correlation": 0.5, "soft": 9.0},
        OTHER: {"hf_correlation": 0.1, "soft": None},
        "unlisted": {"hf_correlation": -1.0, "soft": 99.0},
    }
    found = worst({"rows": {"the model": {"pictures": rows}}}, credits(photos))
    assert [one.name for one in found] == [OTHER, FREE]


def test_the_page_shows_the_worst_of_the_measured():
    text = (ROOT / "docs" / "gallery.md").read_text()
    pictures = sorted((ROOT / "docs" / "gallery").glob("*.jpg"))
    assert len(pictures) == text.count("\n## ") == 12
    assert sum(path.stat().st_size for path in pictures) < 2_000_000
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width == 2 * SIDE + 8
    assert "## Worst, right detail" in text and "## Worst, soft areas" in text

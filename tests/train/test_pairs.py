"""Training pairs: which pictures, which crops, and that they depend on nothing but their number."""

import logging
import os
import re
import shutil

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from op4ksr_core.app import cli
from op4ksr_core.errors import ImageError, SettingError
from op4ksr_core.files import find_pictures
from op4ksr_core.geometry import Size
from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.picture.write import write_picture
from op4ksr_core.train.data import PairDataset, pair_sheet, usable
from op4ksr_core.train.presets import PRESETS


@pytest.fixture
def folder(tmp_path, photo):
    """Four pictures that hold a 64-px crop, in a folder and one below it."""
    (tmp_path / "deep").mkdir()
    for n in range(4):
        place = tmp_path / ("deep" if n % 2 else ".") / f"{n}.png"
        write_picture(place, Picture(photo[..., 90 * n : 90 * n + 80, :100]))
    return tmp_path


def dataset(folder, length=40, **changes):
    options = {"crop": 64, "scale": 4, "degradation": "omgsr", "seed": 0, "length": length} | changes
    return PairDataset(usable([one.path for one in find_pictures([folder])], 64), **options)


def test_folders_files_and_lists(folder):
    assert [p.place.name for p in find_pictures([folder])] == ["0.png", "2.png", "1.png", "3.png"]
    (folder / "some.txt").write_text("2.png\n\ndeep/1.png\n")
    assert [p.place.name for p in find_pictures([folder / "some.txt", folder / "0.png"])] == ["2.png", "1.png", "0.png"]
    (folder / "empty").mkdir()
    for given in (folder / "empty", folder / "no"):
        with pytest.raises(SettingError, match=re.escape(str(given))):
            find_pictures([given])


def test_small_and_broken_pictures_are_told_and_left_out(folder, photo, caplog):
    (folder / "broken.png").write_bytes(b"no picture")
    write_picture(folder / "small.png", Picture(photo[..., :40, :90]))
    with caplog.at_level(logging.WARNING, "op4ksr"):
        assert len(usable([one.path for one in find_pictures([folder])], 64)) == 4
    assert "1 of 6 pictures are left out, unreadable" in caplog.text and "broken.png" in caplog.text
    assert "smaller than the crop of 64 px" in caplog.text and "small.png" in caplog.text
    with pytest.raises(SettingError, match="5 .*300 px, 1 are unreadable"):
        usable([one.path for one in find_pictures([folder])], 300)


def test_grey_pictures_are_told_and_used(folder, caplog):
    Image.new("L", (90, 90), 128).save(folder / "grey.png")
    with caplog.at_level(logging.WARNING, "op4ksr"):
        paths = usable([one.path for one in find_pictures([folder])], 64)
    assert len(paths) == 5 and "1 of 5 pictures are grey, and teach no colour" in caplog.text
    pairs = PairDataset([folder / "grey.png"], 64, 4, "embedded", 0, 1)
    assert pairs[0]["hr"].shape == (3, 64, 64)


def test_a_sample_depends_on_seed_and_number_alone(folder):
    pairs = dataset(folder)
    again, other = dataset(folder, length=90), dataset(folder, seed=1)
    for n in (0, 7, 39):
        assert torch.equal(pairs[n]["hr"], again[n]["hr"]) and torch.equal(pairs[n]["lr"], again[n]["lr"])
        assert not torch.equal(pairs[n]["lr"], other[n]["lr"])
    assert pairs[3]["hr"].shape == (3, 64, 64) and pairs[3]["lr"].shape == (3, 16, 16)
    assert len({pairs[n]["seed"] for n in range(40)}) == 40


def test_workers_change_nothing(folder):
    alone, shared = (list(DataLoader(dataset(folder, 12), 3, num_workers=n)) for n in (0, 2))
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a["hr"], b["hr"]) and torch.equal(a["lr"], b["lr"]) and torch.equal(a["seed"], b["seed"])


def test_every_picture_comes_once_before_any_comes_again(folder, photo):
    pairs = dataset(folder)
    for n, path in enumerate(pairs.paths):
        write_picture(path, Picture(torch.full((1, 3, 70, 70), n / 10)))
    seen = [round(float(pairs[n]["hr"].mean()) * 10) for n in range(40)]
    for epoch in range(10):
        assert sorted(seen[4 * epoch : 4 * epoch + 4]) == [0, 1, 2, 3]
    assert len({tuple(seen[4 * epoch : 4 * epoch + 4]) for epoch in range(10)}) > 3


def test_the_low_picture_is_the_high_one_degraded(folder):
    for n in range(6):
        pair = dataset(folder, degradation="embedded")[n]
        small = resize(pair["hr"][None], Size(16, 16))[0]
        far = resize(dataset(folder)[n + 6]["hr"][None], Size(16, 16))[0]
        assert float((pair["lr"] - small).abs().mean()) < 0.5 * float((pair["lr"] - far).abs().mean())


def test_a_picture_that_breaks_later_is_told_and_replaced(folder, caplog):
    pairs = dataset(folder)
    broken = pairs.paths[1]
    broken.write_bytes(b"gone")
    with caplog.at_level(logging.WARNING, "op4ksr"):
        assert all(pair["hr"].shape == (3, 64, 64) for pair in (pairs[n] for n in range(4)))
    assert broken.name in caplog.text and "takes its place" in caplog.text
    for path in pairs.paths:
        path.write_bytes(b"gone")
    with pytest.raises(ImageError, match=rf"\b4\b.*{re.escape(pairs.paths[0].name)}"):
        pairs[0]


def test_a_sheet_of_pairs(folder, capsys):
    assert pair_sheet(dataset(folder), 3, 100).size == (3 * 108 + 8, 2 * 108 + 8)
    assert (
        cli.main(["pairs", str(folder), "-o", str(folder / "new" / "sheet.png"), "--crop", "64", "--count", "5"]) == 0
    )
    assert "5 pairs of 4 pictures" in capsys.readouterr().out
    assert Image.open(folder / "new" / "sheet.png").width == 5 * 264 + 8
    assert cli.main(["pairs", str(folder), "-o", str(folder / "s.png"), "--degradation", "x"]) == 2


@pytest.mark.parametrize(
    ("preset", "degradation"), [("embedded", "embedded"), ("op4ksr", "omgsr"), ("tvt-decoder", "none")]
)
def test_a_sheet_shows_the_degradation_of_the_preset(folder, tmp_path_factory, capsys, preset, degradation):
    assert PRESETS[preset].degradation == degradation
    shown = []
    for choice in (["--preset", preset], ["--degradation", degradation]):
        sheet = tmp_path_factory.mktemp("sheet") / "sheet.png"
        assert cli.main(["pairs", str(folder), "-o", str(sheet), "--crop", "64", "--count", "2", *choice]) == 0
        shown.append(sheet.read_bytes())
    assert shown[0] == shown[1] and f"degradation {degradation}" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_a_pipe_is_named_and_not_opened(folder, caplog):
    os.mkfifo(folder / "pipe.png")
    with caplog.at_level(logging.WARNING, "op4ksr"):
        assert len(usable([one.path for one in find_pictures([folder])], 64)) == 4
    assert "pipe.png" in caplog.text
    with pytest.raises(SettingError, match=r"pipe\.png"):
        usable([folder / "pipe.png"], 64)


def test_a_linked_folder_is_followed_once(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    shutil.copy(folder / "0.png", other / "9.png")
    (folder / "linked").symlink_to(other)
    (folder / "again").symlink_to(folder / "deep")
    assert [one.path.name for one in find_pictures([folder])] == ["0.png", "2.png", "1.png", "3.png", "9.png"]


def test_a_sheet_of_steps(folder):
    sheet = folder / "steps.png"
    words = ["--crop", "64", "--count", "2", "--steps", "--degradation", "real-esrgan"]
    assert cli.main(["pairs", str(folder), "-o", str(sheet), *words]) == 0
    picture = Image.open(sheet)
    assert picture.height == 2 * 220 + 8 and picture.width >= 9 * 200


@pytest.mark.long
def test_a_mix_of_crops_has_rectangles_and_keeps_to_its_sides(tmp_path, photo):
    for n, (height, width) in enumerate(((512, 300), (140, 512), (512, 512))):
        write_picture(tmp_path / f"{n}.png", Picture(photo[..., :height, :width]))
    paths = usable([one.path for one in find_pictures([tmp_path])], 128)
    pairs = PairDataset(paths, 512, 4, "embedded", 0, 60, least_crop=128)
    sizes = {tuple(pairs[n]["hr"].shape[1:]) for n in range(60)}
    assert {(128, 128), (256, 256), (512, 512)} <= sizes and {(512, 256), (256, 512)} & sizes
    assert all(side % 64 == 0 and 128 <= side <= 512 for size in sizes for side in size)
    assert pairs[3]["lr"].shape[1:] == tuple(side // 4 for side in pairs[3]["hr"].shape[1:])


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_scale_is_the_trainings_own(folder, scale):
    pair = dataset(folder, scale=scale)[0]
    assert pair["lr"].shape[-1] * scale == pair["hr"].shape[-1]


def test_a_scale_that_a_degradation_cannot_have_is_refused(folder):
    with pytest.raises(SettingError, match="none.*scale.*got 2"):
        dataset(folder, scale=2, degradation="none")

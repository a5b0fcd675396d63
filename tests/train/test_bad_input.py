"""Bad input of a training: an error names it before any work, and no clock stops it."""

import time

import pytest
from trainings import log_of

from op4ksr_core.app import cli
from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.write import write_picture

WORDS = "--device cpu --crop 96 --rank 2 --steps 2 --batch 3 --per-device 1".split()


@pytest.fixture
def photo_file(tmp_path, photo):
    write_picture(tmp_path / "a.png", Picture(photo[..., :120, :120]))
    return tmp_path / "a.png"


@pytest.mark.long
@pytest.mark.parametrize(("name", "text"), [("empty.txt", ""), ("blank.lst", "\n \n"), ("empty.csv", "path\n")])
def test_an_empty_list_is_named(tmp_path, capsys, name, text):
    (tmp_path / name).write_text(text)
    assert cli.main(["train", str(tmp_path / name), "-o", str(tmp_path / "run"), *WORDS]) == 2
    assert name in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_crop_larger_than_all_pictures_is_named(photo_file, tmp_path, capsys):
    words = ["train", str(photo_file), "-o", str(tmp_path / "run"), *WORDS, "--crop", "128"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "128 px" in said and "a.png" in said and not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_list_of_one_is_trained_on_and_a_clock_that_goes_back_stops_nothing(photo_file, tmp_path, monkeypatch):
    """Every look at the clock is an hour earlier; the minutes are counted all the same."""
    (tmp_path / "one.txt").write_text("a.png\n")
    now, words = [time.time()], ["train", str(tmp_path / "one.txt"), "-o", str(tmp_path / "run"), *WORDS]

    def back():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", back)
    assert cli.main([*words, "--minutes", "1e-9"]) == 0
    assert [line["step"] for line in log_of(tmp_path / "run")] == [1]
    assert cli.main(words) == 0
    log = log_of(tmp_path / "run")
    assert [line["step"] for line in log] == [1, 2] and all(line["images_per_second"] > 0 for line in log)

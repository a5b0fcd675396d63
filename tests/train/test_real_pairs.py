"""Real pairs and tables as data: partners by name or by row, at the right size, cut at one place."""

import json
import logging

import pytest
import torch
from PIL import Image
from trainings import log_of

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError
from op4ksr_core.geometry import Size
from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.resample import resize
from op4ksr_core.picture.write import write_picture
from op4ksr_core.train import data as data_module
from op4ksr_core.train.data import PairDataset, usable
from op4ksr_core.train.listing import Pictures, list_pictures, usable_pictures


@pytest.fixture
def places(tmp_path, photo):
    """`hr` with three pictures, one of them in a folder below, and `lr` with theirs, named in three ways."""
    for n, (large, small) in enumerate((("a.png", "a.png"), ("b.png", "bx4.jpg"), ("deep/c.png", "deep/c.webp"))):
        hr = photo[..., 40 * n : 40 * n + 120, 30 * n : 30 * n + 140]
        for path, picture in ((tmp_path / "hr" / large, hr), (tmp_path / "lr" / small, resize(hr, Size(30, 35)))):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_picture(path, Picture(picture.clamp(0, 1)))
    return tmp_path


def test_partners_are_found_by_name(places):
    found = list_pictures([places / "hr"], places / "lr")
    assert [path.name for path in found.large] == ["a.png", "b.png", "c.png"]
    assert [path.name for path in found.small] == ["a.png", "bx4.jpg", "c.webp"]
    (places / "lr" / "bx4.jpg").unlink()
    with pytest.raises(SettingError, match=r"1 of 3 .*lr: b\.png"):
        list_pictures([places / "hr"], places / "lr")
    Image.new("RGB", (35, 30)).save(places / "lr" / "ax4.png")
    with pytest.raises(SettingError, match=r"a\.png and .*ax4\.png"):
        list_pictures([places / "hr"], places / "lr")


def test_a_size_that_does_not_match_is_named(places):
    Image.new("RGB", (34, 30)).save(places / "lr" / "a.png")
    with pytest.raises(SettingError, match=r"1 of 3 .*lr/a\.png is 34x30 px .*hr/a\.png is 140x120"):
        usable_pictures(list_pictures([places / "hr"], places / "lr"), 96, 4)


def test_both_pictures_are_cut_at_one_place(places):
    found = usable_pictures(list_pictures([places / "hr"], places / "lr"), 96, 4)
    kept = Pictures([found.large[0]], [found.small[0]])  # the others lost something to JPEG and WebP
    data = PairDataset(kept.large, 96, 4, "omgsr", 0, 12, small=kept.small)
    for n in range(12):
        sample = data[n]
        assert sample["hr"].shape == (3, 96, 96) and sample["lr"].shape == (3, 24, 24)
        made = resize(sample["hr"][None], Size(24, 24))[0]
        inner = slice(3, -3)  # at the border the whole picture knew more than the crop
        assert float((made - sample["lr"]).abs()[:, inner, inner].max()) < 0.02
    assert len({float(data[n]["hr"].sum()) for n in range(12)}) > 6


def test_tables_name_pictures_and_partners(places):
    rows = [("hr/a.png", "lr/a.png"), ("hr/deep/c.png", "lr/deep/c.webp")]
    (places / "list.csv").write_text("path,lr\n" + "".join(f"{a},{b}\n" for a, b in rows))
    found = list_pictures([places / "list.csv"])
    assert found.large == [places / a for a, _ in rows] and found.small == [places / b for _, b in rows]
    (places / "list.jsonl").write_text("".join(json.dumps({"path": a}) + "\n" for a, _ in rows))
    assert list_pictures([places / "list.jsonl"]) == Pictures(found.large, [])
    with pytest.raises(SettingError, match=r"1 of 3 .*lr.*b\.png"):
        list_pictures([places / "list.csv", places / "hr" / "b.png"])
    with pytest.raises(SettingError, match=r"lr .*column lr .*a\.png"):
        list_pictures([places / "list.csv"], places / "lr")


def test_a_parquet_table(places):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"path": ["hr/a.png"], "lr": ["lr/a.png"]}), places / "list.parquet")
    assert list_pictures([places / "list.parquet"]) == Pictures([places / "hr" / "a.png"], [places / "lr" / "a.png"])
    (places / "list.parquet").write_bytes(b"nonsense")
    with pytest.raises(SettingError, match=r"list\.parquet.*table"):
        list_pictures([places / "list.parquet"])


@pytest.mark.parametrize("text", ["path\n", ""])
def test_an_empty_table_is_named(places, text):
    (places / "list.csv").write_text(text)
    with pytest.raises(SettingError, match=r"No picture .*list\.csv"):
        list_pictures([places / "list.csv"])


WORDS = "--device cpu --crop 96 --rank 2 --steps 1 --batch 2 --per-device 2".split()


@pytest.mark.long
def test_the_command_trains_and_validates_on_pairs(places, capsys):
    run = places / "run"
    words = ["train", str(places / "hr" / "a.png"), "--pairs", str(places / "lr"), "-o", str(run), *WORDS]
    held = ["--validate", str(places / "hr" / "b.png"), "--validate-pairs", str(places / "lr"), "--metrics", "psnr"]
    assert cli.main([*words, *held, "--validate-count", "1"]) == 0
    assert log_of(run)[0]["valid_psnr"] > 15
    assert "1 pairs" in json.loads((run / "run.json").read_text())["origin"]["photographs"]
    card = (run / "checkpoints" / "step-000001" / "README.md").read_text()
    assert "real pairs" in card and "degradation" not in card
    without = [word for word in words if word not in ("--pairs", str(places / "lr"))]
    capsys.readouterr()
    assert cli.main([*without, "--steps", "2"]) == 2 and "photographs: 1 pairs" in capsys.readouterr().err


def test_a_stage_of_clean_pictures_takes_no_pairs(places, capsys):
    words = ["train", str(places / "hr" / "a.png"), "--pairs", str(places / "lr"), "-o", str(places / "run"), *WORDS]
    clean = ["--preset", "tvt-decoder", "--crop", "96", "--least-crop", "0", "--precision", "no"]
    assert cli.main([*words, *clean]) == 2 and "stage decoder" in capsys.readouterr().err
    assert not (places / "run").exists()


def test_a_long_list_says_how_far_it_is(places, monkeypatch):
    monkeypatch.setattr(data_module, "_REPORTED", 2)
    said = []
    assert len(usable([places / "hr" / "a.png"] * 5, 96, lambda *numbers: said.append(numbers))) == 5
    assert said == [(2, 5), (4, 5)]


def test_a_small_picture_that_breaks_later_is_told_and_replaced(places, caplog):
    found = usable_pictures(list_pictures([places / "hr"], places / "lr"), 96, 4)
    data = PairDataset(found.large, 96, 4, "omgsr", 0, 3, small=found.small)
    (places / "lr" / "a.png").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING, "op4ksr"):
        samples = [data[n] for n in range(3)]
    assert "lr/a.png" in caplog.text and all(torch.isfinite(sample["lr"]).all() for sample in samples)

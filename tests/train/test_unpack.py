"""Datasets of other libraries become pictures and captions in files, byte for byte."""

import io
import json
import re
import sys
import tarfile

import pytest
from PIL import Image

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError
from op4ksr_core.train.unpack import Item, unpack


def picture(colour, kind):
    file = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(file, kind)
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))


def test_tars_with_captions(tmp_path, capsys):
    pytest.importorskip("webdataset")
    red, blue = picture("red", "png"), picture("blue", "jpeg")
    write_tar(tmp_path / "s-0.tar", {"a.png": red, "a.txt": b"red\n", "a.json": b"{}"})
    write_tar(tmp_path / "s-1.tar", {"deep/b.jpg": blue, "deep/b.txt": b"blue"})
    assert cli.main(["unpack", str(tmp_path / "s-{0..1}.tar"), "-o", str(tmp_path / "out")]) == 0
    assert "2 pictures" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.png").read_bytes() == red and (
        tmp_path / "out" / "deep" / "b.jpg"
    ).read_bytes() == blue
    assert (tmp_path / "out" / "a.txt").read_text() == "red\n" and (tmp_path / "out" / "deep" / "b.txt").exists()
    write_tar(tmp_path / "none.tar", {"a.json": b"{}"})
    assert cli.main(["unpack", str(tmp_path / "none.tar"), "-o", str(tmp_path / "none")]) == 2


def test_a_hugging_face_folder(tmp_path, capsys):
    pytest.importorskip("datasets")
    red = picture("red", "png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.png").write_bytes(red)
    (tmp_path / "data" / "metadata.jsonl").write_text(json.dumps({"file_name": "x.png", "text": "a red one"}) + "\n")
    words = ["unpack", str(tmp_path / "data"), "-o", str(tmp_path / "out"), "--caption", "text"]
    assert cli.main(words) == 0 and "1 pictures" in capsys.readouterr().out
    assert (tmp_path / "out" / "00000000.png").read_bytes() == red
    assert (tmp_path / "out" / "00000000.txt").read_text() == "a red one\n"
    for option, name in (("--image", "photo"), ("--caption", "words"), ("--split", "best")):
        assert cli.main([*words, option, name]) == 2 and name in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../a", "/a", "twice"])
def test_a_name_that_cannot_be_is_refused(tmp_path, name):
    with pytest.raises(SettingError, match=f"'{re.escape(name)}'"):
        unpack(iter([Item("twice", ".png", b"", ""), Item(name, ".png", b"", "")]), tmp_path / "out")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(("source", "library"), [("a.tar", "webdataset"), ("a", "datasets")])
def test_a_missing_library_is_named(tmp_path, capsys, monkeypatch, source, library):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr("op4ksr_core.optional.is_installed", lambda name: name != library)
    assert cli.main(["unpack", str(tmp_path / source), "-o", str(tmp_path / "out")]) == 2
    assert f"op4ksr[{library}]" in capsys.readouterr().err

"""Nothing that was asked for is missing without a word: what folders leave out, texts with a mark, odd outputs."""

import json
import os
import shutil
import socket

import pytest
from PIL import Image
from places import DEMO

from op4ksr_core.app.batch import plan_jobs
from op4ksr_core.app.cli import main
from op4ksr_core.curate.listing import list_pictures
from op4ksr_core.errors import OutputError, SettingError
from op4ksr_core.evaluate.pairing import pair_up
from op4ksr_core.files import _log_left_out, find_pictures, format_of, read_lines, search_folder
from op4ksr_core.train.data import usable


def picture(path, side=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(DEMO).crop((0, 0, side, side)).save(path, "PNG")
    return path


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture
def folder(tmp_path):
    _log_left_out.cache_clear()  # a folder of an earlier test, gone since, may have had this name
    picture(tmp_path / "in" / "a.png")
    return tmp_path / "in"


def names(folder, outside=None):
    return [found.place.as_posix() for found in find_pictures([str(folder)], outside)]


def test_every_kind_that_is_left_out_is_counted_and_named(folder, caplog):
    for name in ("b.heic", "c.HEIC", "d.avif", "e.cr2", "notes.txt"):
        (folder / name).write_bytes(b"x")
    picture(folder / ".hidden.png")
    for name in ("@eaDir", ".thumbnails", "__MACOSX"):
        picture(folder / name / "small.png")
    unread = []
    assert [found.path.name for found in find_pictures([str(folder)], unread=unread)] == ["a.png"]
    assert len(unread) == 4
    for words in (
        "4 in formats that are not read (.avif 1, .cr2 1, .heic 2: b.heic",
        "4 hidden or made by a system",
        "@eaDir",
    ):
        assert words in caplog.text
    assert "notes.txt" not in caplog.text


def test_a_format_that_is_not_read_makes_the_exit_code_1(folder, tmp_path, capsys):
    picture(folder / "a.png", 6)  # enlarged by Lanczos
    (folder / "b.heic").write_bytes(b"x")
    assert run("upscale", folder, "-o", tmp_path / "out", "--scale", 2, "--json", tmp_path / "s.json") == 1
    assert "1 done, 0 skipped, 0 failed, 1 in formats that are not read." in capsys.readouterr().out
    assert json.loads((tmp_path / "s.json").read_text())["not_read"] == [str(folder / "b.heic")]
    (folder / "b.heic").unlink()
    assert run("upscale", folder, "-o", tmp_path / "out", "--scale", 2) == 0


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JFIF"])
def test_jpegs_under_their_other_suffixes(folder, suffix):
    Image.open(DEMO).crop((0, 0, 16, 16)).save(folder / f"b{suffix}", "JPEG")
    assert f"b{suffix}" in names(folder) and format_of(folder / f"b{suffix}").name == "jpg"


def test_linked_folders_are_looked_through_once(folder, tmp_path):
    picture(tmp_path / "far" / "c.png")
    picture(folder / "deep" / "d.png")
    (folder / "linked").symlink_to(tmp_path / "far", target_is_directory=True)
    (folder / "linked2").symlink_to(tmp_path / "far", target_is_directory=True)
    (folder / "a_link").symlink_to(folder / "deep", target_is_directory=True)
    assert names(folder) == ["a.png", "deep/d.png", "linked/c.png"]


@pytest.mark.parametrize("target", [".", "..", "deep/.."])
def test_linked_folders_that_lead_back_end(folder, target, caplog):
    picture(folder / "deep" / "d.png")
    picture(folder.parent / "out" / "result.png")
    (folder / "loop").symlink_to(target, target_is_directory=True)
    (folder / "deep" / "up").symlink_to("../..", target_is_directory=True)
    assert names(folder) == ["a.png", "deep/d.png"]
    assert "linked folders that lead back" in caplog.text and "loop" in caplog.text


@pytest.mark.parametrize("inside", ["in/big", "in/../in/big", "link/big"])
def test_the_output_folder_is_known_by_whatever_path(folder, tmp_path, monkeypatch, inside):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("in", target_is_directory=True)
    picture(folder / "big" / "a.png")
    for given in (folder.resolve(), "in", "./in", "link"):
        assert [job.source.name for job in plan_jobs([str(given)], inside)] == ["a.png"]
    assert names(folder, folder) == ["a.png", "big/a.png"]  # results go beside their pictures
    assert names(folder / "big", folder) == ["a.png"]  # a folder below the output folder


def test_a_pattern_looks_through_the_folders_that_match(folder, tmp_path):
    picture(tmp_path / "also" / "b.png")
    found = find_pictures([str(tmp_path / "*")])
    assert sorted(one.path.name for one in found) == ["a.png", "b.png"]


@pytest.mark.parametrize("name", ["x.avif", "x.heic", "x.JXL", "x.bmp", "x.pdf", "x.pngg", "x.txt"])
def test_a_suffix_that_cannot_be_written_is_refused(folder, tmp_path, name, capsys):
    assert run("upscale", folder / "a.png", "-o", tmp_path / name, "--scale", 2) == 2
    assert not (tmp_path / name).exists() and name in capsys.readouterr().err
    if name != "x.pngg":
        with pytest.raises((OutputError, SettingError)):
            plan_jobs([str(folder)], str(tmp_path / name))


def test_a_folders_name_may_have_a_dot(folder, tmp_path):
    assert plan_jobs([str(folder)], str(tmp_path / "results.v2"))[0].output.parent.name == "results.v2"
    (tmp_path / "album.heic").mkdir()
    assert plan_jobs([str(folder)], str(tmp_path / "album.heic"))[0].output.parent.name == "album.heic"
    assert plan_jobs([str(folder)], str(tmp_path / "x.avif") + os.sep)[0].output.parent.name == "x.avif"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_of_windows_programs(folder, encoding):
    """Lists, pairs and tables, with a byte order mark and their line ends."""
    listed, pairs, table, lines = (folder / name for name in ("l.txt", "p.txt", "t.csv", "t.jsonl"))
    listed.write_bytes("a.png\r\n".encode(encoding))
    pairs.write_bytes("a.png\ta.png\r\n".encode(encoding))
    table.write_bytes("path,licence\r\na.png,CC0\r\n".encode(encoding))
    lines.write_bytes('{"path": "a.png"}\r\n'.encode(encoding))
    assert [found.path for found in find_pictures([str(listed)])] == [folder / "a.png"]
    assert [pair.picture for pair in pair_up(folder, folder, str(pairs))] == [folder / "a.png"]
    assert list_pictures([str(table)]).to_pylist() == [{"path": str(folder / "a.png"), "licence": "CC0"}]
    assert list_pictures([str(lines)]).column("path").to_pylist() == [str(folder / "a.png")]
    assert read_lines(listed) == ["a.png"]


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"\x80\x81\xff")
    with pytest.raises(SettingError, match=r"l\.txt.*UTF-8"):
        read_lines(tmp_path / "l.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_sockets_and_devices_are_named_before_a_training(tmp_path, caplog, monkeypatch):
    good = picture(tmp_path / "a.png", 64)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to(os.devnull)
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock.png")
        found = search_folder(tmp_path).pictures
        assert usable(found, 64) == [good]
    assert "3 of 4 pictures are left out, pipes, sockets, devices or folders" in caplog.text
    assert all(name in caplog.text for name in ("pipe.png", "null.png", "sock.png"))
    with pytest.raises(SettingError, match=r"1 are pipes.*pipe\.png"):
        usable([tmp_path / "pipe.png"], 64)


def test_a_picture_against_itself(tmp_path):
    """Bright and nearly flat, where float32 gives less than 1."""
    import torch

    from op4ksr_core.evaluate import measures

    bright = torch.full((1, 3, 64, 64), 1.0)
    bright[..., 20:40, 20:40] = 250 / 255
    assert measures.ssim(bright, bright) == pytest.approx(1, abs=1e-9)


def test_niqe_of_a_flat_picture_says_why_it_is_empty(tmp_path, capsys):
    for method in ("a", "b"):
        (tmp_path / method).mkdir()
    Image.new("RGB", (300, 300), (90, 90, 90)).save(tmp_path / "a" / "p.png")
    shutil.copy(tmp_path / "a" / "p.png", tmp_path / "b" / "p.png")
    words = (
        "evaluate",
        f"m={tmp_path / 'a'}",
        "--gt",
        tmp_path / "b",
        "--metrics",
        "niqe",
        "--json",
        tmp_path / "s.json",
    )
    assert run(*words) == 0
    assert "the picture is flat" in capsys.readouterr().out + (tmp_path / "s.json").read_text()

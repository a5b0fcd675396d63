"""`op4ksr inspect` over files."""

import json
import shutil

import pytest
import torch
from patterns import marked, scene
from PIL import Image
from places import DEMO

from op4ksr_core.app.cli import main
from op4ksr_core.lattice.inspector import inspect
from op4ksr_core.picture.read import Picture, read_picture
from op4ksr_core.picture.write import write_picture


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_picture(folder / "lattice.png", Picture(marked(scene(), 16, 3.0)[None]))
    write_picture(folder / "clean.png", Picture(scene(seed=1)[None]))
    return folder


def run(*arguments):
    return main([str(a) for a in ("inspect", *arguments)])


def test_a_picture_in_the_working_folder(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert run("clean.png") == 0


def test_json_is_a_list_with_what_was_promised(folder, capsys):
    assert run(folder, "--json") == 0
    rows = {row["file"].split("/")[-1]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["lattice.png"]["verdict"] == "lattice" and rows["lattice.png"]["period"] == 16
    assert rows["lattice.png"]["score"] > 0.5 > 0.1 > rows["clean.png"]["score"]
    assert rows["clean.png"]["verdict"] == "clean" and rows["lattice.png"]["peaks"]
    assert {"amplitude", "confidence", "coherence", "jpeg_grid", "decibels", "sentences"} <= rows["clean.png"].keys()


def test_table_and_report(folder, tmp_path, capsys):
    assert run(folder, "--report", tmp_path / "reports") == 0
    out = capsys.readouterr().out
    assert "lattice" in out and "clean" in out and "verdict" in out
    assert Image.open(tmp_path / "reports" / "lattice.png").width > 900


def test_suppressed_files_have_no_lattice_after_rounding(folder, tmp_path, capsys):
    assert run(folder, "--suppress", tmp_path / "out") == 0
    before, after = (inspect(read_picture(p / "lattice.png").rgb[0]) for p in (folder, tmp_path / "out"))
    assert after.amplitude < 0.2 * before.amplitude
    clean = [read_picture(p / "clean.png").rgb for p in (folder, tmp_path / "out")]
    assert torch.equal(*clean)


def test_a_reference_gives_l_ap_and_says_so(folder, capsys):
    write_picture(folder.parent / "truth.png", Picture(scene()[None]))
    assert run(folder / "lattice.png", "--reference", folder.parent / "truth.png", "--json") == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["ap_loss"] > 0 and row["reference"] and row["verdict"] == "lattice"
    assert any("a reference was used" in line for line in row["sentences"])


def test_a_reference_of_something_else_is_named(folder, capsys):
    assert run(folder / "lattice.png", "--reference", folder / "clean.png", "--json") == 1
    assert "something else" in json.loads(capsys.readouterr().out)[0]["error"]


def test_calming_a_mesh_needs_the_small_picture(folder, tmp_path, capsys):
    assert run(folder, "--suppress", tmp_path / "out", "--calm-mesh") == 2


def test_one_bad_file_does_not_stop_the_rest(folder, capsys):
    (folder / "bad.png").write_bytes(DEMO.read_bytes()[:300])
    Image.new("RGB", (20, 20)).save(folder / "tiny.png")
    assert run(folder, "--json") == 1
    rows = {row["file"].split("/")[-1]: row for row in json.loads(capsys.readouterr().out)}
    assert "error" in rows["bad.png"] and "20x20" in rows["tiny.png"]["error"] and rows["lattice.png"]["score"] > 0.5


def test_nothing_is_written_over_an_input(folder, capsys):
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    assert run(folder, "--suppress", folder) != 0
    for path in copy.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_bad_options(folder, capsys):
    assert run(folder, "--periods", "200", "--json") == 1
    assert "200" in capsys.readouterr().out
    assert run(folder.parent / "nowhere") == 2

"""Nothing is replaced that should not be, nothing stays behind, and a user never meets a traceback."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from places import DEMO

from op4ksr_core.app.cli import main
from op4ksr_core.errors import OutputError
from op4ksr_core.files import check_targets, write_atomically, write_text

UPSCALE = [sys.executable, "-m", "op4ksr_core", "upscale"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.open(DEMO).crop((number, 0, number + 16, 12)).save(tmp_path / "in" / f"{number}.png")
    return tmp_path


def run(*words):
    return main([str(word) for word in words])


@pytest.mark.parametrize("target", ["in/0.png", "out/1.png", "in"])
def test_a_summary_replaces_neither_input_nor_result_nor_folder(folder, target, capsys):
    before = (folder / "in" / "0.png").read_bytes()
    assert run("upscale", folder / "in", "-o", folder / "out", "--json", folder / target) == 2
    assert (folder / "in" / "0.png").read_bytes() == before and not list((folder / "out").glob("*.png"))
    assert target in capsys.readouterr().err


def test_pairs_and_evaluate_leave_their_inputs_alone(folder, capsys):
    before = (folder / "in" / "0.png").read_bytes()
    assert run("pairs", folder / "in", "-o", folder / "in" / "0.png", "--crop", "8") == 2
    assert run("evaluate", folder / "in", "--gt", folder / "in", "--json", folder / "in" / "0.png") == 2
    assert (folder / "in" / "0.png").read_bytes() == before
    assert capsys.readouterr().err.count("replace the input") == 2


def test_the_null_device_takes_a_summary_and_stays_a_device(folder):
    assert run("upscale", folder / "in" / "0.png", "-o", folder / "a.png", "--json", os.devnull) == 0
    assert Path(os.devnull).is_char_device()


def test_a_links_target_is_written(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def test_what_a_killed_run_left_half_written_goes_at_the_next_write(tmp_path):
    """Only where no process is at it: not that of a process that runs, or a file that one holds."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale, ours = tmp_path / f".a.png.{gone.pid}.part", tmp_path / f".a.png.{os.getpid()}7.part"
    running, other = tmp_path / f".a.png.{os.getppid()}.part", tmp_path / f".b.png.{gone.pid}.part"
    for path in (stale, running, other):
        path.write_bytes(b"half")
    write_atomically(tmp_path / "a.png", lambda file: file.write(b"whole"))
    assert not stale.exists() and running.exists() and other.exists() and not ours.exists()
    assert (tmp_path / "a.png").read_bytes() == b"whole"
    stale.write_bytes(b"half")
    with stale.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a.png", lambda file: file.write(b"again"))
        assert stale.exists()  # the machine that holds it may be another one


def test_two_results_in_one_place_are_refused(tmp_path):
    name = re.escape(str(tmp_path / "a.json"))
    with pytest.raises(OutputError, match=f"{name}.*{name}"):
        check_targets([tmp_path / "a.json", tmp_path / "." / "a.json"])


def test_an_empty_input_is_not_the_current_folder(folder, capsys):
    assert run("upscale", "", "-o", folder / "out") == 2 and "An input is empty" in capsys.readouterr().err


def test_an_unforeseen_error_stops_one_picture_only(folder, monkeypatch, capsys):
    from op4ksr_core.app import batch

    real = batch.read_picture

    def failing(path, *rest):
        if path.name == "1.png":
            raise ZeroDivisionError("nobody foresaw this")
        return real(path, *rest)

    monkeypatch.setattr(batch, "read_picture", failing)
    assert run("upscale", folder / "in", "-o", folder / "out") == 1
    out = capsys.readouterr().out
    assert "unexpected ZeroDivisionError: nobody foresaw this" in out and "2 done, 0 skipped, 1 failed" in out
    with pytest.raises(ZeroDivisionError):
        run("upscale", folder / "in" / "1.png", "-o", folder / "out", "--debug")


def test_an_unforeseen_error_of_a_command_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("op4ksr_core.app.rope.run", lambda arguments: 1 / 0)
    assert run("rope") == 2
    assert capsys.readouterr().err == "op4ksr: unexpected ZeroDivisionError: division by zero (--debug shows where)\n"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_cleanly(folder, number):
    command = [*UPSCALE, folder / "in", "-o", folder / "out", "--scale", "16", "--json", folder / "s.json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.time() + 60
    while not list((folder / "out").glob(".*.lock")) and time.time() < end:
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number and b"Traceback" not in error
    assert not [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")]
    assert json.loads((folder / "s.json").read_text())["interrupted"]


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_stop_the_work(folder):
    command = " ".join(map(str, [*UPSCALE, folder / "in", "-o", folder / "out"])) + " | head -c 0"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert len(list((folder / "out").glob("*.png"))) == 3

"""What a training shows: its bar, and Weights & Biases beside TensorBoard."""

import argparse
import sys
from pathlib import Path

import pytest
from trainings import log_of

from op4ksr_core.app import cli
from op4ksr_core.app import train as command
from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.write import write_picture

WORDS = "--device cpu --crop 96 --rank 2 --steps 2 --batch 1 --per-device 1 --log-every 1".split()


@pytest.fixture
def words(tmp_path, photo):
    (tmp_path / "photos").mkdir()
    write_picture(tmp_path / "photos" / "a.png", Picture(photo[..., :120, :120]))
    return ["train", str(tmp_path / "photos"), "-o", str(tmp_path / "run"), *WORDS]


@pytest.mark.long
def test_a_terminal_gets_a_bar_and_lines_apart(words, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "2/2" in said.err and "step 1 of 2" not in said.err
    assert [line.split(":")[0] for line in said.out.splitlines() if line.startswith("step ")] == [
        "step 1 of 2",
        "step 2 of 2",
    ]


def test_what_is_no_terminal_gets_no_bar(words, capsys):
    assert cli.main(words) == 0
    assert "2/2" not in capsys.readouterr().err


def test_a_settings_file_is_read_once(tmp_path, capsys, monkeypatch):
    (tmp_path / "settings.json").write_text('{"rank": 8}')
    count, text = [], Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: count.append(path.name) or text(path, *a, **k))
    assert cli.main(["train", "--settings", str(tmp_path / "settings.json"), "--print-settings"]) == 0
    assert count.count("settings.json") == 1


def test_the_usual_metrics_have_their_new_names():
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    assert parser.parse_args([]).metrics == ["psnr", "ssim", "hf_correlation", "hf_energy_db"]


def test_a_missing_wandb_is_named_before_any_work(words, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert cli.main([*words, "--wandb", "mine"]) == 2
    assert "pip install 'op4ksr[wandb]'" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_weights_and_biases_get_what_tensorboard_gets(words, tmp_path, monkeypatch):
    """Without a network; a resumed run keeps its number."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = [*words, "--wandb", "mine", "--picture-every", "1"]
    assert cli.main([*words, "--stop-after", "1"]) == 0
    assert cli.main(words) == 0
    run = tmp_path / "run"
    number = (run / "wandb_id.txt").read_text()
    logs = sorted((run / "wandb").glob(f"offline-run-*/run-{number}.wandb"))
    assert len(logs) == 2
    for log in logs:
        assert all(name.encode() in log.read_bytes() for name in (*log_of(run)[0].keys() - {"step"}, "learning_rate"))
    assert list((run / "wandb").glob("offline-run-*/files/media/images/*.png"))

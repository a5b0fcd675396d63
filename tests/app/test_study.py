import json

import pytest
from PIL import Image
from places import DEMO

from op4ksr_core.app import cli
from op4ksr_core.picture.read import read_picture


def run(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "in" / "small.png"
    path.parent.mkdir()
    Image.open(DEMO).crop((200, 100, 264, 164)).save(path)
    return path


def test_rope_tells_and_draws(tmp_path, capsys):
    assert run("rope", "--theta", 100, 10000, "--size", "4096x2304", "-o", tmp_path / "new" / "rope.png") == 0
    assert "15 of 28 pairs" in capsys.readouterr().out
    assert Image.open(tmp_path / "new" / "rope.png").width == 1080
    assert run("rope", "--theta", 300, "--json", "--token-px", 16) == 0
    [numbers] = json.loads(capsys.readouterr().out)
    assert numbers["theta"] == 300 and numbers["tokens"] == [256, 256] and numbers["effective_pairs_w"] == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--theta", "1"], "above 1.*got 1"),
        (["--scheme", "linear"], "got 'linear'"),
        (["--size", "4096"], "WIDTHxHEIGHT.*'4096'"),
        (["--token-px", "0"], "from 1 to 1024"),
    ],
)
def test_rope_refuses(options, message, capsys):
    import re

    assert run("rope", *options) == 2
    assert re.search(message, capsys.readouterr().err)


def test_sweep_writes_sheet_plot_numbers_and_pictures(tmp_path, small, capsys):
    out = tmp_path / "out"
    arguments = ["--thetas", 10, 10000, "--sigmas", 0.3, 0.7, "--scale", 4, "--pictures"]
    assert run("sweep", small, "-o", out, *arguments) == 0
    numbers = json.loads((out / "small.json").read_text())
    assert [(t["theta"], t["sigma"]) for t in numbers["trials"]] == [(10, 0.3), (10000, 0.3), (10, 0.7), (10000, 0.7)]
    assert numbers["best_theta"] in (10, 10000) and numbers["file"] == str(small)
    names = {path.name for path in out.iterdir()}
    assert {"small_sheet.png", "small_plot.png", "small_theta10000_sigma0.7.png"} <= names and len(names) == 7
    assert Image.open(out / "small_sheet.png").height > 800
    assert "Best by score, then sharpness" in capsys.readouterr().out
    run("upscale", small, "-o", tmp_path / "one.png", "--theta", 10000, "--sigma", 0.7)
    one, swept = (read_picture(p).rgb for p in (tmp_path / "one.png", out / "small_theta10000_sigma0.7.png"))
    assert float((one - swept).abs().max()) * 255 <= 1


def test_latents_before_and_after(tmp_path, small, capsys):
    assert run("latents", small, "-o", tmp_path / "out", "--sigma", 0.7) == 0
    numbers = json.loads((tmp_path / "out" / "small.json").read_text())
    assert numbers["after"]["relative"] > numbers["before"]["relative"] > 0
    assert Image.open(tmp_path / "out" / "small.png").width > 1000
    out = capsys.readouterr().out
    assert "before:" in out and "after:" in out


@pytest.mark.parametrize("command", ["sweep", "latents"])
def test_one_broken_picture_does_not_stop_the_rest(tmp_path, small, command, capsys):
    (small.parent / "broken.png").write_bytes(b"not a picture")
    options = ["--thetas", 100] if command == "sweep" else []
    assert run(command, small.parent, "-o", tmp_path / "out", "--scale", 2, *options) == 1
    captured = capsys.readouterr()
    assert "failed" in captured.err and "broken.png" in captured.err and "small.png" in captured.out
    assert (tmp_path / "out" / "small.json").exists() and not (tmp_path / "out" / "broken.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--thetas", "100", "100"], "once; got 100, 100"),
        (["--sigmas", "2"], "at most 1"),
        (["--preset", "none"], "no preset 'none'"),
    ],
)
def test_sweep_refuses_before_any_work(tmp_path, small, options, message, capsys):
    assert run("sweep", small, "-o", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_picture_too_small_to_inspect_is_told(tmp_path, small, capsys):
    assert run("sweep", small, "-o", tmp_path / "out", "--long-side", 40) == 1
    assert "at least 64 px" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())

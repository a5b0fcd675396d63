"""What file names and numbers may hold: nothing reaches a terminal, a page or a table as a command; JSON has no NaN."""

import argparse
import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
from PIL import Image
from places import DEMO, ROOT

from op4ksr_core.app import cli
from op4ksr_core.app.argument_types import number, whole
from op4ksr_core.files import json_text, printable

WORDS = ["<script>alert(1)<", "a|b", "esc\x1b[31m", "bell\x07", "new\nline", "cr\rx", "\u202etxt", "q\"uote's", "=1+1"]
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_printable_keeps_words_and_shows_controls():
    assert printable("caf\u00e9 \U0001f600 b.png") == "caf\u00e9 \U0001f600 b.png"
    assert printable("a\x1b[31m\n\u202e") == "a\\x1b[31m\\n\\u202e"


def test_json_has_no_nan():
    text = json_text({"a": float("nan"), "b": [float("inf"), 1.5], "c": ("x", None)})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, 1.5], "c": ["x", None]}


@pytest.mark.parametrize("text", ["-1", "0", "nan", "", "abc", "1e9", "99999999999999999999", "1.5"])
def test_a_wrong_number_is_named_with_its_option(tmp_path, text, capsys):
    assert cli.main(["upscale", "x.png", "-o", str(tmp_path), f"--workers={text}"]) == 2
    error = capsys.readouterr().err
    assert "--workers" in error and (text in error)


def test_ranges():
    assert whole(1, 9)("9") == 9 and number(0, 1)("0.5") == 0.5
    for parse, text in ((whole(1, 9), "10"), (number(0, 1), "inf"), (number(0, 1), "-0.1")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"got {re.escape(text)}"):
            parse(text)


def test_options_are_not_abbreviated(tmp_path, capsys):
    assert cli.main(["sweep", "x.png", "-o", str(tmp_path), "--theta", "5"]) == 2
    assert "--theta" in capsys.readouterr().err


def test_near_names_are_offered(tmp_path, capsys):
    Image.open(DEMO).crop((0, 0, 16, 16)).save(tmp_path / "a.png")
    assert cli.main(["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--colour", "wavelets"]) == 2
    assert "Did you mean wavelet?" in capsys.readouterr().err


@pytest.fixture
def odd(tmp_path):
    """Pictures of 64 px with such names below gt and sr."""
    for n, word in enumerate(WORDS):
        for folder in ("gt", "sr"):
            path = tmp_path / folder / f"{n}{word.replace('/', '')}.png"
            path.parent.mkdir(exist_ok=True)
            Image.open(DEMO).crop((100, 100 + n, 164, 164 + n)).save(path)
    return tmp_path


def test_names_in_an_evaluation(odd, capsys):
    places = {kind: odd / f"r.{kind}" for kind in ("html", "csv", "markdown", "json")}
    options = [text for kind, path in places.items() for text in (f"--{kind}", str(path))]
    assert cli.main(["evaluate", str(odd / "sr"), "--gt", str(odd / "gt"), "--metrics", "psnr,niqe", *options]) == 0
    shown = capsys.readouterr()
    assert not CONTROLS.findall(shown.out + shown.err)
    assert "<script>alert" not in places["html"].read_text()
    rows = list(csv.reader(io.StringIO(places["csv"].read_text())))
    assert {len(row) for row in rows} == {len(rows[0])} and len(rows) == 1 + len(WORDS)
    table = [line for line in places["markdown"].read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    json.loads(places["json"].read_text(), parse_constant=pytest.fail)


def test_names_on_a_terminal_that_knows_no_utf8(tmp_path):
    for name in (b"no\xff.png", "caf\u00e9\x1b[31m.png".encode()):
        path = tmp_path / "in" / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"junk")
    command = [sys.executable, "-c", "import sys; from op4ksr_core.app.cli import main; sys.exit(main(sys.argv[1:]))"]
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [*command, "upscale", "in", "-o", "out"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert run.returncode == 1 and "2 failed" in run.stdout and "Traceback" not in run.stderr
    assert not CONTROLS.findall(run.stdout + run.stderr)

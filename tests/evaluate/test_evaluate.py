import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from op4ksr_core.app.cli import main
from op4ksr_core.errors import SettingError
from op4ksr_core.evaluate import run, statistics
from op4ksr_core.evaluate.metrics import METRICS, Tiles
from op4ksr_core.evaluate.pairing import find_methods, pair_up
from op4ksr_core.evaluate.tables import ranks

NAMES = ("a", "b", "c")


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path)


@pytest.fixture
def folders(tmp_path):
    """Truths of 64 x 48 px, a good and a bad method."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        base = np.asarray(Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((64, 48), 3)).astype(int)
        save(tmp_path / "hr" / f"{name}.png", base.astype(np.uint8))
        for method, noise in (("good", 3), ("bad", 30)):
            noisy = np.clip(base + rng.integers(-noise, noise + 1, base.shape), 0, 255).astype(np.uint8)
            save(tmp_path / method / f"{name}.png", noisy)
    return tmp_path


def evaluate(folders, *options, methods=("good", "bad")):
    places = [str(folders / m) for m in methods]
    return main(["evaluate", *places, "--gt", str(folders / "hr"), "--metrics", "psnr,ssim,gmsd", *options])


def test_tables_agree_with_each_other(folders, capsys):
    out = {kind: folders / f"out.{kind}" for kind in ("json", "csv", "markdown", "html")}
    assert evaluate(folders, *(part for kind, path in out.items() for part in (f"--{kind}", str(path)))) == 0
    found, rows = json.loads(out["json"].read_text()), list(csv.DictReader(out["csv"].open()))
    good = found["methods"]["good"]
    assert good["count"] == {"psnr": 3, "ssim": 3, "gmsd": 3} and set(good["per_image"]["psnr"]) == set(NAMES)
    assert good["mean"]["psnr"] == pytest.approx(sum(good["per_image"]["psnr"].values()) / 3)
    low, high = good["interval"]["psnr"]
    assert low < good["mean"]["psnr"] < high
    assert len(rows) == 6 and float(rows[0]["psnr"]) == pytest.approx(good["per_image"]["psnr"]["a"])
    printed = capsys.readouterr().out
    assert printed == out["markdown"].read_text()
    line = next(line for line in printed.splitlines() if line.startswith("| good"))
    assert f"**{good['mean']['psnr']:.2f}" in line and "*" not in line.split("|")[2]
    test = found["tests"][0]
    assert test["count"] == 3 and test["difference"] > 5 and test["p"] == 0.25  # the least that three pairs can give
    assert not list(folders.glob("*.resume"))


def test_former_names_of_metrics_are_taken_and_written_beside_the_new_ones(folders, capsys):
    out = folders / "out.json"
    assert (
        main(
            [
                "evaluate",
                str(folders / "good"),
                "--gt",
                str(folders / "hr"),
                "--metrics",
                "right,detail",
                "--json",
                str(out),
            ]
        )
        == 0
    )
    good = json.loads(out.read_text())["methods"]["good"]
    for part in ("count", "mean", "interval", "per_image"):
        assert good[part].keys() == {"hf_energy_db", "hf_correlation", "detail", "right"}
        assert (
            good[part]["right"] == good[part]["hf_correlation"] and good[part]["detail"] == good[part]["hf_energy_db"]
        )
    assert "HF correlation" in capsys.readouterr().out


def test_the_page_is_one_file_and_holds_every_version(folders):
    page = folders / "page.html"
    evaluate(folders, "--html", str(page))
    text = page.read_text()
    data = json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert "http" not in text.replace("http-equiv", "") and len(data["entries"]) == 3
    assert set(data["entries"][0]["pictures"]) == {"good", "bad", "ground truth"} and len(data["files"]) == 9
    evaluate(folders, "--html", str(page), "--page-side", "0")
    assert len(page.read_text()) < len(text) - 10_000


@pytest.mark.slow
def test_processes_give_the_same_numbers(folders):
    one, two = folders / "1.json", folders / "2.json"
    evaluate(folders, "--json", str(one))
    evaluate(folders, "--json", str(two), "--workers", "2")
    assert json.loads(one.read_text()) == json.loads(two.read_text())


def test_what_cannot_be_judged_is_told_and_counted(folders, capsys):
    (folders / "bad" / "a.png").write_bytes(b"no picture")
    save(folders / "bad" / "b.png", np.zeros((48, 60, 3), np.uint8))
    for place in ("hr", "good", "bad"):
        save(folders / place / "dot.png", np.zeros((1, 1, 3), np.uint8))
    out = folders / "out.json"
    assert evaluate(folders, "--json", str(out)) == 1
    bad = json.loads(out.read_text())["methods"]["bad"]
    assert bad["pictures"] == 4 and bad["count"] == {"psnr": 2, "ssim": 1, "gmsd": 1}
    assert "not a picture" in bad["errors"]["a"][""] and "60x48" in bad["errors"]["b"][""]
    assert "11 px or more, got 1x1" in bad["errors"]["dot"]["ssim"]
    assert bad["per_image"]["psnr"]["dot"] == "inf"
    printed = capsys.readouterr().out
    assert "2 of 4" in printed and "(n=1)" in printed and "Nothing is resized" in printed


def test_alpha_and_depth_are_told(folders):
    array = np.asarray(Image.open(folders / "good" / "a.png"))
    alpha = np.full((*array.shape[:2], 1), 128, np.uint8)
    save(folders / "good" / "a.png", np.concatenate([array, alpha], 2))
    import png

    with (folders / "hr" / "b.png").open("wb") as file:
        deep = np.asarray(Image.open(folders / "bad" / "b.png")).astype(np.uint16) * 257
        png.Writer(64, 48, greyscale=False, bitdepth=16).write(file, deep.reshape(48, -1).tolist())
    out = folders / "out.json"
    assert evaluate(folders, "--json", str(out)) == 0
    methods = json.loads(out.read_text())["methods"]
    assert methods["good"]["notes"]["a"] == ["picture: alpha left out"]
    assert methods["good"]["notes"]["b"] == ["ground truth: 16 bits rounded to 8"]
    assert methods["bad"]["per_image"]["psnr"]["b"] == "inf"


def test_pairs(folders, tmp_path):
    (folders / "good" / "a.png").rename(folders / "good" / "a_sr_x4.png")
    assert [pair.name for pair in pair_up(folders / "good", folders / "hr")] == list(NAMES)
    (folders / "good" / "b.png").rename(folders / "good" / "zebra.png")
    with pytest.raises(SettingError, match=r"zebra\.png.*b\.png"):
        pair_up(folders / "good", folders / "hr")
    ordered = pair_up(folders / "good", folders / "hr", "order")
    assert [(p.picture.stem, p.name) for p in ordered] == [("a_sr_x4", "a"), ("c", "b"), ("zebra", "c")]
    listed = tmp_path / "pairs.txt"
    listed.write_text("zebra.png\tb.png\n\nc.png c.png\n")
    assert [(p.picture.stem, p.name) for p in pair_up(folders / "good", folders / "hr", str(listed))] == [
        ("zebra", "b"),
        ("c", "c"),
    ]
    listed.write_text("zebra.png\tgone.png\n")
    with pytest.raises(SettingError, match=r"pairs\.txt, line 1\b.*gone\.png"):
        pair_up(folders / "good", folders / "hr", str(listed))
    (folders / "hr" / "d.png").write_bytes(b"")
    with pytest.raises(SettingError, match=r"good.* 3 .*hr.* 4\b"):
        pair_up(folders / "good", folders / "hr", "order")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SettingError, match=re.escape(str(empty))):
        pair_up(empty, folders / "hr")


def test_methods_have_names(folders):
    good = str(folders / "good")
    assert [m.name for m in find_methods([good, f"other={good}"], str(folders / "hr"))] == ["good", "other"]
    with pytest.raises(SettingError, match="good.*NAME=FOLDER"):
        find_methods([good, good], str(folders / "hr"))


def test_a_stopped_run_goes_on(folders, monkeypatch):
    judged, real = [], run.judge

    def judge(method, pair, metrics, tiles):
        if len(judged) == 4:
            raise KeyboardInterrupt
        judged.append((method, pair.name))
        return real(method, pair, metrics, tiles)

    monkeypatch.setattr(run, "judge", judge)
    out = folders / "out.json"
    assert evaluate(folders, "--json", str(out)) == 130 and not out.exists()
    kept = folders / "out.json.resume"
    kept.write_text(kept.read_text() + '{"method": "bad", "na')  # what a kill may leave
    monkeypatch.setattr(run, "judge", lambda *a: judged.append((a[0], a[1].name)) or real(*a))
    os.utime(folders / "good" / "b.png", (1, 1))
    assert evaluate(folders, "--json", str(out)) == 0
    assert judged[4:] == [("good", "b"), ("bad", "b"), ("bad", "c")] and not kept.exists()
    assert json.loads(out.read_text())["methods"]["good"]["count"]["psnr"] == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_killed_at_half(folders):
    for n in range(300):
        for place in ("hr", "good", "bad"):
            os.link(folders / place / "a.png", folders / place / f"x{n:03}.png")
    out = folders / "out.json"
    command = [sys.executable, "-m", "op4ksr_core", "evaluate", str(folders / "good"), "--gt", str(folders / "hr")]
    command += ["--metrics", "psnr", "--json", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    kept = folders / "out.json.resume"
    while process.poll() is None and not (kept.exists() and kept.stat().st_size > 2000):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert kept.exists() and not out.exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(out.read_text())["methods"]["good"]["count"]["psnr"] == 303


def test_without_truth(folders):
    out = folders / "out.json"
    for name in NAMES:
        Image.open(folders / "good" / f"{name}.png").resize((300, 200)).save(folders / "good" / f"{name}.png")
    assert main(["evaluate", str(folders / "good"), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["methods"]["good"]["count"] == {"niqe": 3, "niqe-pyiqa": 3, "periodicity": 3}
    assert "--gt" in found["unavailable"]["psnr"]


def test_intervals_and_tests_agree_with_textbook_cases():
    rng = np.random.default_rng(1)
    values = list(rng.normal(10, 2, 400))
    low, high = statistics.interval(values)
    error = 1.96 * np.std(values, ddof=1) / 20
    assert low == pytest.approx(np.mean(values) - error, abs=0.03) and high == pytest.approx(
        np.mean(values) + error, abs=0.03
    )
    assert statistics.interval([1.0]) is None and statistics.interval([1.0, math.inf]) is None
    assert statistics.interval([2.0, 2.0]) == (2.0, 2.0)
    of_a = {str(n): float(n) for n in range(10)}
    same = statistics._signed_rank("psnr", "a", "b", of_a, of_a)
    shifted = statistics._signed_rank(
        "psnr", "a", "b", of_a, {name: value - 1 - 0.01 * value for name, value in of_a.items()}
    )
    assert same.p == 1 and shifted.p == pytest.approx(2 / 2**10) and shifted.count == 10


def test_places_follow_the_direction_of_a_metric(folders):
    methods = find_methods([str(folders / "good"), str(folders / "bad")], str(folders / "hr"))
    outcome = run.evaluate(methods, [METRICS["psnr"], METRICS["gmsd"]], Tiles())
    for name in ("psnr", "gmsd"):
        assert ranks(outcome, METRICS[name]) == {"good": 1, "bad": 2}

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from op4ksr_core.app.cli import main
from op4ksr_core.testsets import make as suite


def picture(path, width, height, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def small(monkeypatch):
    """The benchmarks at a thirty-second of their size."""
    monkeypatch.setattr(suite, "LONG_SIDE", 128)
    monkeypatch.setattr(suite, "LOW_SIDE", 32)


@pytest.fixture
def photos(tmp_path):
    picture(tmp_path / "in" / "a.png", 160, 100, 1)
    picture(tmp_path / "in" / "b.png", 100, 200, 2)
    return tmp_path / "in"


def make(kind, photos, out, *options):
    return main(["benchmark", "make", kind, str(photos), "-o", str(out), *options])


def sizes(folder, part):
    return {file.stem: Image.open(file).size for file in sorted((folder / part).glob("*.png"))}


def test_syn_has_the_papers_sizes_and_is_the_same_again(small, photos, tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    assert make("syn", photos, one) == 0
    assert sizes(one, "hr") == {"a": (128, 100), "b": (100, 128)}
    assert sizes(one, "lr") == {"a": (32, 25), "b": (25, 32)}
    hr, whole = (np.asarray(Image.open(file)) for file in (one / "hr" / "a.png", photos / "a.png"))
    assert np.array_equal(hr, whole[:, 16:144])  # the middle, cut and not resized
    assert make("syn", photos, two, "--manifest", str(one)) == 0
    assert "all 2 pictures are as the manifest" in capsys.readouterr().out
    for part in ("hr", "lr"):
        for name in "ab":
            assert (one / part / f"{name}.png").read_bytes() == (two / part / f"{name}.png").read_bytes()
    assert (one / "manifest.json").read_text() == (two / "manifest.json").read_text()


def test_a_picture_does_not_depend_on_the_others(small, photos, tmp_path):
    make("syn", photos, tmp_path / "both")
    make("syn", photos / "b.png", tmp_path / "one")
    both, one = (json.loads((tmp_path / n / "manifest.json").read_text())["pictures"] for n in ("both", "one"))
    assert one["b"] == both["b"] and one["b"]["lr"] != both["a"]["lr"]


def test_seeds_differ_and_a_folder_is_made_in_one_way(small, photos, tmp_path, capsys):
    make("syn", photos, tmp_path / "0")
    make("syn", photos, tmp_path / "1", "--seed", "1")
    assert (tmp_path / "0" / "lr" / "a.png").read_bytes() != (tmp_path / "1" / "lr" / "a.png").read_bytes()
    assert make("syn", photos, tmp_path / "0", "--seed", "1") == 2 and "'syn 0'" in capsys.readouterr().err
    assert make("vary", photos, tmp_path / "0") == 2


def test_square_and_vary(small, photos, tmp_path):
    assert make("square", photos, tmp_path / "s") == 0 and make("vary", photos, tmp_path / "v") == 0
    assert sizes(tmp_path / "s", "lr") == {"a": (32, 32), "b": (32, 32)}
    assert sizes(tmp_path / "v", "lr") == {"a": (32, 20), "b": (16, 32)} and not (tmp_path / "v" / "hr").exists()


def test_div4k_wants_its_fifty(photos, tmp_path, capsys, monkeypatch):
    assert make("div4k", photos, tmp_path / "d") == 2 and "50 pictures; 2" in capsys.readouterr().err
    kind = suite.KINDS["div4k"]
    monkeypatch.setitem(suite.KINDS, "div4k", type(kind)(kind.name, kind.title, kind.pair, 2))
    picture(photos / "a.png", 163, 101)
    assert make("div4k", photos, tmp_path / "d") == 0
    assert sizes(tmp_path / "d", "hr") == {"a": (160, 100), "b": (100, 200)}
    assert sizes(tmp_path / "d", "lr") == {"a": (40, 25), "b": (25, 50)}


def test_what_will_not_do_is_named_and_nothing_is_half_made(small, photos, tmp_path, capsys):
    picture(photos / "c.png", 60, 60)
    (photos / "d.png").write_bytes(b"no")
    assert make("syn", photos, tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "c.png is 60x60" in told and "d.png" in told
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["pictures"]) == 2 == len(manifest["left_out"])
    for name in ("a.png", "b.png"):
        (photos / name).rename(tmp_path / name)
    assert make("syn", photos, tmp_path / "none") == 2 and "2 of 2" in capsys.readouterr().err
    assert not (tmp_path / "none" / "manifest.json").exists()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(photos / name)
    shutil.copy(photos / "a.png", photos / "sub.png")
    (photos / "x").mkdir()
    shutil.copy(photos / "a.png", photos / "x" / "a.png")
    assert make("syn", photos, tmp_path / "out") == 2 and "called a" in capsys.readouterr().err


def test_a_stopped_make_goes_on_and_a_newer_picture_is_made_again(small, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    make("syn", photos, out)
    (out / "manifest.json").unlink()
    (out / "lr" / "b.png").unlink()
    before = (out / "lr" / "a.png").stat().st_mtime_ns
    make("syn", photos, out)
    assert (out / "lr" / "a.png").stat().st_mtime_ns == before and (out / "lr" / "b.png").exists()
    picture(photos / "a.png", 160, 100, 9)
    make("syn", photos, out)
    assert (out / "lr" / "a.png").stat().st_mtime_ns != before


def test_check_says_what_differs(small, photos, tmp_path, capsys):
    out = tmp_path / "out"
    make("syn", photos, out)
    assert main(["benchmark", "check", str(out)]) == 0
    Image.open(out / "lr" / "b.png").save(out / "lr" / "b.png", compress_level=0)  # other bytes, the same pixels
    assert main(["benchmark", "check", str(out)]) == 0
    (out / "lr" / "a.png").unlink()
    Image.open(out / "hr" / "b.png").transpose(Image.Transpose.ROTATE_180).save(out / "hr" / "b.png")
    picture(out / "lr" / "new.png", 8, 8)
    capsys.readouterr()
    assert main(["benchmark", "check", str(out)]) == 1
    told = capsys.readouterr().out
    assert "a.png is missing" in told and "b.png has other pixels" in told and "new.png is not in the manifest" in told
    assert main(["benchmark", "run", str(out), "-o", str(tmp_path / "r")]) == 2
    assert main(["benchmark", "check", str(tmp_path / "in")]) == 2


def test_run_enlarges_evaluates_and_writes_the_papers_tables(small, photos, tmp_path, capsys):
    make("syn", photos, tmp_path / "b")
    command = ["benchmark", "run", str(tmp_path / "b"), "-o", str(tmp_path / "r"), "--metrics", "psnr,ssim,gmsd,lpips"]
    assert main([*command, "--name", "embedded"]) == 0
    found = json.loads((tmp_path / "r" / "results.json").read_text())
    method = found["methods"]["embedded"]
    assert found["benchmark"] == "4KSR-Syn" and method["count"] == {"psnr": 2, "ssim": 2, "gmsd": 2}
    text = (tmp_path / "r" / "results.md").read_text()
    assert "**OP4KSR, table 3, on 4KSR-Syn**" in text and "| OP4KSR | 24.31 | 0.683 |" in text
    assert "| OP4KSR (published) | 5.75 |" in text
    assert f"| embedded | 2 | {method['mean']['psnr']:.2f}" in text and "this one, median of 2" in text
    assert sizes(tmp_path / "r", "sr") == sizes(tmp_path / "b", "hr")
    assert {p.name for p in (tmp_path / "r").iterdir()} == {
        "sr",
        *(f"results.{k}" for k in ("md", "csv", "html", "json")),
    }
    assert main(command) == 0 and "this one" not in (tmp_path / "r" / "results.md").read_text()  # nothing was timed


def test_run_without_truth_and_with_a_broken_result(small, photos, tmp_path, capsys):
    for width, name in ((64, "a"), (48, "b")):
        picture(photos / f"{name}.png", width, 64)
    make("vary", photos, tmp_path / "v")
    (tmp_path / "r" / "sr").mkdir(parents=True)
    (tmp_path / "r" / "sr" / "a.png").write_bytes(b"no")
    assert main(["benchmark", "run", str(tmp_path / "v"), "-o", str(tmp_path / "r")]) == 1
    found = json.loads((tmp_path / "r" / "results.json").read_text())
    assert (
        found["methods"]["ours"]["count"] == {"niqe": 0, "niqe-pyiqa": 0, "periodicity": 1}
        and "a" in found["methods"]["ours"]["errors"]
    )
    assert "psnr" in found["unavailable"] and "1 of 2" in capsys.readouterr().out

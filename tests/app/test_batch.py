import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_transformer, make_vae
from model_files import write_model
from PIL import Image

from op4ksr_core.app import cli
from op4ksr_core.app.batch import BatchSettings, Job, as_trials, plan_jobs, run_jobs
from op4ksr_core.errors import OutputError, SettingError
from op4ksr_core.geometry import Scale
from op4ksr_core.picture.read import read_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import UpscaleSettings

SETTINGS = BatchSettings(UpscaleSettings(), Scale(2))


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("model"), make_transformer(), make_vae())
    return Upscaler.from_pretrained(folder, device="cpu")


def picture(path, size=(9, 6), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(array).convert(mode).save(path)
    return path


def test_folder_keeps_names_and_structure(tmp_path):
    for name in ("a.png", "deep/er/b.jpg", "deep/c.webp", "notes.txt", ".hidden.png"):
        picture(tmp_path / "in" / name) if name[-3:] != "txt" else (tmp_path / "in" / name).write_text("x")
    jobs = plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"))
    names = sorted(str(job.output.relative_to(tmp_path / "out")) for job in jobs)
    assert names == ["a.png", "deep/c.png", "deep/er/b.png"]


def test_output_inside_input_is_not_read_again(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "out" / "a.png")
    jobs = plan_jobs([str(tmp_path)], str(tmp_path / "out"))
    assert [job.source for job in jobs] == [tmp_path / "a.png"]


def test_globs_single_file_and_doubles(tmp_path):
    a, b = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    assert len(plan_jobs([str(tmp_path / "*.png"), str(a)], str(tmp_path / "out"))) == 2
    assert plan_jobs([str(a)], str(tmp_path / "x.jpg")) == [Job(a, tmp_path / "x.jpg", tmp_path / "x_strip.jpg")]
    with pytest.raises(SettingError, match=f"^2 .*{re.escape(str(tmp_path / 'x.jpg'))}"):
        plan_jobs([str(a), str(b)], str(tmp_path / "x.jpg"))


def test_equal_names_do_not_overwrite_each_other(tmp_path):
    sources = [picture(tmp_path / n) for n in ("a.png", "a.jpg", "a.webp", "sub/a.png")]
    jobs = plan_jobs([str(s) for s in sources], str(tmp_path / "out"))
    assert [job.output.name for job in jobs] == ["a.png", "a_jpg.png", "a_webp.png", "a_png.png"]


@pytest.mark.parametrize("text", ["absent.png", "absent/*.png"])
def test_nothing_found(tmp_path, text):
    with pytest.raises(SettingError, match=re.escape(str(tmp_path / text))):
        plan_jobs([str(tmp_path / text)], str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingError, match=re.escape(str(tmp_path / "empty"))):
        plan_jobs([str(tmp_path / "empty")], str(tmp_path / "out"))


def test_a_result_never_replaces_its_source(tmp_path):
    source = picture(tmp_path / "a.png")
    with pytest.raises(SettingError, match=f"{re.escape(str(source))}.*-o"):
        plan_jobs([str(source)], str(tmp_path))


def test_one_bad_file_does_not_stop_the_folder(tmp_path, upscaler):
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"")
    (tmp_path / "in" / "c.jpg").write_bytes(b"no picture")
    picture(tmp_path / "in" / "d.png")
    jobs = plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"))
    results = list(run_jobs(upscaler, jobs, SETTINGS))
    assert [r.status for r in results] == ["done", "failed", "failed", "done"]
    assert "0 bytes" in results[1].error and "not a picture" in results[2].error
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["a.png", "d.png"]
    assert results[0].source_size == "9x6" and results[0].target_size == "18x12"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_modes_come_out_as_they_went_in(tmp_path, upscaler, mode):
    source = picture(tmp_path / "a.png", mode=mode)
    [result] = run_jobs(upscaler, [Job(source, tmp_path / "out.png")], SETTINGS)
    out, given = read_picture(tmp_path / "out.png"), read_picture(source)
    assert result.status == "done" and out.rgb.shape[-2:] == (12, 18)
    assert out.grey == given.grey and (out.alpha is None) == (given.alpha is None)
    if given.alpha is not None:
        small = torch.nn.functional.interpolate(out.alpha, size=(6, 9), mode="area")
        assert float((small - given.alpha).abs().mean()) < 0.15


def test_alpha_into_jpeg_fails_and_says_what_to_do(tmp_path, upscaler):
    [result] = run_jobs(upscaler, [Job(picture(tmp_path / "a.png", mode="RGBA"), tmp_path / "o.jpg")], SETTINGS)
    assert result.status == "failed" and "Write png, webp or tiff" in result.error


def test_finished_outputs_are_skipped_and_overwritten_on_demand(tmp_path, upscaler):
    job = Job(picture(tmp_path / "a.png"), tmp_path / "out.png")
    [first] = run_jobs(upscaler, [job], SETTINGS)
    stamp = job.output.stat().st_mtime_ns
    [second] = run_jobs(upscaler, [job], SETTINGS)
    assert (first.status, second.status) == ("done", "skipped") and job.output.stat().st_mtime_ns == stamp
    from dataclasses import replace

    [third] = run_jobs(upscaler, [job], replace(SETTINGS, overwrite=True))
    assert third.status == "done" and job.output.stat().st_mtime_ns > stamp


def test_a_locked_output_is_left_to_the_other_run(tmp_path, upscaler):
    from filelock import FileLock

    job = Job(picture(tmp_path / "a.png"), tmp_path / "out.png")
    with FileLock(tmp_path / ".out.png.lock"):
        [result] = run_jobs(upscaler, [job], SETTINGS)
    assert result.status == "skipped" and "another run" in result.notes[0] and not job.output.exists()
    [result] = run_jobs(upscaler, [job], SETTINGS)
    assert result.status == "done"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.png", "out.png"]


def test_strip_is_written(tmp_path, upscaler):
    from dataclasses import replace

    jobs = plan_jobs([str(picture(tmp_path / "a.png"))], str(tmp_path / "out.png"))
    first = list(run_jobs(upscaler, jobs, replace(SETTINGS, strip=True)))
    strip = tmp_path / "out_strip.jpg"
    assert Image.open(strip).size == (3 * 512 + 2 * 8, 512 + 36) and first[0].status == "done"
    made = strip.read_bytes()
    strip.unlink()  # as after a kill between the two
    [again] = run_jobs(upscaler, jobs, replace(SETTINGS, strip=True))
    assert again.notes == ("the strip alone was missing",) and strip.read_bytes() == made
    [done] = run_jobs(upscaler, jobs, replace(SETTINGS, strip=True))
    assert done.status == "skipped"


def test_names_stay_when_another_input_comes_later(tmp_path, upscaler):
    picture(tmp_path / "in" / "b.png")
    first = plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"))
    for name in ("b.bmp", "B.PNG", "b_strip.jpg"):
        picture(tmp_path / "in" / name)
    later = {job.source.name: job for job in plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"))}
    assert later["b.png"].output in (first[0].output, tmp_path / "out" / "b_png.png")
    names = [str(path).casefold() for job in later.values() for path in (job.output, job.strip)]
    assert len(set(names)) == len(names) == 8
    assert later["b.bmp"].output.name == "b_bmp.png" and later["b_strip.jpg"].output.name == "b_strip.png"


def test_what_a_killed_run_left_goes(tmp_path, upscaler):
    """A lock that nobody holds and a part of a process that is gone, beside an unfinished and a finished output."""
    jobs = plan_jobs([str(picture(tmp_path / "in" / "a.png"))], str(tmp_path / "out"))
    for _ in range(2):
        (tmp_path / "out").mkdir(exist_ok=True)
        for name in (".a.png.lock", ".a.png.4194999.part"):
            (tmp_path / "out" / name).write_bytes(b"half")
        list(run_jobs(upscaler, jobs, SETTINGS))
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_what_is_in_an_outputs_place_is_named(tmp_path, upscaler):
    jobs = plan_jobs([str(picture(tmp_path / "in" / "a.png"))], str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").touch()
    [made] = run_jobs(upscaler, jobs, SETTINGS)
    assert made.status == "done"  # an empty file is no result
    (tmp_path / "out" / "a.png").unlink()
    (tmp_path / "out" / "a.png").mkdir()
    [held] = run_jobs(upscaler, jobs, SETTINGS)
    assert held.status == "failed" and "a.png is a folder" in held.error


def test_what_is_no_file_is_told_of(tmp_path, upscaler):
    folder = tmp_path / "in"
    picture(folder / "ok.png")
    (folder / "broken.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    results = {
        Path(r.source).name: r for r in run_jobs(upscaler, plan_jobs([str(folder)], str(tmp_path / "o")), SETTINGS)
    }
    assert results["ok.png"].status == "done"
    assert "not there" in results["broken.png"].error and "not a file" in results["pipe.png"].error


def test_a_folder_that_cannot_be_made(tmp_path, upscaler):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=re.escape(str(tmp_path / "file"))):
        list(run_jobs(upscaler, [Job(picture(tmp_path / "a.png"), tmp_path / "file" / "out.png")], SETTINGS))


def _mount(path, options):
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if os.name != "posix" or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("NO tmpfs CAN BE MOUNTED HERE: the disk-full and read-only tests did not run")


def test_disk_full_ends_the_batch_and_leaves_no_broken_file(tmp_path, upscaler):
    small = tmp_path / "small"
    _mount(small, "size=64k")
    try:
        sources = [picture(tmp_path / f"{i}.png", (120, 120), seed=i) for i in range(3)]
        jobs = [Job(s, small / s.name) for s in sources]
        results = list(run_jobs(upscaler, jobs, SETTINGS))
        assert [r.status for r in results] == ["failed"] * 3
        assert "No space left" in results[0].error and "not started" in results[1].error
        assert [f for f in small.iterdir() if f.suffix != ".lock"] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_read_only_folder(tmp_path, upscaler):
    sealed = tmp_path / "sealed"
    _mount(sealed, "ro")
    try:
        with pytest.raises(OutputError, match=re.escape(str(sealed))):
            list(run_jobs(upscaler, [Job(picture(tmp_path / "a.png"), sealed / "a.png")], SETTINGS))
    finally:
        subprocess.run(["umount", str(sealed)], check=True)


def _run(*arguments, **options):
    command = [sys.executable, "-m", "op4ksr_core", "upscale", *map(str, arguments)]
    # A test run in the background ignores SIGINT, and its children would too.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture
def twelve(tmp_path):
    for i in range(12):
        picture(tmp_path / "in" / f"{i:02}.png", (100, 100), seed=i)
    return tmp_path / "in"


def _whole(folder):
    """Every finished file can be read and has its full size."""
    files = sorted(folder.glob("*.png"))
    assert all(read_picture(f).rgb.shape[-2:] == (400, 400) for f in files)
    return files


@pytest.mark.slow
def test_two_runs_share_a_folder(tmp_path, twelve):
    out = tmp_path / "out"
    runs = [_run(twelve, "-o", out) for _ in range(2)]
    texts = [run.communicate(timeout=240)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    done = sum(int(text.splitlines()[-1].split(" done")[0]) for text in texts)
    assert done == 12 and len(_whole(out)) == 12
    assert len(list(out.iterdir())) == 12


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_leaves_whole_files_and_goes_on(tmp_path, twelve, how):
    out, summary = tmp_path / "out", tmp_path / "summary.json"
    run = _run(twelve, "-o", out, "--json", summary)
    started = time.time()
    while not (out.is_dir() and list(out.glob("[0-9]*.png"))) and time.time() - started < 120:
        time.sleep(0.02)
    run.send_signal(how)
    output, errors = run.communicate(timeout=120)
    finished = _whole(out)
    assert 0 < len(finished) < 12
    if how == signal.SIGINT:
        assert run.returncode == 130 and "not started or unfinished" in output and summary.exists()
        assert "Traceback" not in errors
    again = _run(twelve, "-o", out)
    text = again.communicate(timeout=240)[0]
    assert again.returncode == 0 and len(_whole(out)) == 12
    assert f"{len(finished)} skipped" in text
    assert not list(Path(out).glob("*.part"))


def test_a_region_is_written_beside_a_whole_result_and_never_over_it(tmp_path, upscaler):
    """Also where a picture's own name is that of the other's region; a second try is made again."""
    picture(tmp_path / "in" / "a.png", (40, 30))
    picture(tmp_path / "in" / "a_region_8_4_16_12.png", (40, 30), seed=1)
    jobs = plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"))
    list(run_jobs(upscaler, jobs, SETTINGS))
    whole = {job.output: job.output.read_bytes() for job in jobs}
    tried = as_trials(jobs, "8,4,16,12")
    assert not {job.output for job in tried} & set(whole)
    [first, _] = run_jobs(upscaler, tried, replace(SETTINGS, region="8,4,16,12", overwrite=True))
    assert first.status == "done" and (first.source_size, first.target_size) == ("16x12", "32x24")
    assert read_picture(tried[0].output).rgb.shape[-2:] == (24, 32)
    assert {path: path.read_bytes() for path in whole} == whole


def test_a_region_outside_fails_its_picture_alone(tmp_path, upscaler):
    picture(tmp_path / "in" / "a.png", (40, 30))
    picture(tmp_path / "in" / "b.png", (20, 20))
    jobs = as_trials(plan_jobs([str(tmp_path / "in")], str(tmp_path / "out")), "8,4,30,12")
    good, bad = run_jobs(upscaler, jobs, replace(SETTINGS, region="8,4,30,12"))
    assert good.status == "done" and bad.status == "failed"
    assert "8,4,30,12" in bad.error and "20x20" in bad.error


@pytest.mark.parametrize("region", ["8,4,30", "centre"])
def test_a_region_that_is_none(tmp_path, region, capsys):
    source = picture(tmp_path / "a.png")
    assert cli.main(["upscale", str(source), "-o", str(tmp_path / "b.png"), "--region", region]) == 2
    assert region in capsys.readouterr().err

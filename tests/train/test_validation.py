"""Held-out photographs: judged at fixed steps on fixed crops, and the best adapters kept."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from trainings import log_of

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError
from op4ksr_core.evaluate.measures import psnr
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.write import write_picture
from op4ksr_core.train.checkpoint import checkpoints, load_checkpoint
from op4ksr_core.train.data import PairDataset
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.strategies.flow import FlowStrategy
from op4ksr_core.train.trainer import Trainer
from op4ksr_core.train.validation import HeldOut, Measure
from op4ksr_core.weights.sources import Sources

pytestmark = pytest.mark.long

SMALL = replace(PRESETS["embedded"], rank=2, alpha=2, steps=4, batch=2, per_device=2, crop=96, learning_rate=3e-3)
PSNR = Measure("psnr", psnr, lambda value: value)


@pytest.fixture(scope="module")
def places(tmp_path_factory, photo):
    """Folders `photos` and `held`."""
    root = tmp_path_factory.mktemp("validation")
    for name in ("photos", "held"):
        (root / name).mkdir()
    for n in range(4):
        write_picture(root / "photos" / f"{n}.png", Picture(photo[..., 60 * n : 60 * n + 120, 40 * n : 40 * n + 120]))
    for n in range(2):
        write_picture(root / "held" / f"{n}.png", Picture(photo[..., 340:480, 200 * n : 200 * n + 140]))
    return root


def train(places, run, held_out, stop_after=None, settings=SMALL):
    sources = Sources.find(EMBEDDED)
    trainer = Trainer(settings, sources, [places / "photos"], run, cpu=True, held_out=held_out, licence="cc-by-4.0")
    try:
        return trainer.run(stop_after=stop_after)
    finally:
        trainer.close()


@pytest.fixture(scope="module")
def whole(places, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    train(places, run, HeldOut([places / "held"], [PSNR], "psnr", every=1, count=3))
    return run


def test_the_figures_are_those_of_the_saved_adapters_on_fixed_crops(places, whole):
    log = log_of(whole)
    assert all("valid_psnr" in line for line in log)
    state, _ = load_checkpoint(checkpoints(whole)[-1])
    model = FlowStrategy.load(Sources.find(EMBEDDED), SMALL)
    data = PairDataset(sorted((places / "held").iterdir()), 96, 4, "embedded", 0, 3)
    values = []
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            parameter.copy_(state["trainable"][name])
        for n in range(3):
            batch = {name: torch.as_tensor(value)[None] for name, value in data[n].items()}
            shown = model.losses(batch, model(*model.inputs(batch)))[1].clamp(0, 1)
            values.append(psnr((shown * 255).round() / 255, batch["hr"]))
    assert log[-1]["valid_psnr"] == pytest.approx(sum(values) / 3, abs=1e-3)


def test_the_best_adapters_are_kept_with_their_figures_and_card(whole):
    figures = {line["step"]: line["valid_psnr"] for line in log_of(whole)}
    held = json.loads((whole / "best" / "figures.json").read_text())
    assert held["by"] == "psnr" and held["step"] == max(figures, key=figures.get)
    assert held["valid_psnr"] == max(figures.values())
    best = whole / "checkpoints" / f"step-{held['step']:06}"
    ours, theirs = (load_file(folder / "adapters.safetensors") for folder in (whole / "best", best))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (whole / "best" / "state.pt").exists()
    card = (whole / "best" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and f"| valid_psnr | {held['valid_psnr']:.6g} |" in card
    assert f"step {held['step']} of 4" in card and "4, " in card


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_best_so_far(places, whole, tmp_path):
    held_out = HeldOut([places / "held"], [PSNR], "psnr", every=1, count=3)
    run = tmp_path / "run"
    train(places, run, held_out, stop_after=2)
    train(places, run, held_out)
    assert [line["valid_psnr"] for line in log_of(run)] == [line["valid_psnr"] for line in log_of(whole)]
    assert (run / "best" / "figures.json").read_text() == (whole / "best" / "figures.json").read_text()


def test_a_figure_that_is_better_when_less_keeps_the_least(places, tmp_path):
    """And the last step is judged, though it is no multiple."""
    values = iter([3.0, 2.0])
    held_out = HeldOut([places / "held"], [Measure("error", lambda a, b: next(values), lambda v: -v)], "error", 3, 1)
    train(places, tmp_path / "run", held_out)
    assert [line.get("valid_error") for line in log_of(tmp_path / "run")] == [None, None, 3.0, 2.0]
    assert json.loads((tmp_path / "run" / "best" / "figures.json").read_text())["step"] == 4


def test_held_out_photographs_are_not_trained_on(places, tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "0.png").symlink_to(places / "photos" / "0.png")
    with pytest.raises(SettingError, match=r"^1 held-out.*photos/0\.png"):
        train(places, tmp_path / "run", HeldOut([tmp_path / "held"], [PSNR], "psnr"))


@pytest.mark.parametrize(
    ("options", "named"), [(["--metrics", "nonsense"], "nonsense"), (["--best", "fidelity"], "fidelity")]
)
def test_a_wrong_metric_is_named_before_any_work(places, tmp_path, capsys, options, named):
    words = ["train", str(places / "photos"), "-o", str(tmp_path / "run"), "--device", "cpu", "--crop", "96"]
    assert cli.main([*words, "--validate", str(places / "held"), *options]) == 2
    assert named in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_the_command_validates_and_shows_the_held_out_crops(places, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    shutil.copytree(places / "photos", tmp_path / "photos")
    words = ["train", str(tmp_path / "photos"), "-o", str(run), "--device", "cpu", "--crop", "96", "--rank", "2"]
    words += ["--steps", "1", "--batch", "2", "--per-device", "2", "--validate", str(places / "held")]
    assert cli.main([*words, "--validate-count", "2", "--metrics", "psnr", "right"]) == 0
    assert "valid_psnr" in capsys.readouterr().out
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"valid_psnr", "valid_hf_correlation", "held out 0: periodicity score"} <= set(events.Tags()["scalars"])
    assert {f"held out {n}: LR, restored, HR" for n in (0, 1)} < set(events.Tags()["images"])

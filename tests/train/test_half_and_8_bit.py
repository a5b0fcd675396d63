"""Training in float16 with a scaled loss, and with moments of 8 bits."""

import sys
from dataclasses import replace

import pytest
import torch
from trainings import log_of, run_training, write_three

from op4ksr_core.errors import SettingError, TrainingError
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.train.checkpoint import checkpoints, load_checkpoint
from op4ksr_core.train.memory import meta_model, plan_training
from op4ksr_core.train.pace import PACE
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.processes import make_accelerator
from op4ksr_core.train.trainer import Trainer
from op4ksr_core.weights.sources import Sources

SMALL = replace(
    PRESETS["embedded"], rank=2, alpha=2, steps=3, batch=2, per_device=1, crop=96, learning_rate=1e-3, clip=1e9
)
HALF = replace(SMALL, precision="fp16")


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo):
    return write_three(tmp_path_factory.mktemp("photos"), photo)


def train(settings, photos, run, **options):
    run_training(settings, Sources.find(EMBEDDED), photos, run, **options)
    return log_of(run)


def assert_same_run(a, b):
    logs = [[{k: v for k, v in line.items() if k not in PACE} for line in log_of(run)] for run in (a, b)]
    assert logs[0] == logs[1]
    ours, theirs = (load_checkpoint(checkpoints(run)[-1])[0]["trainable"] for run in (a, b))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.long
def test_float16_learns_what_float32_learns(photos, tmp_path):
    """Within its rounding; the gradient is that of the loss, not of the scaled one."""
    half, single = (train(settings, photos, tmp_path / settings.precision) for settings in (HALF, SMALL))
    for a, b in zip(half, single, strict=True):
        assert a["mse"] == pytest.approx(b["mse"], rel=0.02)
        assert a["gradient"] == pytest.approx(b["gradient"], rel=0.1)
        assert a["mse"] != b["mse"] and a["loss_scale"] == 65536 and "loss_scale" not in b


@pytest.mark.long
def test_a_gradient_that_overflows_is_left_out_and_the_scale_falls(photos, tmp_path, monkeypatch):
    """Also across a stop: the scale is part of a checkpoint."""
    make = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *a, **k: make(*a, init_scale=2.0**24, **k))
    log = train(HALF, photos, tmp_path / "whole")
    assert log[0]["gradient"] == 0 and log[0]["loss_scale"] == 2.0**23
    start = load_checkpoint(checkpoints(tmp_path / "whole")[-1])[0]
    assert start["scaler"]["scale"] == log[-1]["loss_scale"] < 2.0**24
    train(HALF, photos, tmp_path / "parts", stop_after=1)
    train(HALF, photos, tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_gradient_that_overflows_at_every_scale_stops_the_run(photos, tmp_path, monkeypatch):
    make = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *a, **k: make(*a, init_scale=1.0, **k))
    with pytest.raises(TrainingError, match="Step 1: .*gradient.*(inf|nan)"):
        train(replace(HALF, losses=replace(HALF.losses, mse=1e9)), photos, tmp_path / "run")


@pytest.mark.long
def test_vsd_in_float16_scales_the_regulariser_too(photos, tmp_path):
    losses = replace(HALF.losses, vsd=0.5)
    settings = replace(HALF, losses=losses, negative=str(EMBEDDED / "prompt.safetensors"), steps=1)
    half = train(settings, photos, tmp_path / "half")
    single = train(replace(settings, precision="no"), photos, tmp_path / "single")
    assert half[0]["regulariser"] == pytest.approx(single[0]["regulariser"], rel=0.02)
    state = load_checkpoint(checkpoints(tmp_path / "half")[-1])[0]
    assert state["regulariser_scaler"]["scale"] == 65536
    ups = [value for name, value in state["regulariser"].items() if "lora_B" in name]
    assert ups and all(float(value.abs().max()) > 0 for value in ups)


def test_a_missing_package_is_named_before_any_work(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(SettingError, match=r"adamw8bit.*torchao.*pip install 'op4ksr\[adamw8bit\]'"):
        train(replace(SMALL, optimizer="adamw8bit"), photos, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("precision", "fp16"), ("optimizer", "adamw8bit")])
def test_what_does_not_go_with_sharding_is_named(name, value):
    with pytest.raises(SettingError, match=f"--shard .*--{name} {value}"):
        make_accelerator(replace(SMALL, **{name: value}), cpu=True, sharded=True)


def test_the_plan_counts_what_the_optimizer_keeps():
    meta = meta_model(Sources.find(EMBEDDED), SMALL)
    plain, few = (plan_training(meta, replace(SMALL, optimizer=name)) for name in ("adamw", "adamw8bit"))
    assert (plain.trained, few.trained) == (16 * plain.trained_parameters, 10 * plain.trained_parameters)


@pytest.fixture
def eight_bits():
    """torchao's optimizer without its compiler, which takes minutes on a CPU."""
    pytest.importorskip("torchao.optim")
    with torch.compiler.set_stance("force_eager"):
        yield replace(SMALL, optimizer="adamw8bit", rank=32, alpha=32, warmup=2)


def test_moments_of_8_bits_learn_as_whole_ones_and_resume(photos, tmp_path, eight_bits):
    trainer = Trainer(eight_bits, Sources.find(EMBEDDED), [photos], tmp_path / "whole", cpu=True, save_every=1)
    try:
        trainer.run()
        moments = [state["exp_avg"] for state in trainer.learner.learned.optimizer.state.values()]
    finally:
        trainer.close()
    large = [one for one in moments if one.numel() >= 4096 and one.numel() % 256 == 0]
    assert large and all(one.codes.dtype == torch.uint8 for one in large)
    train(eight_bits, photos, tmp_path / "parts", stop_after=1)
    train(eight_bits, photos, tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    plain = train(replace(eight_bits, optimizer="adamw"), photos, tmp_path / "plain")
    ours = log_of(tmp_path / "whole")
    assert [line["learning_rate"] for line in ours] == [line["learning_rate"] for line in plain]
    assert ours[-1]["mse"] == pytest.approx(plain[-1]["mse"], rel=0.02)

"""Learning rates over a training, and the running average of the weights."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from trainings import log_of, write_three

from op4ksr_core.paths import EMBEDDED
from op4ksr_core.train.checkpoint import checkpoints, load_checkpoint
from op4ksr_core.train.learned import Learned
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.schedule import rate_factor
from op4ksr_core.train.trainer import Trainer
from op4ksr_core.weights.sources import Sources

SMALL = replace(PRESETS["embedded"], rank=2, alpha=2, steps=4, batch=2, per_device=2, crop=96, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant", 3, [0.25, 0.5, 0.75, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("linear", 2, [1 / 3, 2 / 3, 1, 0.5]),
        ("cosine", 0, [1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5]),
    ],
)
def test_rates_by_step(schedule, warmup, factors):
    settings = replace(SMALL, schedule=schedule, warmup=warmup)
    assert [rate_factor(settings, step) for step in range(4)] == pytest.approx(factors)


def test_the_average_follows_by_its_decay():
    weight = torch.nn.Parameter(torch.zeros(1))
    learned = Learned({"w": weight}, SMALL, 1.0, ema=0.5)
    expected = None
    for step, value in enumerate([4.0, 8.0, 0.0, 2.0], 1):
        weight.data.fill_(value)
        learned.follow(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert float(learned.average["w"]) == pytest.approx(expected)
    with learned.averaged():
        assert float(weight.detach()) == pytest.approx(expected)
    assert float(weight.detach()) == 2.0


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo):
    return write_three(tmp_path_factory.mktemp("photos"), photo)


def train(photos, run, settings, stop_after=None):
    trainer = Trainer(settings, Sources.find(EMBEDDED), [photos], run, cpu=True)
    try:
        trainer.run(stop_after=stop_after)
    finally:
        trainer.close()
    return load_checkpoint(checkpoints(run)[-1])[0]


SCHEDULED = replace(SMALL, schedule="cosine", warmup=1, ema=0.9)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, train(photos, run, SCHEDULED)


@pytest.mark.long
def test_a_resumed_run_has_the_same_rates_weights_and_average(photos, whole, tmp_path):
    run, state = whole
    rates = [line["learning_rate"] for line in log_of(run)]
    assert rates == pytest.approx([1e-3 * rate_factor(SCHEDULED, step) for step in range(4)]) and len({*rates}) == 4
    train(photos, tmp_path / "run", SCHEDULED, stop_after=2)
    again = train(photos, tmp_path / "run", SCHEDULED)
    for part in ("trainable", "average"):
        assert all(torch.equal(again[part][name], state[part][name]) for name in state[part])


def test_the_average_is_exported(whole):
    run, state = whole
    held = load_file(checkpoints(run)[-1] / "adapters.safetensors")
    ups = {name: value for name, value in held.items() if "lora_B" in name or "lora_up" in name}
    sizes = sorted(float(value.abs().sum()) for value in ups.values())
    for part, alike in (("average", True), ("trainable", False)):
        own = sorted(float(value.abs().sum()) for name, value in state[part].items() if "lora_B" in name)
        assert len(own) == len(sizes) > 30
        assert (own == pytest.approx(sizes, rel=1e-5)) is alike


@pytest.mark.long
def test_a_seed_reproduces_and_another_does_not(photos, whole, tmp_path):
    _, state = whole
    again = train(photos, tmp_path / "again", SCHEDULED)["trainable"]
    other = train(photos, tmp_path / "other", replace(SCHEDULED, seed=1))["trainable"]
    assert all(torch.equal(again[name], value) for name, value in state["trainable"].items())
    assert not any(torch.equal(other[name], value) for name, value in state["trainable"].items())

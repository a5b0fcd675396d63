"""OMGSR-F's training (arXiv 2508.08227; its code): eighths of a side, larger kernels, a sampled posterior."""

import math
from dataclasses import replace

import pytest
import torch
from trainings import log_of, run_training

from op4ksr_core.geometry import Size
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.read import Picture
from op4ksr_core.picture.write import write_picture
from op4ksr_core.settings import PRESETS as INFERENCE
from op4ksr_core.train.degradation.draw import draw
from op4ksr_core.train.degradation.presets import DEGRADATIONS
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.strategies.flow import FlowStrategy
from op4ksr_core.weights.sources import Sources

OMGSR_F = PRESETS["omgsr-f"]
SMALL = replace(PRESETS["embedded"], rank=2, alpha=2, steps=2, batch=1, per_device=1, crop=96)


def test_the_preset_is_that_of_its_code():
    """configs/omgsr_f_1024.yml and dataset/realesrgan.py at resolution 1024."""
    assert (OMGSR_F.crop, OMGSR_F.scale, OMGSR_F.steps, OMGSR_F.learning_rate) == (1024, 8, 6000, 5e-5)
    assert OMGSR_F.sample_posterior and (OMGSR_F.rank, OMGSR_F.alpha, OMGSR_F.weight_decay) == (64, 64, 1e-4)
    shared = INFERENCE["omgsr"]
    assert OMGSR_F.sigma == shared.sigma and OMGSR_F.rope == shared.rope
    assert (shared.posterior_seed, shared.colour) == (0, "adain")
    assert (shared.window, shared.window_weights) == (1024, "gaussian")


def test_kernels_are_of_11_to_41_px_and_the_wide_ones_from_25():
    """Every odd side; a sinc filter may cut off from pi/5 where its side is 25 px or more, from pi/3 below."""
    how = DEGRADATIONS[OMGSR_F.degradation]
    plans = [draw(Size(1024, 1024), torch.Generator().manual_seed(n), how) for n in range(1500)]
    kernels = [step for plan in plans for step in plan if step.kernel is not None]
    assert {step.kernel.shape[0] for step in kernels} == set(range(11, 42, 2))
    sincs = [plan[0] for plan in plans if plan[0].kind == "sinc"]
    narrow = [step.strength for step in sincs if step.kernel.shape[0] < 25]
    wide = [step.strength for step in sincs if step.kernel.shape[0] >= 25]
    assert math.pi / 5 <= min(wide) < math.pi / 4 and math.pi / 3 <= min(narrow)
    assert {next(s.size for s in reversed(plan) if s.kind == "resize") for plan in plans} == {Size(128, 128)}


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_trains_at_other_scales(photo, tmp_path, scale):
    (tmp_path / "photos").mkdir()
    write_picture(tmp_path / "photos" / "a.png", Picture(photo[..., :200, :220]))
    settings = replace(SMALL, scale=scale, degradation="omgsr-f", sample_posterior=True)
    assert run_training(settings, Sources.find(EMBEDDED), tmp_path / "photos", tmp_path / "run") == 2
    assert all(math.isfinite(line["total"]) for line in log_of(tmp_path / "run"))


def test_each_sample_has_its_own_draw_of_the_posterior():
    batch = {"lr": torch.rand(1, 3, 12, 12), "hr": torch.rand(1, 3, 96, 96), "seed": torch.tensor([5])}
    made = {}
    for sampled in (False, True):
        model = FlowStrategy.load(Sources.find(EMBEDDED), replace(SMALL, scale=8, sample_posterior=sampled))
        with torch.no_grad():
            made[sampled] = [model(*model.inputs(batch | {"seed": torch.tensor([seed])})).z_lr for seed in (5, 5, 6)]
    assert torch.equal(made[False][0], made[False][2]) and torch.equal(made[True][0], made[True][1])
    assert not torch.equal(made[True][0], made[True][2]) and not torch.equal(made[True][0], made[False][0])

"""Settings that files bring: whatever JSON they hold, they are taken or refused by name, and nothing else is raised."""

import json

import pytest
import torch
from builders import make_vae
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unet_models import UNET

from op4ksr_core.errors import Op4ksrError, WeightsError
from op4ksr_core.train.checkpoint import load_checkpoint
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.weights.adapters import checked_adapter
from op4ksr_core.weights.configs import strided_by, vae_config
from op4ksr_core.weights.unet_sources import UNetSources

pytestmark = pytest.mark.slow
BUDGET = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def some_of(names):
    """A dictionary with any values under some of these names, and perhaps one more."""
    return st.dictionaries(st.sampled_from(sorted(names)) | st.text(max_size=6), VALUES, max_size=4)


PAIR = {"a.lora_A.weight": torch.zeros(4, 8), "a.lora_B.weight": torch.zeros(8, 4)}


@BUDGET
@given(VALUES | some_of({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora"}))
def test_an_adapters_settings(config):
    try:
        found = checked_adapter("adapter", config, PAIR)
    except WeightsError as error:
        assert "adapter" in str(error)
    else:
        assert isinstance(found.config, dict) and found.config.get("r", 4) in (4, None) or found.config["rank_pattern"]


SHAPES = {key: tuple(value.shape) for key, value in make_vae().state_dict().items()}


@BUDGET
@given(some_of({"scaling_factor", "shift_factor", "norm_num_groups", "stride"}))
def test_an_autoencoders_settings(config):
    try:
        found = vae_config(SHAPES, config, "vae")
        assert all(abs(found[name]) < float("inf") for name in ("scaling_factor", "shift_factor"))
        assert strided_by(config) in (True, False)
    except WeightsError as error:
        assert "config.json" in str(error)


@BUDGET
@given(changes=VALUES | some_of(PRESETS["embedded"].as_dict()))
def test_a_checkpoints_settings(tmp_path, changes):
    held = PRESETS["embedded"].as_dict()
    held = held | changes if isinstance(changes, dict) else changes
    (tmp_path / "settings.json").write_text(json.dumps(held))
    torch.save({"step": 1}, tmp_path / "state.pt")
    try:
        _, found = load_checkpoint(tmp_path)
        assert found.as_dict().keys() == PRESETS["embedded"].as_dict().keys()
    except WeightsError as error:
        assert str(tmp_path) in str(error)


@BUDGET
@given(changes=VALUES | some_of({*UNET, "prediction_type"}), scheduler=VALUES | some_of({"prediction_type"}))
def test_a_unets_settings(tmp_path, changes, scheduler):
    """Of a folder whose weights are not even looked at, for its config is read first."""
    from safetensors.torch import save_file

    for part in ("unet", "vae", "scheduler"):
        (tmp_path / part).mkdir(exist_ok=True)
    held = UNET | changes if isinstance(changes, dict) else changes
    (tmp_path / "unet" / "config.json").write_text(json.dumps(held))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({"prompt_embeds": torch.zeros(1, 2, 24)}, tmp_path / "prompt.safetensors")
    with pytest.raises(Op4ksrError):
        UNetSources.find(tmp_path).load_transformer(torch.float32)

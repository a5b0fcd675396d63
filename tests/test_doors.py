"""Public functions check what they are given once, at the door, by our own errors."""

import json
import re

import numpy as np
import pytest
import torch

from op4ksr_core import PRESETS, Upscaler
from op4ksr_core.errors import ImageError, Op4ksrError, SettingError, WeightsError
from op4ksr_core.evaluate.run import evaluate
from op4ksr_core.files import at_home
from op4ksr_core.geometry import LongSide, Megapixels, Scale, ShortSide, Size
from op4ksr_core.model.compensation import compensate
from op4ksr_core.settings import UpscaleSettings
from op4ksr_core.testsets.make import read_manifest
from op4ksr_core.weights.adapters import find_adapters
from op4ksr_core.weights.configs import vae_config
from op4ksr_core.weights.files import find_weights
from op4ksr_core.weights.loading import load_transformer
from op4ksr_core.weights.prompt_files import load_prompt

NO_PICTURES = [
    torch.full((1, 3, 16, 16), float("nan")),
    torch.full((1, 3, 16, 16), float("inf")),
    torch.full((1, 3, 16, 16), 2.0),
    torch.zeros(0, 3, 16, 16),
    torch.zeros(1, 3, 0, 16),
    torch.zeros(3, 16, 16),
    torch.zeros(1, 4, 16, 16),
    torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
    np.zeros((1, 3, 16, 16), np.float32),
    None,
]


@pytest.mark.parametrize("wrong", NO_PICTURES, ids=lambda x: str(getattr(x, "shape", x)))
def test_what_is_no_picture(wrong):
    with pytest.raises(ImageError):
        compensate(wrong, torch.rand(1, 3, 4, 4))
    with pytest.raises(ImageError):
        compensate(torch.rand(1, 3, 16, 16), wrong)


def test_bfloat16_pictures_are_taken():
    made = compensate(torch.rand(1, 3, 32, 32).bfloat16(), torch.rand(1, 3, 8, 8).bfloat16())
    assert made.shape == (1, 3, 32, 32) and bool(made.isfinite().all())


@pytest.mark.parametrize("sides", [(1.5, 5), (5, float("nan")), ("4", 4), (4, None), (0, 4)])
def test_sides_are_whole_numbers(sides):
    with pytest.raises(SettingError):
        Size(*sides)
    assert Size(np.int64(4), 5) == Size(4, 5)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Scale, "2"), (Scale, float("nan")), (LongSide, float("nan")), (LongSide, 10.5), (LongSide, "8"),
        (ShortSide, float("inf")), (Megapixels, "1"),
    ],
)  # fmt: skip
def test_wanted_sizes_are_numbers(kind, value):
    with pytest.raises(SettingError, match=str(value)):
        kind(value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": "0.3"}, {"sigma": None}, {"steps": "one"}, {"guidance": "x"}, {"noise": [0]}, {"seed": 1.5},
        {"fidelity": "high"}, {"compensation": float("nan")}, {"window": float("nan")},
    ],
)  # fmt: skip
def test_settings_of_the_wrong_type(wrong):
    with pytest.raises(SettingError):
        UpscaleSettings(**wrong)


def test_an_upscaler_takes_settings_alone(embedded):
    with pytest.raises(SettingError, match="got str"):
        Upscaler.from_embedded("embedded")
    with pytest.raises(SettingError, match="got dict"):
        embedded(torch.rand(1, 3, 8, 8), settings=vars(PRESETS["embedded"]))


LONG = "x" * 4000


@pytest.mark.parametrize("load", [find_weights, find_adapters, load_prompt, load_transformer, at_home])
@pytest.mark.parametrize("name", [LONG, "/".join(["a" * 200] * 40), "a\0b"])
def test_names_that_no_file_has(load, name):
    with pytest.raises(Op4ksrError):
        load(name)


@pytest.mark.parametrize("value", [1e-30, 1e30, 0, -1, float("nan"), "0.3"])
def test_a_vaes_scale_is_within_reason(value):
    with pytest.raises(WeightsError, match=f"scaling_factor = {re.escape(repr(value))}"):
        vae_config({}, {"scaling_factor": value}, "ae.safetensors")


def test_a_manifest_entry_that_is_text(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"kind": "uhd", "pictures": {"a": "hr and lr"}}))
    with pytest.raises(SettingError, match=r"manifest\.json: a .*hr and lr"):
        read_manifest(path)
    path.write_text(json.dumps({"kind": "uhd", "pictures": "all"}))
    with pytest.raises(SettingError, match=r"manifest\.json: pictures .*'all'"):
        read_manifest(path)


def test_finished_rows_are_kept_in_a_file(tmp_path):
    with pytest.raises(SettingError, match=re.escape(str(tmp_path))):
        evaluate([], [], keep=tmp_path)

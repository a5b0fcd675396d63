"""Weights and adapters that are not what they should be: refused by the name of what is wrong."""

import json
import os

import pytest
import torch
from builders import make_transformer, make_vae
from model_files import write_model, write_omgsr_adapters
from safetensors.torch import load_file, save_file

from op4ksr_core.errors import Op4ksrError, WeightsError
from op4ksr_core.weights import loading, prompt_files
from op4ksr_core.weights.adapters import find_adapters
from op4ksr_core.weights.files import find_weights


@pytest.fixture
def adapters(tmp_path):
    write_omgsr_adapters(tmp_path / "adapters", make_transformer(), make_vae())
    return tmp_path / "adapters"


def changed(adapters, **values):
    path = adapters / "flux_adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return adapters


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"r": "many"}, "r must .*'many'"),
        ({"r": 100_000}, "r must .*100000"),
        ({"r": 3}, "rank 4.*r = 3"),
        ({"r": True}, "r must .*True"),
        ({"lora_alpha": "x"}, "lora_alpha.*'x'"),
        ({"lora_alpha": float("nan")}, "lora_alpha.*nan"),
        ({"lora_alpha": None}, "lora_alpha.*None"),
        ({"rank_pattern": [1]}, r"rank_pattern.*\[1\]"),
    ],
)
def test_peft_settings(adapters, values, text):
    with pytest.raises(WeightsError, match=text):
        find_adapters(changed(adapters, **values))


@pytest.mark.parametrize(("text", "told"), [("[1]", "list"), ("{", "JSON"), ("", "JSON")])
def test_a_config_that_is_no_object(adapters, text, told):
    (adapters / "flux_adapter" / "adapter_config.json").write_text(text)
    with pytest.raises(WeightsError, match=rf"adapter_config\.json.*{told}"):
        find_adapters(adapters)


def test_values_that_are_no_numbers(adapters, tmp_path):
    path = adapters / "flux_adapter" / "adapter_model.safetensors"
    state = load_file(path)
    name = sorted(state)[0]
    state[name][0, 0] = float("inf")
    save_file(state, path)
    with pytest.raises(WeightsError, match=r"flux_adapter.*to_k\.lora_A\.weight.*not finite"):
        find_adapters(adapters)
    save_file(
        {"prompt_embeds": torch.full((1, 2, 4), float("nan")), "pooled_prompt_embeds": torch.zeros(1, 4)},
        tmp_path / "p.safetensors",
    )
    with pytest.raises(WeightsError, match=r"p\.safetensors: prompt_embeds.*not finite"):
        prompt_files.load_prompt(tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ({"weight_map": {"a": "../outside.safetensors"}}, r"outside.*: \.\./outside\.safetensors"),
        ({"weight_map": {"a": "/etc/passwd"}}, "outside.*: /etc/passwd"),
        ({"weight_map": {"a": 5}}, "weight_map.*{'a': 5}"),
        ({"weight_map": ["a"]}, r"weight_map.*\['a'\]"),
        ({"weight_map": {}}, "names no tensors"),
        ({"weight_map": {"a": "gone.safetensors"}}, r"not there: gone\.safetensors"),
        ([], "list"),
    ],
)
def test_an_index_is_read_in_its_own_folder_alone(tmp_path, index, text):
    save_file({"a": torch.zeros(1)}, tmp_path / "outside.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "m.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=rf"m\.safetensors\.index\.json.*{text}"):
        find_weights(folder)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"stride": "two"}, "stride = 'two'"),
        ({"stride": 3}, "stride = 3"),
        ({"head": "left"}, "head = 'left'"),
        ({"scaling_factor": float("nan")}, "scaling_factor = nan"),
        ({"scaling_factor": 0}, "scaling_factor = 0"),
        ({"shift_factor": "x"}, "shift_factor = 'x'"),
    ],
)
def test_a_vae_config(tmp_path, values, text):
    folder = write_model(tmp_path / "model", make_transformer(), make_vae())
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(WeightsError, match=text):
        loading.load_vae(folder / "vae")


def test_a_factor_against_the_config_is_refused(tmp_path):
    folder = write_model(tmp_path / "model", make_transformer(), make_vae())
    with pytest.raises(Op4ksrError, match=r"16x.*config\.json.*8x.*--vae-factor"):
        loading.load_vae(folder / "vae", f16=False)


def test_cut_files_lying_headers_and_pipes(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_file({"a": torch.zeros(100)}, whole)
    for name, data in {
        "cut": whole.read_bytes()[:-50],
        "long": whole.read_bytes()[:8] + b'{"a":{"dtype":"F32","shape":[99999999],"data_offsets":[0,399999996]}}',
        "header": b"\xff" * 8 + whole.read_bytes()[8:],
        "empty": b"",
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=rf"{name}\.safetensors"):
            find_weights(path).tensors()
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(WeightsError, match=r"pipe\.safetensors"):
        find_weights(tmp_path / "pipe.safetensors")

"""What a CPU run does not meet by itself, imitated inside each ComfyUI: see internals_probe.py."""

import json
import subprocess

import pytest
import torch
from comfy_server import python_of
from model_files import write_probe_model
from places import ROOT
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def found(comfyui, tmp_path_factory):
    base = tmp_path_factory.mktemp("internals")
    folder = write_probe_model(base)
    torch.manual_seed(5)
    given = {"x": torch.rand(1, 3, 96, 160), "z": torch.randn(1, 16, 6, 10)} | load_file(folder / "prompt.safetensors")
    save_file(given, base / "in.safetensors")
    command = [
        python_of(comfyui),
        ROOT / "tests" / "helpers" / "internals_probe.py",
        comfyui,
        base,
        folder,
        base / "in.safetensors",
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=base)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("how", ["vae fp16", "vae fp8", "vae streamed", "vae lowvram", "model fp8"])
def test_weights_are_cast_layer_by_layer(found, how):
    assert found[how] < 1e-4
    assert found["casts"] > 20 and found["lowvram acts"] > 0.05 and found["fp8 acts"] > 1e-4


def test_adapters_of_a_vae_survive_f16(found):
    assert found["patches go along"] > 0.05 and found["the F8 one is left alone"] == 8


@pytest.mark.parametrize("what", ["model", "F8", "F16"])
def test_weights_can_be_loaded_anew(found, what):
    """As hooks under streaming weights and the nodes that choose a device do."""
    assert found[f"{what} loaded anew"]


def test_a_copy_leaves_a_streaming_patchers_bookkeeping_behind(found):
    assert found["bookkeeping copied"] == [] and found["bookkeeping kept"]


@pytest.mark.parametrize(("times", "ends"), [(1, "whole"), (2, "strips"), (3, "frugal")])
def test_memory_that_runs_out_leads_to_leaner_passes(found, times, ends):
    """The same pass again, then strips, then frugal; the same picture, and a line each time."""
    assert found[f"passes after {times}"] == ends and found[f"decode after {times}"] < 1e-5
    told = found[f"log after {times}"]
    assert len(told) == times and "decode of 160x96 px: memory ran out on cpu" in told[0] and f"({ends})" in told[-1]


def test_a_small_card_takes_a_leaner_pass_and_says_why(found):
    assert found["passes on 24 GB"] == ["whole", "strips", "frugal"] and found["passes on 4 GB"] == ["frugal"]
    assert found["passes that just fit"] == ["whole", "strips", "frugal"]
    assert found["decode on a small card"] < 1e-5
    [line] = found["log of a small card"]
    assert "'whole' does not fit the device" in line and "'strips'" in line


def test_comfyui_keeps_its_attention_where_the_device_has_no_other_way(found):
    assert found["own attention, CPU"] == 0 < found["own attention, products"]
    assert found["own attention differs"] < 1e-5 < found["own attention acts"]


def test_nothing_fits(found):
    assert "Memory ran out on cpu (decode of 160x96 px)" in found["decode never"]
    assert "Lower scale or long_side" in found["decode never"]


def test_an_adapter_fits_packed_weights(found):
    assert found["adapter on packed weights"] == "no error"
    assert found["adapter on NVFP4"] in ("no error", "this version has none")


def test_a_renamed_weight_finds_its_place(found):
    assert found["renamed"] == 0
    assert "2.more" in found["no place"] and "0.bias" in found["no place"] and "0.33.0" in found["no place"]
    assert "size mismatch for 0.weight" in found["wrong shape"]


def test_changed_internals_are_named(found, comfyui):
    from comfy_server import version_of

    assert "wants a setting surprise" in found["new setting"] and "has no setting sides" in found["unknown setting"]
    assert f"this is {version_of(comfyui)}" in found["new setting"] and "0.3.64 to 0.33.0" in found["new setting"]
    assert "does not recognise" in found["no FLUX"]
    assert found["old"] == "OP4KSR needs ComfyUI 0.3.60 or later; this is 0.3.12. Update ComfyUI."
    assert found["this version"] == "no error"

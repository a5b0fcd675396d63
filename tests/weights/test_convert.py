"""Adapters from form to form, and into the weights."""

import json
import re

import pytest
import torch
from builders import make_transformer, make_vae
from model_files import write_model, write_omgsr_adapters
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from op4ksr_core.app import cli
from op4ksr_core.errors import OutputError, SettingError, WeightsError
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS
from op4ksr_core.weights.adapters import find_adapters as read_adapters
from op4ksr_core.weights.convert import convert, merge
from op4ksr_core.weights.lora_keys import dotted
from op4ksr_core.weights.sources import Sources


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), make_transformer(), make_vae())


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    write_omgsr_adapters(folder, make_transformer(), make_vae())
    return folder


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for part in a:
        assert a[part].config == b[part].config
        assert a[part].state.keys() == b[part].state.keys()
        assert all(torch.equal(a[part].state[key], b[part].state[key]) for key in a[part].state)


@pytest.mark.parametrize("form", ["folder", "file", "kohya"])
@pytest.mark.parametrize("through", ["folder", "file", "kohya"])
def test_every_round_trip_keeps_every_bit(adapters, tmp_path, form, through):
    first, second = (
        tmp_path / (n + (".safetensors" if f != "folder" else "")) for n, f in (("a", form), ("b", through))
    )
    convert(adapters, first, form)
    convert(first, second, through)
    convert(second, tmp_path / "c", "folder")
    assert_equal(read_adapters(tmp_path / "c"), read_adapters(adapters))
    assert not list(tmp_path.glob(".*"))


def test_kohyas_names(adapters, tmp_path):
    convert(adapters, tmp_path / "k.safetensors", "kohya")
    state = load_file(tmp_path / "k.safetensors")
    key = "lora_transformer_single_transformer_blocks_1_attn_to_q"
    original = read_adapters(adapters)["transformer"].state["single_transformer_blocks.1.attn.to_q.lora_A.weight"]
    assert torch.equal(state[f"{key}.lora_down.weight"], original) and float(state[f"{key}.alpha"]) == 4


def test_a_kohya_file_without_our_metadata_is_read_from_its_tensors(adapters, tmp_path, model):
    convert(adapters, tmp_path / "k.safetensors", "kohya")
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(tmp_path / "k.safetensors"), bare)
    with safe_open(bare, "pt") as file:
        assert not file.metadata()
    convert(bare, tmp_path / "folder", "folder")
    x, settings = torch.rand(1, 3, 16, 16), PRESETS["op4ksr"]
    pictures = [
        Upscaler.from_pretrained(model, adapters=[place], settings=settings)(x)
        for place in (adapters, tmp_path / "folder")
    ]
    assert torch.equal(*pictures)


@pytest.mark.parametrize(
    "name",
    [
        "x_embedder",
        "transformer_blocks.11.attn.add_q_proj",
        "transformer_blocks.0.ff_context.net.0.proj",
        "single_transformer_blocks.37.attn.to_out.0",
        "single_transformer_blocks.3.norm.linear",
        "down_blocks.2.resnets.0.conv_shortcut",
        "down_blocks.0.downsamplers.0.conv",
        "mid_block.attentions.0.to_out.0",
        "time_text_embed.timestep_embedder.linear_1",
    ],
)
def test_names_come_back_from_underscores(name):
    assert dotted(name.replace(".", "_")) == name


def test_unknown_names_and_keys_are_told(tmp_path):
    with pytest.raises(WeightsError, match="transformer_blocks_0_banana .*at banana"):
        dotted("transformer_blocks_0_banana")
    save_file({"lora_transformer_x_embedder.dora_scale": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"odd\.safetensors.*DoRA"):
        read_adapters(tmp_path / "odd.safetensors")


def test_mixed_ranks_and_alphas_are_each_modules_own(tmp_path):
    state = {}
    for n, (rank, alpha) in enumerate(((2, 2.0), (4, 1.0))):
        name = f"lora_transformer_transformer_blocks_{n}_attn_to_q"
        state |= {f"{name}.lora_down.weight": torch.zeros(rank, 8), f"{name}.lora_up.weight": torch.zeros(8, rank)}
        state[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(state, tmp_path / "mixed.safetensors")
    found = read_adapters(tmp_path / "mixed.safetensors")["transformer"]
    assert [found.alpha_of(f"transformer_blocks.{n}.attn.to_q") for n in (0, 1)] == [2.0, 1.0]


def test_nothing_is_written_over(adapters, tmp_path):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(OutputError, match=re.escape(str(tmp_path / "there"))):
        convert(adapters, tmp_path / "there", "folder")
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(SettingError, match=r"\.safetensors, not x"):
        convert(adapters, tmp_path / "x", "kohya")
    with pytest.raises(SettingError, match="folder, file, kohya.*'zip'"):
        convert(adapters, tmp_path / "x", "zip")


@pytest.mark.parametrize("stride", [2, 1])
def test_a_merged_model_is_the_model_with_its_adapters(tmp_path, adapters, stride):
    base = write_model(tmp_path / "base", make_transformer(), make_vae(), stride)
    merge(Sources.find(base, adapters=[adapters], adapter_scale=0.5), tmp_path / "merged")
    x, settings = torch.rand(1, 3, 16, 16), PRESETS["op4ksr"]
    expected = Upscaler.from_pretrained(base, adapters=[adapters], adapter_scale=0.5, settings=settings)(x)
    assert torch.equal(Upscaler.from_pretrained(tmp_path / "merged", settings=settings)(x), expected)
    config = json.loads((tmp_path / "merged" / "vae" / "config.json").read_text())
    assert config["stride"] == stride and not list(tmp_path.glob(".*"))


def test_commands(tmp_path, adapters, model, capsys):
    assert cli.main(["convert", str(adapters), "-o", str(tmp_path / "one.safetensors"), "--to", "file"]) == 0
    merged = ["merge", "--model", str(model), "--adapter", str(tmp_path / "one.safetensors"), "-o", str(tmp_path / "m")]
    assert cli.main([*merged, "--dtype", "bfloat16"]) == 0
    state = load_file(tmp_path / "m" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
    assert cli.main(merged) == 2 and "there already" in capsys.readouterr().err
    assert cli.main(["merge", "--model", str(model), "-o", str(tmp_path / "n")]) == 2
    assert "nothing to merge" in capsys.readouterr().err

"""OSEDiff's and TVT's pickles: what is taken, what is refused and by which name."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from unet_models import make_d4, make_sd_vae, make_unet, put_loras

from op4ksr_core.app import cli
from op4ksr_core.errors import WeightsError
from op4ksr_core.weights.trained_for import TrainedFor, read_trained_for
from op4ksr_core.weights.unet_adapters import (
    find_unet_adapter,
    from_pickle,
    is_unet_adapter,
    read_pickle,
    save_unet_adapter,
)
from op4ksr_core.weights.unet_sources import load_sd_vae


@pytest.fixture(scope="module")
def held():
    return put_loras(make_unet(), make_sd_vae())


@pytest.fixture
def pickled(held, tmp_path):
    torch.save(held, tmp_path / "osediff.pkl")
    return tmp_path / "osediff.pkl"


@pytest.mark.long
def test_the_converted_file_has_plain_names_and_says_what_it_is(pickled, capsys):
    out = pickled.with_suffix(".safetensors")
    assert cli.main(["convert", str(pickled), "-o", str(out)]) == 0
    assert "osediff, base stabilityai/stable-diffusion-2-1-base" in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        assert file.metadata() == {
            "format": "op4ksr-unet-adapter",
            "family": "osediff",
            "base_model": "stabilityai/stable-diffusion-2-1-base",
            "unet.rank": "4",
            "unet.alpha": "8",
            "vae.rank": "4",
            "vae.alpha": "8",
        }
        names = set(file.keys())
    assert {"unet.conv_in.weight", "unet.conv_in.bias", "unet.conv_in.lora_A.weight"} <= names
    assert "vae.quant_conv.lora_B.weight" in names and not any("default" in n or "base_layer" in n for n in names)
    found = find_unet_adapter(out)
    assert set(found.lora) == {"unet", "vae"} and found.lora["unet"].config["lora_alpha"] == 8
    assert cli.main(["convert", str(pickled), "-o", str(out)]) == 2  # nothing is written over


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_code_in_a_pickle_is_refused_by_name(tmp_path, capsys):
    path = tmp_path / "evil.pkl"
    torch.save({"state_dict_unet": Evil()}, path)
    assert cli.main(["convert", str(path), "-o", str(tmp_path / "o.safetensors")]) == 2
    told = capsys.readouterr()
    assert "print" in told.err and "could run any code" in told.err and "run" not in told.out
    assert not (tmp_path / "o.safetensors").exists()
    torch.save({"a": 1}, path)
    with pytest.raises(WeightsError, match=r"evil\.pkl.*state_dict_unet"):
        from_pickle(path)


def test_an_old_torch_reads_no_pickle(pickled, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(WeightsError, match=r"torch 2\.5\.1.*osediff\.pkl.*2\.6"):
        read_pickle(pickled)


def test_the_pickle_itself_is_an_adapter(pickled):
    out = pickled.with_suffix(".safetensors")
    assert cli.main(["convert", str(pickled), "-o", str(out)]) == 0
    own, converted = find_unet_adapter(pickled), find_unet_adapter(out)
    assert is_unet_adapter(pickled) and read_trained_for(pickled) == read_trained_for(out) == TrainedFor("osediff", 8)
    for part in ("unet", "vae"):
        for a, b in ((own.lora[part].state, converted.lora[part].state), (own.layers[part], converted.layers[part])):
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_truncated_file_is_refused(pickled):
    whole = pickled.read_bytes()
    for size in (0, 100, len(whole) // 2):
        pickled.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"osediff\.pkl.*cut short"):
            read_pickle(pickled)


def test_lists_that_name_other_modules_are_refused(held, tmp_path):
    torch.save(held | {"unet_lora_others_modules": ["nothing.at.all"]}, tmp_path / "o.pkl")
    with pytest.raises(WeightsError, match=r"o\.pkl.*unet's.*nothing\.at\.all"):
        from_pickle(tmp_path / "o.pkl")


@pytest.mark.parametrize("rank", [8, 0, 99999, "4", None])
def test_ranks_that_differ_from_the_tensors_are_refused(held, tmp_path, rank):
    torch.save(held | {"rank_unet": rank}, tmp_path / "o.pkl")
    if rank is None:
        assert from_pickle(tmp_path / "o.pkl").lora["unet"].config["r"] is None
        return
    with pytest.raises(WeightsError, match=f"rank 4.*r = {rank}|r must .*got {rank!r}"):
        from_pickle(tmp_path / "o.pkl")


def test_a_missing_half_and_a_header_that_lies_are_refused(pickled, tmp_path):
    out = tmp_path / "o.safetensors"
    save_unet_adapter(out, from_pickle(pickled))
    state = load_file(out)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    for name, kept, header, message in (
        ("half", {k: v for k, v in state.items() if not k.startswith("vae.")}, metadata, "vae.*osediff"),
        ("rank", state, metadata | {"unet.rank": "5"}, "rank 4.*r = 5"),
        ("none", state, metadata | {"vae.alpha": "x"}, r"vae\.alpha.*'x'"),
        ("stray", state | {"text.x": torch.zeros(1)}, metadata, r": text\.x"),
        ("foreign", state, {"format": "pt"}, "osediff.pkl, model_TVT.pkl"),
    ):
        save_file(kept, tmp_path / f"{name}.safetensors", metadata=header)
        with pytest.raises(WeightsError, match=rf"{name}\.safetensors.*{message}"):
            find_unet_adapter(tmp_path / f"{name}.safetensors")


def test_tvts_vae_comes_out_of_its_checkpoint(tmp_path):
    vae = make_d4()
    state = {f"vaeDe4.{key}": value for key, value in vae.state_dict().items()}
    torch.save({"state_dict": state | {"loss.weight": torch.zeros(2)}, "epoch": 3}, tmp_path / "vae.ckpt")
    assert cli.main(["convert", str(tmp_path / "vae.ckpt"), "-o", str(tmp_path / "d4")]) == 0
    loaded = load_sd_vae(tmp_path / "d4")
    for key, value in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    assert cli.main(["convert", str(tmp_path / "other.ckpt"), "-o", str(tmp_path / "d5")]) == 2


def test_a_full_size_layout_is_taken_key_by_key():
    """Stable Diffusion 2.1's own shapes on the meta device: every LoRA module of OSEDiff has its place."""
    from diffusers import UNet2DConditionModel
    from unet_models import UNET, unet_modules

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            **UNET | {"block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 1024, "sample_size": 64},
        )
    modules = [name for group in unet_modules(unet).values() for name in group]
    assert len(modules) == len(set(modules))
    assert all(hasattr(unet.get_submodule(name), "weight") for name in modules)

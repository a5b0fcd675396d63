"""Weights and adapters as other programs write them: read right, or refused once by the name of their form."""

import json

import pytest
import torch
from builders import make_transformer, make_vae
from model_files import add_lora, write_model
from safetensors.torch import load_file, save_file

from op4ksr_core.app import cli
from op4ksr_core.errors import WeightsError
from op4ksr_core.weights import key_layouts, lora_keys
from op4ksr_core.weights.adapters import Adapter, checked_adapter, find_adapters, merge_adapter
from op4ksr_core.weights.configs import header_shapes
from op4ksr_core.weights.files import find_model
from op4ksr_core.weights.loading import load_transformer

BFL_MODULES = (
    "double_blocks.0.img_attn.qkv", "double_blocks.0.txt_mlp.2", "single_blocks.0.linear1",
    "final_layer.adaLN_modulation.1",
)  # fmt: skip


def bfl_pairs(rank=2, alpha=1.0):
    """Random LoRA pairs on layers of the small transformer in BFL's layout."""
    torch.manual_seed(0)
    weights = key_layouts.transformer_to_bfl(make_transformer().state_dict())
    shapes = {name: weights[f"{name}.weight"].shape for name in BFL_MODULES}
    pairs = {}
    for name, (outs, ins) in shapes.items():
        pairs[name] = {"lora_A": torch.randn(rank, ins) * 0.1, "lora_B": torch.randn(outs, rank) * 0.1}
        pairs[name]["alpha"] = torch.tensor(alpha)
    return pairs


def kohya_state(pairs):
    sides = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "alpha": "alpha"}
    return {
        f"lora_unet_{name.replace('.', '_')}.{sides[side]}": value
        for name, pair in pairs.items()
        for side, value in pair.items()
    }


def prefixed_state(pairs, prefix):
    sides = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "alpha": "alpha"}
    return {f"{prefix}{n}.{sides[side]}": value for n, pair in pairs.items() for side, value in pair.items()}


FORMS = {
    "kohya": kohya_state,
    "BFL": lambda pairs: prefixed_state(pairs, "diffusion_model."),
    "bare BFL": lambda pairs: prefixed_state(pairs, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_with_bfls_modules_does_what_it_does_to_bfls_weights(tmp_path, form):
    pairs = bfl_pairs(rank=2, alpha=1.0)
    save_file(FORMS[form](pairs), tmp_path / "lora.safetensors")
    merged = merge_adapter(make_transformer(), find_adapters(tmp_path / "lora.safetensors")["transformer"])
    expected = key_layouts.transformer_to_bfl(make_transformer().state_dict())
    for name, pair in pairs.items():
        expected[f"{name}.weight"] = expected[f"{name}.weight"] + 0.5 * pair["lora_B"] @ pair["lora_A"]
    for key, value in key_layouts.transformer_to_diffusers(expected).items():
        torch.testing.assert_close(merged.state_dict()[key], value, rtol=1e-4, atol=1e-6)


def test_diffusers_names_and_its_metadata(tmp_path):
    state = {
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, 8),
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": torch.zeros(8, 2),
    }
    save_file(state, tmp_path / "a.safetensors")
    assert find_adapters(tmp_path / "a.safetensors")["transformer"].alpha_of("transformer_blocks.0.attn.to_q") == 2
    said = {"lora_adapter_metadata": json.dumps({"transformer.r": 2, "transformer.lora_alpha": 6})}
    save_file(state, tmp_path / "b.safetensors", metadata=said)
    assert find_adapters(tmp_path / "b.safetensors")["transformer"].alpha_of("transformer_blocks.0.attn.to_q") == 6


def test_alpha_patterns_count_as_in_peft():
    """The rule is PEFT's: its own merged weights are what ours must equal."""
    modules = ["attn.to_q", "attn.to_k"]
    wrapped, state = add_lora(make_transformer(), modules, rank=4, alpha=4, alpha_pattern={"attn.to_k": 12})
    config = json.loads(json.dumps(wrapped.peft_config["default"].to_dict(), default=list))
    adapter = Adapter("memory", config, {k.removeprefix("base_model.model."): v for k, v in state.items()})
    merged = merge_adapter(make_transformer(), adapter)
    for module, alpha in (("transformer_blocks.0.attn.to_q", 4), ("transformer_blocks.0.attn.to_k", 12)):
        assert adapter.alpha_of(module) == alpha
        a, b = (adapter.state[f"{module}.lora_{side}.weight"] for side in "AB")
        delta = merged.get_submodule(module).weight - make_transformer().get_submodule(module).weight
        torch.testing.assert_close(delta, alpha / 4 * b @ a, rtol=1e-4, atol=1e-6)


PAIR = {"x.lora_A.weight": torch.zeros(2, 8), "x.lora_B.weight": torch.zeros(8, 2)}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"peft_type": "PeftType.LOKR"}, "LOKR"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
    ],
)
def test_other_adapters_are_refused_by_name(config, named):
    with pytest.raises(WeightsError) as refused:
        checked_adapter("some.safetensors", config, PAIR)
    assert named in str(refused.value) and "some.safetensors" in str(refused.value)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_base_alone_are_taken(start):
    assert checked_adapter("some.safetensors", {"init_lora_weights": start, "r": 2}, PAIR).config["r"] == 2


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.hada_w1_a", "LoHa"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lokr_w1", "LoKr"),
        ("lora_unet_double_blocks_0_img_attn_qkv.dora_scale", "DoRA"),
        ("x.lora_magnitude_vector.weight", "DoRA"),
    ],
)
def test_other_forms_are_known_by_their_keys(tmp_path, key, named):
    save_file({key: torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=rf"a\.safetensors.*{named}"):
        find_adapters(tmp_path / "a.safetensors")


def test_files_without_a_pair_are_refused(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(WeightsError, match=r"empty\.safetensors.*: it is empty"):
        find_adapters(tmp_path / "empty.safetensors")
    save_file({"lora_te1_text_model_x.lora_down.weight": torch.zeros(2, 8)}, tmp_path / "text.safetensors")
    with pytest.raises(WeightsError, match=r"text\.safetensors.*lora_te1_text_model_x\.lora_down\.weight"):
        find_adapters(tmp_path / "text.safetensors")
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    save_file({f"{name}.lora_down.weight": torch.zeros(2, 8)}, tmp_path / "half.safetensors")
    with pytest.raises(WeightsError, match=r"half\.safetensors.*double_blocks\.0\.img_attn\.qkv.*lora_A"):
        find_adapters(tmp_path / "half.safetensors")


def test_bfl_names_come_back_from_underscores():
    for name in BFL_MODULES:
        assert lora_keys.dotted(name.replace(".", "_")) == name


@pytest.mark.parametrize("suffix", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("layout", ["diffusers", "BFL"])
@pytest.mark.parametrize("each", [False, True])
def test_scaled_fp8_is_applied(tmp_path, suffix, layout, each):
    """One scale for a layer or one for each output, both spellings, both layouts."""
    whole = make_transformer().state_dict()
    weights = key_layouts.transformer_to_bfl(whole) if layout == "BFL" else whole
    state = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key, value in weights.items():
        module, _, kind = key.rpartition(".")
        if kind == "weight" and value.ndim == 2:
            scale = value.abs().amax(1 if each else None, keepdim=each) / 400
            state[f"{module}.{suffix}"] = scale.flatten() if each else scale
            value = (value / scale).to(torch.float8_e4m3fn)
        state[key] = value.contiguous()
    save_file(state, tmp_path / "scaled.safetensors")
    loaded = load_transformer(tmp_path / "scaled.safetensors").state_dict()
    for key, value in whole.items():
        assert float((loaded[key] - value).abs().max()) <= 0.05 * float(value.abs().max()) + 1e-6
    assert header_shapes(tmp_path / "scaled.safetensors").keys() == whole.keys()


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["a.weight", "a.weight.absmax", "a.weight.quant_state.bitsandbytes__nf4"], "nf4"),
        (["a.weight", "a.weight_scale_2"], "nvfp4"),
        (["model.diffusion_model.img_in.weight", "first_stage_model.x", "cond_stage_model.y"], "all-in-one"),
        (["text_encoders.t5.x", "vae.x"], "all-in-one"),
        (["double_blocks.0.img_attn.qkv.lora_A.weight"], "LoRA"),
    ],
)
def test_public_forms_that_are_not_read_are_named(tmp_path, keys, named):
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as refused:
        find_model(tmp_path / "model.safetensors", "transformer")
    assert named in str(refused.value) and "unexpected" not in str(refused.value)


def test_a_gguf_file_is_named(tmp_path):
    (tmp_path / "flux.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match=r"flux\.gguf.*GGUF"):
        find_model(tmp_path / "flux.gguf")


def test_weights_are_refused_once_before_the_pictures(tmp_path, capsys, photo):
    from op4ksr_core.picture.convert import as_picture

    model = write_model(tmp_path / "model", make_transformer(), make_vae())
    state = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file(state | {"x.absmax": torch.zeros(1)}, tmp_path / "four_bits.safetensors")
    for name in ("a.png", "b.png"):
        as_picture(photo[0, :, :32, :32]).save(tmp_path / name)
    words = ["upscale", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "-o", str(tmp_path / "out")]
    words += ["--model", str(model), "--transformer", str(tmp_path / "four_bits.safetensors")]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("four_bits.safetensors") == 1 and "nf4" in said and not list((tmp_path / "out").glob("*"))

import json
import re

import pytest
import torch
from builders import make_transformer, make_vae
from model_files import add_lora, contiguous, to_ldm, write_model, write_omgsr_adapters, write_prompt
from safetensors.torch import load_file, save_file

from op4ksr_core.errors import SettingError, WeightsError
from op4ksr_core.model.vae import decode, encode, finish_vae, is_f16
from op4ksr_core.weights import adapters, configs, loading, prompt_files
from op4ksr_core.weights import key_layouts as layouts


def run(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(1, 12, 64, generator=generator),
            timestep=torch.tensor([0.3]),
            guidance=torch.tensor([1.0]),
            encoder_hidden_states=torch.randn(1, 5, 24, generator=generator),
            pooled_projections=torch.randn(1, 20, generator=generator),
            img_ids=torch.rand(12, 3, generator=generator).round(),
            txt_ids=torch.zeros(5, 3),
            return_dict=False,
        )[0]


def same_model(loaded, original):
    """Equal weights and settings; outputs to rounding, for the address of a tensor picks the kernel."""
    ours, theirs = loaded.state_dict(), original.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)
    torch.testing.assert_close(run(loaded), run(original), rtol=1e-4, atol=1e-5)


def test_a_sharded_diffusers_folder(tmp_path, transformer):
    transformer.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    same_model(loading.load_transformer(tmp_path), transformer)


@pytest.mark.parametrize("layout", ["diffusers", "bfl", "bfl with prefix"])
def test_a_single_file(tmp_path, transformer, layout):
    state = transformer.state_dict()
    if layout != "diffusers":
        prefix = "model.diffusion_model." if "prefix" in layout else ""
        state = {prefix + k: v for k, v in layouts.transformer_to_bfl(state).items()}
    save_file(contiguous(state), tmp_path / "model.safetensors")
    loaded = loading.load_transformer(tmp_path / "model.safetensors")
    same_model(loaded, transformer)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_shapes_tell_the_config(transformer):
    config = configs.transformer_config({k: tuple(v.shape) for k, v in transformer.state_dict().items()}, "model")
    assert all(transformer.config[k] == v for k, v in config.items())
    plain = make_transformer(guidance_embeds=False, num_attention_heads=2)
    config = configs.transformer_config({k: tuple(v.shape) for k, v in plain.state_dict().items()}, "plain")
    assert all(plain.config[k] == v for k, v in config.items())


def test_dtype(tmp_path, transformer):
    save_file(contiguous(transformer.state_dict()), tmp_path / "model.safetensors")
    loaded = loading.load_transformer(tmp_path / "model.safetensors", torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def _broken(state, how):
    state = dict(state)
    if how == "missing":
        del state["transformer_blocks.0.attn.to_q.bias"]
    elif how == "unexpected":
        state["transformer_blocks.0.attn.to_z.bias"] = torch.zeros(3)
    else:
        state["transformer_blocks.0.attn.to_q.bias"] = torch.zeros(3)
    return state


@pytest.mark.parametrize(
    ("how", "names"), [("missing", "to_q.bias"), ("unexpected", "to_z.bias"), ("mis-shaped", "[3]")]
)
def test_strict(tmp_path, transformer, how, names):
    save_file(contiguous(_broken(transformer.state_dict(), how)), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        loading.load_transformer(tmp_path / "model.safetensors")
    assert how in str(caught.value) and names in str(caught.value)


def test_missing_shard(tmp_path, transformer):
    transformer.save_pretrained(tmp_path, max_shard_size="300KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(WeightsError, match=lost.name):
        loading.load_transformer(tmp_path)


def test_shard_that_lacks_its_tensors(tmp_path, transformer):
    transformer.save_pretrained(tmp_path, max_shard_size="300KB")
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    first.write_bytes(second.read_bytes())
    with pytest.raises(WeightsError, match=f"{first.name}.*time_text_embed"):
        loading.load_transformer(tmp_path)


@pytest.mark.parametrize("name", ["model.bin", "model.ckpt", "model.pt", "osediff.pkl"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04.")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(WeightsError, match=rf"{name}.*pickle"):
            loading.load_transformer(path)


def test_damaged_file(tmp_path, transformer):
    path = tmp_path / "model.safetensors"
    save_file(contiguous(transformer.state_dict()), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read"):
        loading.load_transformer(path)


def test_nothing_there(tmp_path):
    with pytest.raises(WeightsError, match=f"{re.escape(str(tmp_path))} "):
        loading.load_transformer(tmp_path)
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path / "absent"))):
        loading.load_transformer(tmp_path / "absent")


def test_not_a_flux_model(tmp_path, vae):
    save_file(contiguous(vae.state_dict()), tmp_path / "vae.safetensors")
    with pytest.raises(WeightsError, match=r"vae\.safetensors.*x_embedder\.weight"):
        loading.load_transformer(tmp_path / "vae.safetensors")
    save_file(contiguous(make_transformer().state_dict()), tmp_path / "dit.safetensors")
    with pytest.raises(WeightsError, match=r"dit\.safetensors.*encoder\.down_blocks\.0\.resnets\.0\.conv1\.weight"):
        loading.load_vae(tmp_path / "dit.safetensors", f16=True)


@pytest.mark.parametrize("stride", [1, 2])
def test_vae_folder_tells_its_factor(tmp_path, vae, stride):
    write_model(tmp_path, make_transformer(), vae, stride)
    loaded = loading.load_vae(tmp_path / "vae")
    assert is_f16(loaded) == (stride == 2)
    x = torch.rand(1, 3, 64, 64)
    if stride == 1:
        torch.testing.assert_close(encode(loaded, x), encode(vae, x))


@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
def test_vae_single_file(tmp_path, layout):
    vae = make_vae(norm_num_groups=32, block_out_channels=[32, 32, 32, 32])
    state = vae.state_dict() if layout == "diffusers" else to_ldm(vae.state_dict())
    path = tmp_path / "ae.safetensors"
    save_file(contiguous(state), path)
    with pytest.raises(SettingError, match=r"ae\.safetensors.*--vae-factor"):
        loading.load_vae(path)
    loaded = loading.load_vae(path, f16=False)
    x = torch.rand(1, 3, 64, 64)
    z = encode(vae, x)
    torch.testing.assert_close(encode(loaded, x), z)
    torch.testing.assert_close(decode(finish_vae(loaded), z), decode(vae, z), rtol=1e-3, atol=1e-4)


def test_prompt_file(tmp_path):
    sequence, pooled = prompt_files.load_prompt(write_prompt(tmp_path / "prompt.safetensors"))
    assert sequence.shape == (1, 5, 24) and pooled.shape == (1, 20)
    save_file({"t5": torch.zeros(1, 2, 3)}, tmp_path / "wrong.safetensors")
    with pytest.raises(WeightsError, match=r"wrong\.safetensors.*t5 \[1, 2, 3\].*prompt_embeds"):
        prompt_files.load_prompt(tmp_path / "wrong.safetensors")


def test_adapters_equal_peft(tmp_path):
    flux, encoder = write_omgsr_adapters(tmp_path, make_transformer(), make_vae())
    found = adapters.find_adapters(tmp_path)
    assert set(found) == {"transformer", "vae"}
    base = run(make_transformer())
    merged = adapters.merge_adapter(make_transformer(), found["transformer"])
    assert float((run(flux.base_model.model) - base).abs().max()) > 0.01
    torch.testing.assert_close(run(merged), run(flux.base_model.model), rtol=1e-4, atol=1e-5)
    x = torch.rand(1, 3, 64, 64)
    merged_encoder = adapters.merge_adapter(make_vae().encoder, found["vae"])
    with torch.no_grad():
        expected = encoder.base_model.model(x)
        assert float((make_vae().encoder(x) - expected).abs().max()) > 0.01
        torch.testing.assert_close(merged_encoder(x), expected, rtol=1e-4, atol=1e-5)
    assert merged.state_dict().keys() == make_transformer().state_dict().keys()


def test_adapter_scale(tmp_path):
    write_omgsr_adapters(tmp_path, make_transformer(), make_vae())
    adapter = adapters.find_adapters(tmp_path)["transformer"]
    weight = "transformer_blocks.0.attn.to_q.weight"
    base = make_transformer().state_dict()[weight]
    deltas = [
        adapters.merge_adapter(make_transformer(), adapter, s).state_dict()[weight] - base for s in (0.0, 0.5, 1.0)
    ]
    assert torch.equal(deltas[0], torch.zeros_like(base))
    torch.testing.assert_close(2 * deltas[1], deltas[2], rtol=1e-4, atol=1e-6)
    a = adapter.state["transformer_blocks.0.attn.to_q.lora_A.weight"]
    b = adapter.state["transformer_blocks.0.attn.to_q.lora_B.weight"]
    torch.testing.assert_close(deltas[2], b @ a, rtol=1e-4, atol=1e-6)  # alpha / r is 1


def test_alpha_counts():
    wrapped, state = add_lora(make_transformer(), ["attn.to_q"], rank=4, alpha=8)
    config = json.loads(json.dumps(wrapped.peft_config["default"].to_dict(), default=list))
    state = {k.removeprefix("base_model.model."): v for k, v in state.items()}
    merged = adapters.merge_adapter(make_transformer(), adapters.Adapter("memory", config, state))
    delta = merged.transformer_blocks[0].attn.to_q.weight - make_transformer().transformer_blocks[0].attn.to_q.weight
    a, b = (state[f"transformer_blocks.0.attn.to_q.lora_{x}.weight"] for x in "AB")
    torch.testing.assert_close(delta, 2 * b @ a, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_single_adapter_file_holds_both(tmp_path):
    write_omgsr_adapters(tmp_path, make_transformer(), make_vae())
    folders = adapters.find_adapters(tmp_path)
    adapters.save_adapters(tmp_path / "both.safetensors", folders)
    single = adapters.find_adapters(tmp_path / "both.safetensors")
    for part in ("transformer", "vae"):
        assert single[part].config == folders[part].config
        assert all(torch.equal(single[part].state[k], v) for k, v in folders[part].state.items())
    with pytest.raises(WeightsError, match=r"bare\.safetensors.*vae_encoder.*metadata"):
        save_file(load_file(tmp_path / "both.safetensors"), tmp_path / "bare.safetensors")
        adapters.find_adapters(tmp_path / "bare.safetensors")


def test_adapter_for_another_model(tmp_path):
    write_omgsr_adapters(tmp_path, make_transformer(num_attention_heads=2), make_vae())
    adapter = adapters.find_adapters(tmp_path)["transformer"]
    model = make_transformer()
    with pytest.raises(WeightsError, match=r"flux_adapter.*mis-shaped.*\[4, 256\]"):
        adapters.merge_adapter(model, adapter)
    assert torch.equal(run(model), run(make_transformer()))
    deeper = write_omgsr_adapters(tmp_path, make_transformer(num_layers=3), make_vae())
    assert deeper
    with pytest.raises(WeightsError, match=r"unexpected: transformer_blocks\.1"):
        adapters.merge_adapter(model, adapters.find_adapters(tmp_path)["transformer"])


def test_no_adapter_there(tmp_path):
    with pytest.raises(WeightsError, match=f"{re.escape(str(tmp_path))} .*flux_adapter"):
        adapters.find_adapters(tmp_path)
    save_file({"x.lora_A.weight": torch.zeros(1)}, tmp_path / "kohya.safetensors")
    with pytest.raises(WeightsError, match=r"kohya\.safetensors.*x\.lora_A\.weight"):
        adapters.find_adapters(tmp_path / "kohya.safetensors")

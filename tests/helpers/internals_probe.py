"""Runs inside ComfyUI's Python: what a CPU run would not meet by itself (weights elsewhere, in 8 bits, patched; memory
that runs out; internals that changed). Prints one JSON object: differences from the plain run, and messages.

python internals_probe.py COMFYUI EXTENSION_PARENT MODEL_FOLDER INPUTS
"""

import copy
import dataclasses
import json
import logging
import sys
import threading
from pathlib import Path
from unittest.mock import patch

comfyui, parent, folder, inputs = sys.argv[1:]
sys.path[:0] = [comfyui, parent]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_patcher  # noqa: E402
import comfy.ops  # noqa: E402
import torch  # noqa: E402
from op4ksr.nodes import adapter_patches, comfy_host, f16, memory, native_models, vae_passes, versions  # noqa: E402
from op4ksr.op4ksr_core.errors import Op4ksrError  # noqa: E402
from op4ksr.op4ksr_core.model import wide_attention  # noqa: E402
from op4ksr.op4ksr_core.model.vae_passes import FRUGAL, STRIPS, WHOLE  # noqa: E402
from op4ksr.op4ksr_core.settings import PASSES, UpscaleSettings  # noqa: E402
from op4ksr.op4ksr_core.weights.adapters import Adapter  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

given, found = load_file(inputs), {}
FP8 = torch.float8_e4m3fn


def relative(a, b):
    return float((a - b).norm() / b.norm())


def message(call, *arguments):
    try:
        call(*arguments)
    except Op4ksrError as error:
        return str(error)
    return "no error"


def castable(module):
    return [layer for layer in module.modules() if hasattr(layer, "comfy_cast_weights") and layer.weight is not None]


def both_ways(vae):
    """Latents and picture in strips and in one pass."""
    outcome = []
    for ways in (PASSES[1:], PASSES):
        with patch.object(memory, "passes_of", lambda _, ways=ways: ways):
            outcome += [vae_passes.encode_whole(vae, given["x"]), vae_passes.decode_whole(vae, given["z"])]
    return outcome


def worst(outcome, expected):
    return max(relative(a, b) for a, b in zip(outcome, expected, strict=True))


def stored_as(module, dtype):
    """Weights kept in a small dtype, cast layer by layer; and the same module with the rounded weights in float32."""
    settings = getattr(module, "model_config", None)  # ComfyUI's cannot be copied
    small, rounded = (copy.deepcopy(module, {id(settings): settings}) for _ in range(2))
    for layer, twin in zip(castable(small), castable(rounded), strict=True):
        layer.comfy_cast_weights = True
        for name, kept in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, nn.Parameter(kept.to(dtype), requires_grad=False))
            setattr(twin, name, nn.Parameter(kept.to(dtype).float(), requires_grad=False))
    return small, rounded


def card_of(size):
    """A device of `size` bytes."""
    return patch.object(memory.comfy.model_management, "get_total_memory", lambda *_, **__: size)


def with_stage(vae, stage):
    out = copy.copy(vae)
    out.first_stage_model, out.patcher = stage, versions.new_patcher(stage, vae.patcher)
    return out


with torch.inference_mode():
    model, vae = native_models.load_folder(Path(folder))
    plain = both_ways(vae)

    for name, dtype in (("fp16", torch.float16), ("fp8", FP8)):
        small, rounded = stored_as(vae.first_stage_model, dtype)
        found[f"vae {name}"] = worst(both_ways(with_stage(vae, small)), both_ways(with_stage(vae, rounded)))

    # The core's attention in place of ComfyUI's, where the device's table asks for it, and not elsewhere.
    calls, products = [], wide_attention.by_products

    def counted(*arguments):
        calls.append(arguments[0].shape)
        return products(*arguments)

    with patch.dict(wide_attention.WAYS, products=counted), patch.object(wide_attention, "FUSED_HEAD", 1):
        both_ways(vae)
        found["own attention, CPU"] = len(calls)
        with patch.dict(wide_attention.WAY, cpu="products"):
            found["own attention differs"] = worst(both_ways(vae), plain)
            found["own attention, products"] = len(calls)
            with patch.dict(wide_attention.WAYS, products=lambda *a: 0 * products(*a)):
                found["own attention acts"] = worst(both_ways(vae), plain)

    # Weights that are nowhere until they are cast, as a streaming patcher keeps them.
    away = copy.deepcopy(vae.first_stage_model)
    real = {}
    for layer in castable(away):
        layer.comfy_cast_weights = True
        real[id(layer)] = (layer.weight, layer.bias)
        layer.weight = nn.Parameter(layer.weight.to("meta"), requires_grad=False)
        layer.bias = None if layer.bias is None else nn.Parameter(layer.bias.to("meta"), requires_grad=False)

    def fetched(layer, input=None, *_, offloadable=False, **__):
        weight, bias = real[id(layer)]
        found["casts"] = found.get("casts", 0) + 1
        return (weight, bias, None) if offloadable else (weight, bias)

    with patch.object(comfy.ops, "cast_bias_weight", fetched):
        streamed = with_stage(vae, away)
        streamed.patcher.size = 1  # nothing to count on meta
        with patch.object(vae_passes.comfy.model_management, "load_models_gpu", lambda *_, **__: None):
            found["vae streamed"] = worst(both_ways(streamed), plain)

    # A patch that acts when the weight is cast (partial load), against the same patch on the weight itself.
    lowvram, baked = copy.deepcopy(vae.first_stage_model), copy.deepcopy(vae.first_stage_model)
    for layer, twin in zip(castable(lowvram), castable(baked), strict=True):
        layer.weight_function = [lambda w: w * 1.25]
        twin.weight.data *= 1.25
    with patch.object(vae_passes.comfy.model_management, "load_models_gpu", lambda *_, **__: None):  # would take it off
        found["vae lowvram"] = worst(both_ways(with_stage(vae, lowvram)), both_ways(with_stage(vae, baked)))
    found["lowvram acts"] = worst(both_ways(with_stage(vae, baked)), plain)

    # Adapters on a VAE survive F16.
    f8 = native_models.load_folder(Path(folder) / "f8")[1]
    f8.patcher.add_patches({"encoder.conv_out.weight": ("diff", (torch.ones(32, 64, 3, 3) * 0.05,))})
    patched, bare = (f16.to_f16(v, "centered") for v in (f8, native_models.load_folder(Path(folder) / "f8")[1]))
    found["patches go along"] = relative(
        vae_passes.encode_whole(patched, given["x"]), vae_passes.encode_whole(bare, given["x"])
    )
    found["the F8 one is left alone"] = f8.downscale_ratio

    # ComfyUI loads a patcher's weights anew. 0.3.64 has no place for how; one is made there.
    with patch.object(comfy.model_patcher.ModelPatcher, "cached_patcher_init", None, create=True):
        source, f8 = native_models.load_folder(Path(folder) / "f8")
        sixteen = f16.to_f16(f8, "centered")
        for name, kept in (("model", source.clone()), ("F8", f8.patcher), ("F16", sixteen.patcher)):
            kept.cached_patcher_init = kept.cached_patcher_init or source.cached_patcher_init  # 0.3.64's clone drops it
            again = versions.load_again(versions.loader_of(kept), disable_dynamic=True)
            pairs = list(zip(kept.model.state_dict().values(), again.model.state_dict().values(), strict=True))
            found[f"{name} loaded anew"] = all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)
        found["F16 loaded anew"] &= again.model.encoder.conv_in.stride == (2, 2)

    # What a streaming patcher keeps on a model and its layers, and cannot be copied, is left behind.
    f8 = native_models.load_folder(Path(folder) / "f8")[1]
    f8.first_stage_model.dynamic_pins = {"lock": threading.Lock()}
    streamed = [f"_v{end}" for end in ("", "_weight", "_bias", "_block", "_signature")]
    streamed += ["_pin_state", "_comfy_graph", "_comfy_cross_step_state"]
    for name in streamed:
        setattr(f8.first_stage_model.encoder.conv_in, name, (threading.Lock(), 0))
    copied = f16.to_f16(f8, "centered").first_stage_model
    found["bookkeeping copied"] = [n for n in ("dynamic_pins",) if hasattr(copied, n)]
    found["bookkeeping copied"] += [n for n in streamed if hasattr(copied.encoder.conv_in, n)]
    found["bookkeeping kept"] = hasattr(f8.first_stage_model.encoder.conv_in, "_v")

    # A transformer in 8 bits.
    conditioning = [[given["prompt_embeds"], {"pooled_output": given["pooled_prompt_embeds"]}]]
    settings = UpscaleSettings(guidance=3.0, rope=None)

    def stepped(patcher):
        return comfy_host.ComfyHost(patcher, conditioning).transform(given["z"], settings, lambda *_: None)

    whole = stepped(model)
    small, rounded = stored_as(model.model, FP8)
    found["model fp8"] = relative(stepped(versions.new_patcher(small)), stepped(versions.new_patcher(rounded)))
    found["fp8 acts"] = relative(stepped(versions.new_patcher(rounded)), whole)

    # Memory runs out n times.
    class Log(logging.Handler):
        lines = []

        def emit(self, record):
            Log.lines.append(record.getMessage())

    logging.getLogger("op4ksr").addHandler(Log())
    decode = vae.first_stage_model.decode

    errors = torch.OutOfMemoryError("imitated"), RuntimeError("Fault failed: 2")  # the second: of streamed weights

    def running_out(times):
        left = [times]

        def attempt(z):
            if left[0]:
                left[0] -= 1
                raise errors[left[0] % 2]
            found[f"passes after {times}"] = (
                "frugal" if "frugal" in Log.lines[-1] else "strips" if "strips" in Log.lines[-1] else "whole"
            )
            return decode(z)

        return attempt

    for times in (1, 2, 3):
        Log.lines = []
        with patch.object(memory, "passes_of", lambda _: (WHOLE, STRIPS, FRUGAL)):
            vae.first_stage_model.decode = running_out(times)
            found[f"decode after {times}"] = relative(vae_passes.decode_whole(vae, given["z"]), plain[1])
        found[f"log after {times}"] = list(Log.lines)
    with patch.object(memory, "passes_of", lambda _: (WHOLE, STRIPS, FRUGAL)):
        vae.first_stage_model.decode = running_out(9)
        found["decode never"] = message(vae_passes.decode_whole, vae, given["z"])
    del vae.first_stage_model.decode

    # A card too small for one pass: FLUX's widths at 4096 px, and a real decode in proportion.
    Log.lines = []
    with patch.object(memory, "passes_of", lambda _: PASSES):
        half = copy.copy(vae)
        half.vae_dtype = torch.bfloat16
        for gigabytes in (4, 24):
            with patch.object(memory, "vae_channels", lambda _: (128, 256, 512, 512)), card_of(gigabytes * 1e9):
                ways = memory.vae_passes(half, 4096 * 4096, decoder=True)
            found[f"passes on {gigabytes} GB"] = [how for how, _ in ways]
        whole_work = memory.vae_passes(vae, 96 * 160, decoder=True)[0][1]
        beside = vae.patcher.model_size() + memory.comfy.model_management.extra_reserved_memory()
        with card_of(whole_work + beside + 1):
            found["passes that just fit"] = [how for how, _ in memory.vae_passes(vae, 96 * 160, decoder=True)]
        with card_of(whole_work + beside - 1):
            found["decode on a small card"] = relative(vae_passes.decode_whole(vae, given["z"]), plain[1])
    found["log of a small card"] = list(Log.lines)

    # A quantised weight: packed storage, logical shape.
    class Packed(torch.Tensor):
        @staticmethod
        def __new__(cls, shape):
            return torch.Tensor._make_subclass(cls, torch.zeros(7, dtype=torch.uint8))

        def __init__(self, shape):
            self.logical = torch.Size(shape)

        @property
        def shape(self):
            return self.logical

    layer = model.model.diffusion_model.double_blocks[0].img_attn.proj
    kept, shape = layer.weight, tuple(layer.weight.shape)
    lora = {
        f"transformer_blocks.0.attn.to_out.0.lora_{s}.weight": torch.zeros(n)
        for s, n in (("A", (4, shape[1])), ("B", (shape[0], 4)))
    }
    adapter = Adapter("the test", {"lora_alpha": 4}, lora)
    layer._parameters["weight"] = Packed(shape)
    found["adapter on packed weights"] = message(
        adapter_patches.with_adapter, model, adapter_patches.transformer_targets(model), adapter, 1.0
    )
    try:
        from comfy.quant_ops import QuantizedTensor  # 0.33.0; two weights in a byte, here

        packed = QuantizedTensor.from_float(kept.bfloat16(), "TensorCoreNVFP4Layout")
        assert packed.state_dict("w")["w"].shape != kept.shape == packed.shape
        layer._parameters["weight"] = packed
        found["adapter on NVFP4"] = message(
            adapter_patches.with_adapter, model, adapter_patches.transformer_targets(model), adapter, 1.0
        )
    except ImportError:
        found["adapter on NVFP4"] = "this version has none"
    layer._parameters["weight"] = kept

    # Names and settings that another version might have.
    linear = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    state = linear.state_dict()
    renamed = {("1.gain" if key == "1.weight" else key): value + 1 for key, value in state.items()}
    versions.load_weights(linear, renamed, "The test")
    found["renamed"] = float((linear[1].weight - 2).abs().max())
    renamed["2.more"] = torch.zeros(1)
    del renamed["0.bias"]
    found["no place"] = message(versions.load_weights, linear, renamed, "The test")
    found["wrong shape"] = message(versions.load_weights, linear, {"0.weight": torch.zeros(5, 5)}, "The test")
    flux = dict(model.model.diffusion_model.state_dict())
    Newer = dataclasses.make_dataclass("Newer", [("surprise", int)], bases=())
    fields = [*dataclasses.fields(versions.FluxParams), *dataclasses.fields(Newer)]
    with patch.object(versions, "fields", lambda _: fields):
        found["new setting"] = message(versions.flux_config, flux, {})
    found["unknown setting"] = message(versions.flux_config, flux, {"sides": 3})
    found["no FLUX"] = message(versions.flux_config, {"a": torch.zeros(1)}, {})
    with patch.object(versions, "version", lambda: "0.3.12"):
        found["old"] = message(versions.check_version)
    found["this version"] = message(versions.check_version)

print(json.dumps(found))

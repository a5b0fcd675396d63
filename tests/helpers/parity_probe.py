"""Runs inside ComfyUI's Python: our surgery on its MODEL and VAE, tensors in, tensors out.

python parity_probe.py COMFYUI EXTENSION_PARENT MODEL_FOLDER INPUTS OUTPUTS
"""

import json
import sys
from pathlib import Path

comfyui, parent, folder, inputs, outputs = sys.argv[1:]
sys.path[:0] = [comfyui, parent]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import torch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from comfy.sd import VAE  # noqa: E402
from comfy.supported_models import SD15  # noqa: E402
from comfy.taesd.taesd import Decoder, Encoder  # noqa: E402
from op4ksr.nodes import memory  # noqa: E402
from op4ksr.nodes.adapter_patches import transformer_targets  # noqa: E402
from op4ksr.nodes.checks import check_vae  # noqa: E402
from op4ksr.nodes.comfy_host import ComfyHost  # noqa: E402
from op4ksr.nodes.f16 import to_f16  # noqa: E402
from op4ksr.nodes.load import doubted, round_trip_error  # noqa: E402
from op4ksr.nodes.memory import preflight, vae_passes  # noqa: E402
from op4ksr.nodes.native_models import _load_vae, _load_vae_patcher, load_embedded, load_folder  # noqa: E402
from op4ksr.nodes.rope_patch import PositionEmbedding, with_rope  # noqa: E402
from op4ksr.nodes.step_nodes import F16Encode, decode_latent  # noqa: E402
from op4ksr.nodes.vae_passes import decode_whole, encode_whole  # noqa: E402
from op4ksr.op4ksr_core.errors import Op4ksrError  # noqa: E402
from op4ksr.op4ksr_core.settings import PASSES, RopeSettings, UpscaleSettings  # noqa: E402
from op4ksr.op4ksr_core.weights.configs import FLUX_VAE  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

given = load_file(inputs)
step = UpscaleSettings(guidance=3.0, rope=None)


def transform(patcher, z, prompt):
    return ComfyHost(patcher, prompt).transform(z, step, lambda *_: None)


with torch.inference_mode():
    model, vae = load_folder(Path(folder))
    conditioning = [[given["prompt_embeds"], {"pooled_output": given["pooled_prompt_embeds"]}]]
    x = given["x"]
    z = encode_whole(vae, x)

    def run(patcher):
        return transform(patcher, given["z"], conditioning)

    low, high = with_rope(model, RopeSettings(theta=30.0)), with_rope(model, RopeSettings(theta=3000.0))
    found = {"encode": z, "stock_encode": vae.encode(x.movedim(1, -1)), "decode": decode_whole(vae, given["z"])}
    found["stock_decode"] = vae.decode(given["z"]).movedim(-1, 1)
    found |= {"before": run(model), "low": run(low), "high": run(high), "low_again": run(low), "after": run(model)}
    embedder = model.get_model_object("diffusion_model.pe_embedder")
    found["original_is_patched"] = torch.tensor(isinstance(embedder, PositionEmbedding))
    sampler = comfy.samplers.KSampler(model, 1, "cpu", "euler", "simple")
    guided = [[c, extra | {"guidance": 3.0}] for c, extra in conditioning]
    sigmas, none = torch.tensor([0.3, 0.0]), torch.zeros_like(given["z"])
    found["stock_sampler"] = sampler.sample(none, guided, guided, 1.0, given["z"], sigmas=sigmas)
    again = to_f16(load_folder(Path(folder) / "f8")[1], "partitioned")
    found["partitioned"] = decode_whole(again, given["z"])
    # In strips on a CPU, in one pass on a GPU, frugal on what holds neither: the same.
    total, ways = comfy.model_management.get_total_memory, memory.passes_of
    for how in PASSES:
        memory.passes_of = lambda device, how=how: PASSES if how == "whole" else ways(device)
        comfy.model_management.get_total_memory = lambda *_, how=how, **__: 1e6 if how == "frugal" else 1e12
        assert [vae_passes(vae, 96 * 160, decoder)[0][0] for decoder in (False, True)] == [how] * 2
        found |= {f"{how}_encode": encode_whole(vae, x), f"{how}_decode": decode_whole(vae, given["z"])}
        found[f"{how}_partitioned"] = decode_whole(again, given["z"])
    comfy.model_management.get_total_memory, memory.passes_of = total, ways
    found["stock_afterwards"] = vae.decode(given["z"]).movedim(-1, 1)


def message(call, *arguments):
    """What an artist would read on the node."""
    try:
        call(*arguments)
    except Op4ksrError as error:
        return str(error)
    return "no error"


UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1]}
UNET |= {"channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1]}
UNET |= {"transformer_depth_middle": 1, "context_dim": 8, "num_heads": 2, "use_spatial_transformer": True}
UNET |= {"legacy": False, "use_temporal_attention": False, "adm_in_channels": None, "dtype": torch.float32}
diffusion = ModelPatcher(SD15(UNET).get_model({}), torch.device("cpu"), torch.device("cpu"))
taesd = VAE(
    sd={f"taesd_encoder.{k}": v for k, v in Encoder(4).state_dict().items()}
    | {f"taesd_decoder.{k}": v for k, v in Decoder(4).state_dict().items()}
)
wide = [[torch.zeros(1, 5, 99), {"pooled_output": given["pooled_prompt_embeds"]}]]
four = {"samples": torch.ones(1, 4, 8, 8)}
errors = {
    "rope": message(with_rope, diffusion, RopeSettings()),
    "sampler": message(transform, diffusion, four["samples"], conditioning),
    "steps of a unet": message(
        lambda: ComfyHost(diffusion, conditioning).transform(four["samples"], UpscaleSettings(steps=4), lambda *_: None)
    ),
    "adapter": message(transformer_targets, diffusion),
    "latent": message(transform, model, four["samples"], conditioning),
    "conditioning": message(transform, model, given["z"], wide),
    "f16_of_taesd": message(to_f16, taesd, "centered"),
    "f16_of_f16": message(to_f16, vae, "centered"),
    "factor": message(check_vae, vae, 8),
    "head": message(to_f16, load_folder(Path(folder) / "f8")[1], "corner"),
    "decode_channels": message(decode_latent, ComfyHost(vae=vae), four, None, UpscaleSettings(fidelity=0.0)),
    "enormous": message(preflight, "test", torch.device("cpu"), {"encode": (1e15, 1e9), "transform": (0.0, 1e9)}),
    "empty": message(F16Encode.execute, torch.zeros(0, 8, 8, 3), vae, 4.0, 0, "16"),
}
with torch.inference_mode():
    errors["posterior"] = message(lambda: encode_whole(taesd, x, posterior_seed=1))
errors["doubt"] = doubted(0.004, 0.2)
errors["no doubt"] = doubted(0.2, 0.19) + doubted(0.001, 0.007)
with torch.inference_mode():
    errors["embedded round trip"] = str(round_trip_error(load_embedded()[2]))


def head_of(vae):
    return vae.first_stage_model.decoder.conv_out.mode


numbers = FLUX_VAE | {"norm_num_groups": 8}
with torch.inference_mode():
    vaes = {name: _load_vae(Path(folder) / name, numbers, "auto") for name in ("centered", "partitioned")}
    again = _load_vae_patcher(Path(folder) / "partitioned", numbers, "auto")
    untold = to_f16(load_folder(Path(folder) / "f8")[1], "auto")
errors["heads"] = {name: head_of(made) for name, made in (vaes | {"untold": untold}).items()}
errors["reloaded head"] = again.model.decoder.conv_out.mode
errors["heavy imports"] = " ".join(sorted({"diffusers", "peft"} & sys.modules.keys())) or "none"
Path(outputs).with_suffix(".json").write_text(json.dumps(errors))
save_file({key: value.float().contiguous() for key, value in found.items()}, outputs)

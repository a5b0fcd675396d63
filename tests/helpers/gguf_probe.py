"""Runs inside ComfyUI's Python: our nodes on a FLUX MODEL from city96's GGUF loader, beside the same weights plain.

python gguf_probe.py COMFYUI EXTENSION_PARENT GGUF_NODES FOLDER
FOLDER gets a transformer of FLUX's width with one block of each kind, as GGUF (Q8_0) and dequantised as safetensors.
"""

import importlib.util
import json
import sys
from pathlib import Path

comfyui, parent, gguf_nodes, folder = sys.argv[1:]
sys.path[:0] = [comfyui, parent]
sys.argv = [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402
import gguf  # noqa: E402
import torch  # noqa: E402
from op4ksr.nodes.adapter_patches import transformer_targets, with_adapter  # noqa: E402
from op4ksr.nodes.comfy_host import ComfyHost  # noqa: E402
from op4ksr.nodes.rope_patch import with_rope  # noqa: E402
from op4ksr.op4ksr_core.settings import RopeSettings, UpscaleSettings  # noqa: E402
from op4ksr.op4ksr_core.weights.adapters import Adapter  # noqa: E402

WIDTH, QUANTISED = 3072, gguf.GGMLQuantizationType.Q8_0


def layer(name, out, into, bias=True):
    weight = torch.randn(out, into) * into**-0.5
    return {f"{name}.weight": weight} | ({f"{name}.bias": torch.zeros(out)} if bias else {})


def flux_state():
    """FLUX.1-schnell's keys with one double and one single block."""
    d = WIDTH
    state = layer("img_in", d, 64) | layer("txt_in", d, 4096)
    for name, into in (("time_in", 256), ("vector_in", 768)):
        state |= layer(f"{name}.in_layer", d, into) | layer(f"{name}.out_layer", d, d)
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}"
        state |= layer(f"{block}_mod.lin", 6 * d, d) | layer(f"{block}_attn.qkv", 3 * d, d)
        state |= (
            layer(f"{block}_attn.proj", d, d) | layer(f"{block}_mlp.0", 4 * d, d) | layer(f"{block}_mlp.2", d, 4 * d)
        )
        state |= {f"{block}_attn.norm.{x}_norm.scale": torch.ones(128) for x in ("query", "key")}
    block = "single_blocks.0"
    state |= layer(f"{block}.linear1", 7 * d, d) | layer(f"{block}.linear2", d, 5 * d)
    state |= layer(f"{block}.modulation.lin", 3 * d, d)
    state |= {f"{block}.norm.{x}_norm.scale": torch.ones(128) for x in ("query", "key")}
    return state | layer("final_layer.adaLN_modulation.1", 2 * d, d) | layer("final_layer.linear", 64, d)


def write_both(state, path):
    """The GGUF file, and the tensors that it stands for."""
    writer, meant = gguf.GGUFWriter(path, "flux"), {}
    for key, value in state.items():
        kind = QUANTISED if value.ndim == 2 else gguf.GGMLQuantizationType.F32
        packed = gguf.quants.quantize(value.numpy(), kind)
        meant[key] = torch.from_numpy(gguf.quants.dequantize(packed, kind).copy()).view(value.shape)
        writer.add_tensor(key, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def city96():
    """Their package under a name that Python takes."""
    path = Path(gguf_nodes) / "__init__.py"
    spec = importlib.util.spec_from_file_location("city96", path, submodule_search_locations=[gguf_nodes])
    module = importlib.util.module_from_spec(spec)
    sys.modules["city96"] = module
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]()


with torch.inference_mode():
    torch.manual_seed(3)
    for kind in ("unet", "unet_gguf", "diffusion_models"):
        folder_paths.add_model_folder_path(kind, folder)
    meant = write_both(flux_state(), Path(folder) / "flux.gguf")
    plain = comfy.sd.load_diffusion_model_state_dict(meant)
    (packed,) = city96().load_unet("flux.gguf")
    conditioning = [[torch.randn(1, 8, 4096), {"pooled_output": torch.randn(1, 768)}]]
    z = torch.randn(1, 16, 16, 24)
    lora = {f"single_transformer_blocks.0.proj_out.lora_{x}.weight": torch.randn(s) * 0.05 for x, s in
            (("A", (4, 5 * WIDTH)), ("B", (WIDTH, 4)))}  # fmt: skip
    adapter = Adapter("test", {"lora_alpha": 4}, lora)

    def run(model):
        return ComfyHost(model, conditioning).transform(z, UpscaleSettings(rope=None), lambda *_: None)

    def relative(a, b):
        return float((a - b).norm() / b.norm())

    weight = packed.model.diffusion_model.double_blocks[0].img_mlp[0].weight
    found = {"packed": type(packed).__name__, "stored": weight.tensor_type.name}
    bare = run(plain) - z
    found["bare"] = relative(run(packed) - z, bare)
    theta = RopeSettings(theta=30.0)
    turned = run(with_rope(plain, theta)) - z
    found["theta"] = relative(run(with_rope(packed, theta)) - z, turned)
    found["theta moves"] = relative(turned, bare)
    learned = run(with_adapter(plain, transformer_targets(plain), adapter, 1.0)) - z
    found["adapter"] = relative(run(with_adapter(packed, transformer_targets(packed), adapter, 1.0)) - z, learned)
    found["adapter moves"] = relative(learned, bare)
    found["afterwards"] = relative(run(packed) - z, bare)
(Path(folder) / "found.json").write_text(json.dumps(found))

"""OMGSR-F's own class on small weights, on a CPU.

python omgsr_reference.py REPOSITORY FOLDER ADAPTERS TILE_PX IN.safetensors OUT.safetensors

FOLDER is a small diffusers folder, ADAPTERS holds `flux_adapter` and `vae_encoder_adapter`, and IN `picture`
(B, 3, H, W) in [0, 1], `prompt` (1, L, D) and `pooled` (1, P). The class and the colour fix are the repository's,
without the two calls that wait for CUDA, and without torchvision's two PIL converters, which are not called.
"""

import importlib
import sys
import types
from pathlib import Path

import diffusers  # noqa: F401  it and peft ask for the real torchvision when they are imported
import peft  # noqa: F401
import torch
from safetensors.torch import load_file, save_file

repository, folder, adapters, tile_px, given, out = sys.argv[1:]
sys.path.insert(0, repository)
transforms = types.ModuleType("torchvision.transforms")
transforms.ToTensor = transforms.ToPILImage = None
sys.modules |= {"torchvision": types.ModuleType("torchvision"), "torchvision.transforms": transforms}

source = (Path(repository) / "infer" / "omgsr_f_infer_model.py").read_text()
copy = Path(out).parent / "omgsr_on_cpu.py"
copy.write_text(source.replace("torch.cuda.synchronize()", "pass"))
sys.path.insert(0, str(copy.parent))
kind = importlib.import_module(copy.stem).OMGSR_F_Infer
colour = importlib.import_module("infer.wavelet_color_fix")

tensors = load_file(given)
model = kind(folder, adapters, "cpu", torch.float32)
picture, tile = tensors["picture"], int(tile_px) // 8
side = tile // 2
rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
places = torch.stack([torch.zeros(side, side), rows, columns], -1).reshape(-1, 3)
words = torch.zeros(tensors["prompt"].shape[1], 3)
with torch.no_grad():
    torch.manual_seed(0)
    made, _ = model(picture * 2 - 1, tensors["prompt"], tensors["pooled"], words, places, tile, tile // 2)
    made = torch.clip(made * 0.5 + 0.5, 0, 1)
    shown = colour.adaptive_instance_normalization(made, picture.clamp(0, 1))
    save_file({"picture": shown.clamp(0, 1).contiguous()}, out)

"""OSEDiff's own class on small weights, on a CPU: outside the project, in a Python with diffusers 0.25.

python osediff_reference.py REPOSITORY FOLDER PICKLE IN.safetensors OUT.safetensors

FOLDER is a small diffusers folder, IN holds `picture` (B, 3, H, W) in [-1, 1] and `prompt` (1, L, D). The class is the
repository's, with the CPU named where it names CUDA, without its text encoder and its tiles for the VAE.
"""

import importlib
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

repository, folder, pickled, given, out = sys.argv[1:]
source = (Path(repository) / "osediff.py").read_text().replace('"cuda"', '"cpu"').replace(".cuda()", "")
copy = Path(out).parent / "osediff_on_cpu.py"
copy.write_text(source)
sys.path[:0] = [repository, str(copy.parent)]
module = importlib.import_module(copy.stem)


class Nothing:
    """Stands for the tokenizer and the text encoder."""

    @classmethod
    def from_pretrained(cls, *_, **__):
        return cls()

    def to(self, *_, **__):
        return self


module.AutoTokenizer = module.CLIPTextModel = Nothing
tensors = load_file(given)
kind = module.OSEDiff_test
kind._init_tiled_vae = lambda self, **_: None
kind.encode_prompt = lambda self, _: tensors["prompt"]
arguments = types.SimpleNamespace(
    pretrained_model_name_or_path=folder,
    osediff_path=pickled,
    mixed_precision="fp32",
    merge_and_unload_lora=False,
    vae_encoder_tiled_size=1024,
    vae_decoder_tiled_size=224,
    latent_tiled_size=96,
    latent_tiled_overlap=32,
)
model = kind(arguments)
with torch.no_grad():
    torch.manual_seed(0)
    save_file({"picture": model(tensors["picture"], "").contiguous()}, out)

"""Small random models in the places, and under the names, that docs/training.md uses."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import torch
from builders import make_transformer, make_vae
from model_files import write_model
from safetensors.torch import save_file


def write_text_encoders(folder):
    """A diffusers FLUX folder whose CLIP and T5 are tiny and random, with working tokenizers."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        PreTrainedTokenizerFast,
        T5Config,
        T5EncoderModel,
    )

    torch.manual_seed(5)
    folder.mkdir(exist_ok=True)
    letters = [
        *"abcdefghijklmnopqrstuvwxyz0123456789,.-",
        *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz0123456789,.-"),
    ]
    words = {w: i for i, w in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    clip_tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    unigram = Tokenizer(
        models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -1.0) for c in letters)], 2)
    )
    unigram.pre_tokenizer = pre_tokenizers.Whitespace()
    t5_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    clip = CLIPTextConfig(
        vocab_size=len(words), hidden_size=20, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    t5 = T5Config(vocab_size=200, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=CLIPTextModel(clip),
        tokenizer=clip_tokenizer,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=t5_tokenizer,
        transformer=None,
    ).save_pretrained(folder)
    return folder


def write_ultraflux(folder):
    """A small model with its text encoders and no prompt file yet."""
    write_text_encoders(folder)
    write_model(folder, make_transformer(), make_vae())
    (folder / "prompt.safetensors").unlink()


def write_features(folder):
    """A ConvNeXt for the critic."""
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel

    torch.manual_seed(3)
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], image_size=64)
    DINOv3ConvNextModel(config).save_pretrained(folder)


class Blur(torch.nn.Module):
    """Stands where a degradation estimate would: less gradient, more of it."""

    def forward(self, x):
        return -(x[..., 1:] - x[..., :-1]).abs().mean()[None]


def write_curation_models(folder):
    """Stage 2's: deg.pt2, clip-vit-l-14, laion.safetensors, whose scores are all high."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    width = torch.export.Dim("width", min=4, max=4096)
    height = torch.export.Dim("height", min=4, max=4096)
    program = torch.export.export(Blur(), (torch.rand(1, 3, 64, 80),), dynamic_shapes=({2: height, 3: width},))
    torch.export.save(program, folder / "deg.pt2")
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "clip-vit-l-14")
    state = {"layers.0.weight": torch.randn(8, 16), "layers.0.bias": torch.randn(8)}
    state |= {"layers.10.weight": torch.randn(1, 8), "layers.10.bias": torch.full((1,), 50.0)}
    save_file(state, folder / "laion.safetensors")


@contextmanager
def chat_server(score):
    """A server that speaks chat completions: (address, what it was asked). `score` is given how often it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            words = json.dumps({"choices": [{"message": {"content": f"Score: {score(len(asked))}"}}]})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(words.encode())

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()

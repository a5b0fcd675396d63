"""Fixed prompt embeddings: computed once with FLUX's text encoders, then kept in a small file."""

from pathlib import Path

import torch

from ..errors import WeightsError
from ..files import at_home
from ..settings import POSITIVE_PROMPT


def embed_prompt(folder: str | Path, to: str | Path, prompt: str = POSITIVE_PROMPT, tokens: int = 512) -> Path:
    """Writes `prompt_embeds` (1, tokens, D) and `pooled_prompt_embeds` (1, P) of a prompt to a safetensors file.

    `folder` is a diffusers FLUX folder with tokenizer, text_encoder, tokenizer_2 and text_encoder_2.
    Needs transformers. Raises WeightsError where one of them is missing.
    """
    from diffusers import FluxPipeline
    from safetensors.torch import save_file

    folder, to = at_home(folder), at_home(to)
    wanted = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "model_index.json")
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        raise WeightsError(
            f"{folder} lacks {', '.join(missing)}: a diffusers FLUX folder with its text encoders is needed."
        )
    pipeline = FluxPipeline.from_pretrained(
        folder, transformer=None, vae=None, torch_dtype=torch.float32, local_files_only=True
    )
    with torch.inference_mode():
        sequence, pooled, _ = pipeline.encode_prompt(prompt, prompt_2=None, max_sequence_length=tokens)
    tensors = {"prompt_embeds": sequence.contiguous(), "pooled_prompt_embeds": pooled.contiguous()}
    save_file(tensors, to, metadata={"prompt": prompt})
    return to

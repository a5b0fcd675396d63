"""Fixed prompt embeddings: computed once with FLUX's or Stable Diffusion's text encoders, then kept in a small file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import SettingError, WeightsError
from ..files import at_home, read_text
from ..settings import POSITIVE_PROMPT
from ..tables import is_table, read_table
from .prompt_files import TOKENS


def embed_prompt(folder: str | Path, to: str | Path, prompt: str = POSITIVE_PROMPT, tokens: int = 512) -> Path:
    """Writes `prompt_embeds` (1, tokens, D) and `pooled_prompt_embeds` (1, P) of a prompt to a safetensors file, and
    the number of tokens to its metadata: 512 for UltraFlux and OMGSR, 256 as ComfyUI pads.

    `folder` is a diffusers FLUX folder with tokenizer, text_encoder, tokenizer_2 and text_encoder_2.
    A Stable Diffusion folder (`unet`, `tokenizer`, `text_encoder`) gives `prompt_embeds` (1, 77, D) alone.
    Needs transformers. Raises WeightsError where one of them is missing.
    """
    from diffusers import FluxPipeline
    from safetensors.torch import save_file

    folder, to = at_home(folder), at_home(to)
    if (folder / "unet").is_dir():
        _clip_embedder(folder)(prompt, to)
        return to
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
    save_file(tensors, to, metadata={"prompt": prompt, TOKENS: str(tokens)})
    return to


def embed_captions(folder: str | Path, captions: Path) -> int:
    """Writes `NAME.prompt.safetensors` beside every `NAME.txt` below a folder, or beside every picture of a table with
    the columns `path` and `caption`; returns how many.

    `folder` is Stable Diffusion's. Raises WeightsError where it has no text encoder, or there is no caption, and
    SettingError where a row has none.
    """
    texts = _captions_of_table(captions) if is_table(captions) else _captions_below(captions)
    if not texts:
        raise WeightsError(f"There is no caption (NAME.txt) below {captions}.")
    embed = _clip_embedder(at_home(folder))
    for path, text in texts.items():
        embed(text, path.with_name(f"{path.stem}.prompt.safetensors"))
    return len(texts)


def _captions_below(folder: Path) -> dict[Path, str]:
    return {path: read_text(path).strip() for path in sorted(folder.rglob("*.txt"))}


def _captions_of_table(table: Path) -> dict[Path, str]:
    rows = read_table(table)
    without = [row["path"] for row in rows if not row.get("caption")]
    if without:
        raise SettingError(f"{table}: {len(without)} of {len(rows)} rows have no caption, {without[0]} among them.")
    return {Path(row["path"]): str(row["caption"]).strip() for row in rows}


def _clip_embedder(folder: Path) -> Callable[[str, Path], None]:
    """Writes CLIP's last hidden state of a prompt padded to the tokenizer's length, as Stable Diffusion reads it."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, CLIPTextModel

    missing = [name for name in ("tokenizer", "text_encoder") if not (folder / name).is_dir()]
    if missing:
        raise WeightsError(f"{folder} lacks {', '.join(missing)}: Stable Diffusion's own text encoder is needed.")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    encoder: Any = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True)

    def embed(prompt: str, to: Path) -> None:
        length = tokenizer.model_max_length
        ids = tokenizer(prompt, max_length=length, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.inference_mode():
            tokens = encoder(ids)[0].float().contiguous()
        save_file({"prompt_embeds": tokens}, to, metadata={"prompt": prompt, TOKENS: str(length)})

    return embed

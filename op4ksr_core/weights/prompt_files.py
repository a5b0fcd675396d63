"""Prompt files: the embeddings of a fixed prompt, so that no text encoder need be loaded."""

from pathlib import Path

import torch
from torch import Tensor

from ..errors import WeightsError
from .files import WeightFiles, find_weights, listing

TOKENS = "tokens"
"""The metadata's name for the length that the prompt was padded to. Files from before it was there lack it."""


def load_prompt(path: str | Path) -> tuple[Tensor, Tensor]:
    """(T5 sequence (1, L, D), pooled CLIP (1, P)) from a safetensors file with exactly these two tensors,
    named `prompt_embeds` and `pooled_prompt_embeds`. Raises WeightsError, also where L is not what the file says."""
    files = find_weights(path)
    state = files.tensors()
    wanted = {"prompt_embeds": 3, "pooled_prompt_embeds": 2}
    wrong = [k for k, rank in wanted.items() if k not in state or state[k].ndim != rank or state[k].shape[0] != 1]
    if wrong or state.keys() - wanted.keys():
        raise WeightsError(
            f"{path} is no prompt file: it holds {listing(f'{k} {list(v.shape)}' for k, v in state.items())}; wanted "
            "prompt_embeds [1, L, D] and pooled_prompt_embeds [1, P]. `op4ksr embed-prompt` makes one."
        )
    _check_length(files, state["prompt_embeds"])
    for name in wanted:
        if not bool(torch.isfinite(state[name]).all()):
            raise WeightsError(f"{path}: {name} holds values that are not finite numbers. Make it again.")
    return state["prompt_embeds"].float(), state["pooled_prompt_embeds"].float()


def load_tokens(path: str | Path) -> Tensor:
    """The tokens (1, L, D), float32, of Stable Diffusion's prompt file, without a pooled half. Raises WeightsError."""
    files = find_weights(path)
    state = files.tensors()
    tokens = state.get("prompt_embeds")
    if tokens is None or tokens.ndim != 3 or len(tokens) != 1 or not bool(torch.isfinite(tokens).all()):
        held = listing(f"{k} {list(v.shape)}" for k, v in state.items())
        raise WeightsError(f"{path} is no prompt file: it holds {held}; wanted finite prompt_embeds [1, L, D].")
    _check_length(files, tokens)
    return tokens.float()


def _check_length(files: WeightFiles, sequence: Tensor) -> None:
    """Raises WeightsError where the sequence (1, L, D) has another length than the file says."""
    said = files.metadata().get(TOKENS)
    if said is not None and said != str(sequence.shape[1]):
        raise WeightsError(
            f"{files.origin} says that its prompt has {said} tokens, but holds {sequence.shape[1]}. It was cut or "
            "padded afterwards: make it again with `op4ksr embed-prompt --tokens`."
        )

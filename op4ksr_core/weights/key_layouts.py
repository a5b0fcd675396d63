"""Key layouts of FLUX weights: Black Forest Labs' own (BFL) and diffusers', and the way between them.

Works on tensors of any width. Nothing is dropped: a key that no rule knows keeps its name, so that
the strict loader can list it. Tensors are never written to; splits are views.
"""

import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

State = dict[str, Tensor]

_TOP = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "txt_in": "context_embedder",
    "img_in": "x_embedder",
    "final_layer.linear": "proj_out",
}
_SWAPPED = ("final_layer.adaLN_modulation.1", "norm_out.linear")  # BFL: shift, scale; diffusers: scale, shift
_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_DOUBLE_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SINGLE = {
    "modulation.lin": "norm.linear",
    "linear2": "proj_out",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
_SINGLE_FUSED = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}

_BFL_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
_LDM_PREFIXES = ("first_stage_model.", "vae.")


def without_prefix(state: State, prefixes: tuple[str, ...]) -> State:
    """The state with the first prefix that every key carries taken off."""
    for prefix in prefixes:
        if state and all(key.startswith(prefix) for key in state):
            return {key[len(prefix) :]: value for key, value in state.items()}
    return state


def is_bfl_transformer(keys: set[str]) -> bool:
    return any("double_blocks." in key or "single_blocks." in key for key in keys) and not any(
        "single_transformer_blocks." in key for key in keys
    )


def is_ldm_vae(keys: set[str]) -> bool:
    return any("encoder.mid.block_1." in key for key in keys)


def transformer_to_diffusers(state: State) -> State:
    """FLUX transformer weights in BFL's layout -> diffusers' layout."""
    out: State = {}
    for key, value in without_prefix(state, _BFL_PREFIXES).items():
        out.update(_one_to_diffusers(key, value))
    return out


def _one_to_diffusers(key: str, value: Tensor) -> State:
    head, _, kind = key.rpartition(".")
    kind = "weight" if kind == "scale" else kind
    block = re.fullmatch(r"(double|single)_blocks\.(\d+)\.(.+)", head)
    if head == _SWAPPED[0]:
        return {f"{_SWAPPED[1]}.{kind}": swap_halves(value)}
    if block is None:
        return {f"{_TOP[head]}.{kind}" if head in _TOP else key: value}
    double, index, layer = block[1] == "double", block[2], block[3]
    prefix = f"{'transformer_blocks' if double else 'single_transformer_blocks'}.{index}"
    names, fused = (_DOUBLE, _DOUBLE_FUSED) if double else (_SINGLE, _SINGLE_FUSED)
    if layer in fused:
        parts = _split_fused(value, len(fused[layer]))
        return {f"{prefix}.{name}.{kind}": part for name, part in zip(fused[layer], parts, strict=True)}
    return {f"{prefix}.{names[layer]}.{kind}" if layer in names else key: value}


def _split_fused(value: Tensor, parts: int) -> tuple[Tensor, ...]:
    """q, k, v of equal size; in single blocks also the MLP input, four times as large (FLUX's ratio)."""
    width = value.shape[0] // (3 if parts == 3 else 7)
    sizes = [width] * 3 + ([value.shape[0] - 3 * width] if parts == 4 else [])
    return value.split(sizes)


def swap_halves(value: Tensor) -> Tensor:
    """First and second half along dim 0 exchanged, in a new tensor."""
    first, second = value.chunk(2)
    return torch.cat([second, first])


def transformer_to_bfl(state: State) -> State:
    """FLUX transformer weights in diffusers' layout -> BFL's layout; the inverse of `transformer_to_diffusers`."""
    state, out = dict(state), {}
    for bfl, names in _fused_groups(state):
        for kind in ("weight", "bias"):
            keys = [f"{name}.{kind}" for name in names]
            if all(key in state for key in keys):
                out[f"{bfl}.{kind}"] = torch.cat([state.pop(key) for key in keys])
    for key, value in state.items():
        out.update(_one_to_bfl(key, value))
    return out


def _fused_groups(state: State) -> list[tuple[str, list[str]]]:
    """(BFL layer, its diffusers layers) of every fused projection in the state."""
    groups = []
    for key in state:
        match = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.attn\.(to_q|add_q_proj)\.weight", key)
        if match:
            single, index = bool(match[1]), match[2]
            layer = "linear1" if single else "img_attn.qkv" if match[3] == "to_q" else "txt_attn.qkv"
            names = (_SINGLE_FUSED if single else _DOUBLE_FUSED)[layer]
            prefix = f"{match[1] or ''}transformer_blocks.{index}."
            bfl = f"{'single' if single else 'double'}_blocks.{index}.{layer}"
            groups.append((bfl, [prefix + name for name in names]))
    return groups


def _one_to_bfl(key: str, value: Tensor) -> State:
    head, _, kind = key.rpartition(".")
    if head == _SWAPPED[1]:
        return {f"{_SWAPPED[0]}.{kind}": swap_halves(value)}
    block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", head)
    table = _TOP if block is None else _SINGLE if block[1] else _DOUBLE
    names = {diffusers: bfl for bfl, diffusers in table.items()}
    layer = head if block is None else block[3]
    if layer not in names:
        return {key: value}
    kind = "scale" if names[layer].endswith("_norm") else kind
    prefix = "" if block is None else f"{'single' if block[1] else 'double'}_blocks.{block[2]}."
    return {f"{prefix}{names[layer]}.{kind}": value}


_LDM_LAYERS = (
    (r"mid\.block_([12])", lambda m, _: f"mid_block.resnets.{int(m[1]) - 1}"),
    (r"mid\.attn_1\.norm", lambda m, _: "mid_block.attentions.0.group_norm"),
    (r"mid\.attn_1\.([qkv])", lambda m, _: f"mid_block.attentions.0.to_{m[1]}"),
    (r"mid\.attn_1\.proj_out", lambda m, _: "mid_block.attentions.0.to_out.0"),
    (r"down\.(\d+)\.block\.(\d+)", lambda m, _: f"down_blocks.{m[1]}.resnets.{m[2]}"),
    (r"down\.(\d+)\.downsample", lambda m, _: f"down_blocks.{m[1]}.downsamplers.0"),
    (r"up\.(\d+)\.block\.(\d+)", lambda m, top: f"up_blocks.{top - int(m[1])}.resnets.{m[2]}"),
    (r"up\.(\d+)\.upsample", lambda m, top: f"up_blocks.{top - int(m[1])}.upsamplers.0"),
    (r"norm_out", lambda m, _: "conv_norm_out"),
)


def vae_to_diffusers(state: State) -> State:
    """FLUX autoencoder weights in BFL's (LDM's) layout -> diffusers' layout; attention 1x1 convs become linears."""
    state = without_prefix(state, _LDM_PREFIXES)
    top = max((int(m[1]) for key in state if (m := re.match(r"decoder\.up\.(\d+)\.", key))), default=0)
    out: State = {}
    for key, value in state.items():
        renamed = _renamed(key, _LDM_LAYERS, top).replace("nin_shortcut", "conv_shortcut")
        linear = re.search(r"attentions\.0\.to_.*weight$", renamed) and value.ndim == 4
        out[renamed] = value[:, :, 0, 0] if linear else value
    return out


def _renamed(key: str, rules: Iterable[tuple[str, Callable[[re.Match[str], int], str]]], top: int) -> str:
    """The key with the first rule that fits the part behind `encoder.` or `decoder.` applied."""
    side, _, rest = key.partition(".")
    if side not in ("encoder", "decoder"):
        return key
    for pattern, rename in rules:
        match = re.match(pattern + r"\.", rest)
        if match:
            return f"{side}.{rename(match, top)}.{rest[match.end() :]}"
    return key


_DIFFUSERS_LAYERS = (
    (r"mid_block\.resnets\.([01])", lambda m, _: f"mid.block_{int(m[1]) + 1}"),
    (r"mid_block\.attentions\.0\.group_norm", lambda m, _: "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", lambda m, _: f"mid.attn_1.{m[1]}"),
    (r"mid_block\.attentions\.0\.to_out\.0", lambda m, _: "mid.attn_1.proj_out"),
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", lambda m, _: f"down.{m[1]}.block.{m[2]}"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", lambda m, _: f"down.{m[1]}.downsample"),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m, top: f"up.{top - int(m[1])}.block.{m[2]}"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", lambda m, top: f"up.{top - int(m[1])}.upsample"),
    (r"conv_norm_out", lambda m, _: "norm_out"),
)


def vae_key_to_ldm(key: str, top: int = 0) -> str:
    """One key of a diffusers autoencoder in LDM's layout; `top` is the last up block's index (decoder only)."""
    return _renamed(key, _DIFFUSERS_LAYERS, top).replace("conv_shortcut", "nin_shortcut")


def vae_to_ldm(state: State) -> State:
    """FLUX autoencoder weights in diffusers' layout -> BFL's (LDM's); the inverse of `vae_to_diffusers`."""
    top = max((int(m[1]) for key in state if (m := re.match(r"decoder\.up_blocks\.(\d+)\.", key))), default=0)
    out: State = {}
    for key, value in state.items():
        renamed = vae_key_to_ldm(key, top)
        convolution = re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", renamed) and value.ndim == 2
        out[renamed] = value[:, :, None, None] if convolution else value
    return out

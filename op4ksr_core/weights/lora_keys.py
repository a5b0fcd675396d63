"""Key names that other programs give to FLUX LoRAs: kohya's, Black Forest Labs' (BFL) and diffusers'.

kohya: `lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight`, with BFL's or diffusers' modules; ours for ComfyUI's
stock loader: `lora_transformer_...`, and `lora_vae_encoder_...`, which that leaves aside. BFL:
`diffusion_model.double_blocks...`. diffusers: `transformer.transformer_blocks...`, perhaps behind `base_model.model.`.
Pairs are named `lora_A` and `lora_B`, or `lora_down` and `lora_up`; a module may have its own `alpha`.
"""

import re
from collections import Counter
from collections.abc import Iterable

from torch import Tensor

from ..errors import WeightsError
from .files import listing
from .key_layouts import transformer_to_diffusers

KOHYA = {"transformer": "lora_transformer_", "vae": "lora_vae_encoder_"}
"""The prefixes under which our own single file for ComfyUI's stock LoRA loader names the two parts."""

SETTINGS = "op4ksr."
"""In front of a part's name: where such a file keeps PEFT's settings in its metadata."""

Pair = dict[str, Tensor]
"""`lora_A` (rank, in, ...), `lora_B` (out, rank, ...) and `alpha`, one number."""

_PREFIXES = (
    (KOHYA["transformer"], "transformer"), (KOHYA["vae"], "vae"), ("lora_unet_", "transformer"),
    ("base_model.model.", "transformer"), ("model.diffusion_model.", "transformer"), ("diffusion_model.",
    "transformer"), ("transformer.", "transformer"), ("vae_encoder.", "vae"),
)  # fmt: skip
_TEXT = ("lora_te", "text_encoder", "lora_te1_", "lora_te2_", "lora_te3_")
_SIDES = {
    "lora_A.weight": "lora_A", "lora_B.weight": "lora_B", "lora_down.weight": "lora_A", "lora_up.weight": "lora_B",
    "lora_A.default.weight": "lora_A", "lora_B.default.weight": "lora_B", "alpha": "alpha",
}  # fmt: skip
_FORMS = {
    "LoHa": ("hada_",), "LoKr": ("lokr_",), "DoRA": ("dora_scale", "lora_magnitude_vector"), "IA3": ("ia3_",),
    "OFT": ("oft_",), "LoCon with a middle": ("lora_mid",), "full-difference": (".diff", ".diff_b"),
    "modules_to_save": ("modules_to_save",), "biased LoRA": ("lora_B.bias", "lora_up.bias"),
}  # fmt: skip
_SEGMENTS = (
    "single_transformer_blocks transformer_blocks context_embedder x_embedder time_text_embed timestep_embedder "
    "guidance_embedder text_embedder linear_1 linear_2 linear norm_out proj_out proj_mlp add_q_proj add_k_proj "
    "add_v_proj to_add_out to_out to_q to_k to_v attn ff_context ff net proj norm1_context norm1 norm "
    "down_blocks mid_block resnets attentions downsamplers conv_shortcut conv_in conv_out conv1 conv2 conv "
    "double_blocks single_blocks img_attn txt_attn img_mlp txt_mlp img_mod txt_mod qkv lin linear1 linear2 modulation "
    "final_layer adaLN_modulation img_in txt_in time_in vector_in guidance_in in_layer out_layer"
).split()
_BFL = (
    "double_blocks.",
    "single_blocks.",
    "final_layer.",
    "img_in",
    "txt_in",
    "time_in.",
    "vector_in.",
    "guidance_in.",
)


def other_form(keys: Iterable[str]) -> str | None:
    """The name of an adapter's form, read off its keys, where it is no plain LoRA."""
    keys = list(keys)
    for form, marks in _FORMS.items():
        if any(mark in key for key in keys for mark in marks):
            return form
    return None


def pairs_of(origin: str, state: dict[str, Tensor]) -> tuple[dict[str, dict[str, Pair]], int]:
    """The file's pairs by part and module, by diffusers' names, and how many tensors of text encoders were left out.

    Raises WeightsError on a key that is none of a FLUX LoRA, and where nothing is left.
    """
    found: dict[str, dict[str, Pair]] = {"transformer": {}, "vae": {}}
    kept = {key: value for key, value in state.items() if not key.startswith(_TEXT)}
    for key, value in kept.items():
        part, module, side = _placed(origin, key)
        found[part].setdefault(module, {})[side] = value
    for modules in found.values():
        _check_whole(origin, modules)
    found["transformer"] = _to_diffusers(found["transformer"])
    pairs = {part: modules for part, modules in found.items() if modules}
    if not pairs:
        raise WeightsError(f"{origin} holds no pair of a FLUX LoRA: {listing(state) or 'it is empty'}.")
    return pairs, len(state) - len(kept)


def _placed(origin: str, key: str) -> tuple[str, str, str]:
    """A key's part, module (dotted) and side."""
    name, side = next(((key[: -len(e) - 1], s) for e, s in _SIDES.items() if key.endswith(f".{e}")), (key, ""))
    prefix, part = next(((p, part) for p, part in _PREFIXES if name.startswith(p)), ("", "transformer"))
    module = name[len(prefix) :].removeprefix("model.").removeprefix("transformer.")
    if prefix.startswith("lora_"):
        try:
            module = dotted(module)
        except WeightsError as error:
            raise WeightsError(f"{origin} is no FLUX LoRA: {error}") from error
    if not side or not module.startswith((*_BFL, *_SEGMENTS)):
        raise WeightsError(f"{origin}: {key} is no key of a FLUX LoRA.")
    return part, module, side


def _check_whole(origin: str, modules: dict[str, Pair]) -> None:
    for name, pair in modules.items():
        if not {"lora_A", "lora_B"} <= pair.keys():
            raise WeightsError(f"{origin}: {name} has only {listing(pair)}; a pair is two. The file is cut short.")


def _to_diffusers(modules: dict[str, Pair]) -> dict[str, Pair]:
    """Modules of BFL's layout by diffusers' names; a fused layer's rows are dealt out, its `lora_A` is copied."""
    out: dict[str, Pair] = {}
    for name, pair in modules.items():
        if not name.startswith(_BFL):
            out[name] = pair
            continue
        for key, rows in transformer_to_diffusers({f"{name}.weight": pair["lora_B"]}).items():
            out[key.removesuffix(".weight")] = pair | {"lora_A": pair["lora_A"].clone(), "lora_B": rows.contiguous()}
    return out


def settings_of(modules: dict[str, Pair]) -> dict:
    """PEFT's settings read off the pairs: the commonest rank and alpha, and patterns for the others. A module without
    an alpha has its rank's, as kohya's programs count."""
    ranks = {name: int(pair["lora_A"].shape[0]) for name, pair in modules.items()}
    alphas = {name: float(pair["alpha"]) if "alpha" in pair else float(ranks[name]) for name, pair in modules.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config: dict = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": sorted(modules)}
    for name, values, common in (("rank_pattern", ranks, rank), ("alpha_pattern", alphas, alpha)):
        other = {re.escape(module): value for module, value in values.items() if value != common}
        if other:
            config[name] = other
    return config


def dotted(name: str) -> str:
    """`transformer_blocks_0_attn_to_out_0` -> `transformer_blocks.0.attn.to_out.0`. Raises WeightsError."""
    segments, left = [], name
    while left:
        found = re.match(rf"({'|'.join(sorted(_SEGMENTS, key=len, reverse=True))}|\d+)(?:_|$)", left)
        if not found:
            raise WeightsError(f"{name} names no module of a FLUX transformer or VAE encoder (stuck at {left}).")
        segments.append(found[1])
        left = left[found.end() :]
    return ".".join(segments)

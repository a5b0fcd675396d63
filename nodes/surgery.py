"""Surgery on ComfyUI's MODEL and VAE. Nothing here touches the object that came in."""

import copy
from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import comfy.model_sampling
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor, nn

from ..op4ksr_core.errors import ImageError, SettingError, WeightsError
from ..op4ksr_core.model.rope import RotaryEmbedding
from ..op4ksr_core.model.vae import NoMiddle, sub_pixel_head
from ..op4ksr_core.paths import EMBEDDED
from ..op4ksr_core.settings import RopeSettings
from ..op4ksr_core.weights.files import find_weights
from ..op4ksr_core.weights.key_layouts import (
    is_bfl_transformer,
    is_ldm_vae,
    transformer_to_bfl,
    transformer_to_diffusers,
    vae_to_diffusers,
    vae_to_ldm,
)
from ..op4ksr_core.weights.loading import FLUX_VAE, strided_by, transformer_config, vae_config
from . import versions
from .memory import vae_bytes


class PositionEmbedding(nn.Module):
    """ComfyUI's FLUX position embedder with the core's RoPE: ids (B, N, 3) -> (B, 1, N, D/2, 2, 2), float32."""

    def __init__(self, settings: RopeSettings, axes_dim: list[int]):
        super().__init__()
        self.rotary = RotaryEmbedding(settings, axes_dim)

    def forward(self, ids: Tensor) -> Tensor:
        cos, sin = (part[:, ::2] for part in self.rotary(ids[0]))
        matrices = torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))
        return matrices[None, None].expand(ids.shape[0], -1, -1, -1, -1, -1)


def rope_of(model: ModelPatcher) -> tuple[RopeSettings, list[int]]:
    """How this MODEL places its tokens, and the channels of each axis. Raises SettingError if it is not a FLUX one."""
    try:
        embedder = model.get_model_object("diffusion_model.pe_embedder")
        if isinstance(embedder, PositionEmbedding):
            return embedder.rotary.settings, list(embedder.rotary.axes_dim)
        return RopeSettings(float(embedder.theta)), list(embedder.axes_dim)
    except AttributeError as error:
        raise SettingError(f"RoPE theta works on FLUX models; this MODEL is {type(model.model).__name__}.") from error


def with_rope(model: ModelPatcher, settings: RopeSettings) -> ModelPatcher:
    """A clone whose tokens are placed by `settings`. Raises SettingError if the MODEL is not a FLUX transformer."""
    _, axes = rope_of(model)
    patched = model.clone()
    patched.add_object_patch("diffusion_model.pe_embedder", PositionEmbedding(settings, axes))
    return patched


def is_unet(model: ModelPatcher) -> bool:
    """Whether the MODEL is a diffusion UNet that predicts noise or v, which takes its step at a timestep of 1000."""
    sampling, config = model.get_model_object("model_sampling"), model.model.model_config.unet_config
    return isinstance(sampling, comfy.model_sampling.EPS) and hasattr(sampling, "sigmas") and "channel_mult" in config


def check_flow(model: ModelPatcher) -> None:
    """Raises SettingError unless the MODEL predicts a flow's velocity."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.CONST):
        raise SettingError(
            f"The mid-timestep step needs a flow model (FLUX); this MODEL is {type(model.model).__name__} "
            f"with {type(sampling).__name__}."
        )


def check_vae(vae: VAE, latent_factor: int | None = None) -> None:
    """Raises SettingError unless this is an autoencoder of FLUX's kind, compressing `latent_factor` times if given."""
    vae.throw_exception_if_invalid()
    stage = vae.first_stage_model
    if not (hasattr(stage, "encoder") and hasattr(stage.encoder, "down") and isinstance(vae.downscale_ratio, int)):
        raise SettingError(f"This node needs a FLUX VAE; this one is {type(stage).__name__}.")
    if latent_factor is not None and vae.downscale_ratio != latent_factor:
        remedy = {
            16: "For UltraFlux and OP4KSR put the F16 VAE node before it; for OMGSR choose its preset, "
            "or vae_factor 8.",
            8: "Choose another preset than omgsr, osediff and f2idiff, or vae_factor 16.",
        }.get(
            latent_factor,
            "TVT wants its own VAE-D4, from Load diffusers folder; or choose another preset or vae_factor.",
        )
        raise SettingError(f"This VAE compresses {vae.downscale_ratio} times; {latent_factor} is wanted. {remedy}")


def check_latent(model: ModelPatcher, samples: Tensor) -> None:
    """Raises ImageError where the latent has not the MODEL's channels."""
    wanted = model.model.latent_format.latent_channels
    if samples.ndim != 4 or samples.shape[1] != wanted or 0 in samples.shape:
        raise ImageError(
            f"The LATENT is {list(samples.shape)}; this MODEL wants (batch, {wanted}, height, width), none of them 0. "
            "Encode with the VAE that belongs to the MODEL."
        )


def check_conditioning(model: ModelPatcher, conditioning: list) -> None:
    """Raises SettingError where a text embedding has not the width that the MODEL reads."""
    config = model.model.model_config.unet_config
    for sequence, extra in conditioning:
        pooled = extra.get("pooled_output")
        found = (sequence.shape[-1], None if pooled is None else pooled.shape[-1])
        width = config.get("context_in_dim") or config.get("context_dim") or found[0]
        wanted = (width, config.get("vec_in_dim", found[1]))
        if found != wanted:
            raise SettingError(
                f"The CONDITIONING has widths {found[0]} and {found[1]} (sequence, pooled); this MODEL reads "
                f"{wanted[0]} and {wanted[1]}. Use the text encoders, or the fixed prompt, that belong to the MODEL."
            )


def transformer_blocks(model: ModelPatcher) -> list[nn.Module]:
    """The blocks of the MODEL's transformer, whatever its kind: what progress counts and cancelling waits for."""
    children = model.get_model_object("diffusion_model").children()
    return [block for child in children if isinstance(child, nn.ModuleList) for block in child]


def to_f16(vae: VAE, head: str) -> VAE:
    """A copy of a FLUX-shaped VAE at 16x: strided conv_in, sub-pixel head, ratios and memory estimates to match.

    Patches (adapters) go along.
    """
    check_vae(vae)
    if vae.downscale_ratio != 8:
        raise SettingError(f"This VAE compresses {vae.downscale_ratio} times already; F16 is made from an F8 VAE.")
    stage = versions.own_copy(vae.patcher)
    stage.encoder.conv_in.stride = (2, 2)
    stage.decoder.conv_out = sub_pixel_head(stage.decoder.conv_out, head)
    out = copy.copy(vae)
    out.first_stage_model = stage
    out.patcher = versions.new_patcher(stage, vae.patcher)
    out.patcher.patches = {key: list(patches) for key, patches in vae.patcher.patches.items()}
    out.patcher.patches_uuid = vae.patcher.patches_uuid
    out.downscale_ratio = out.upscale_ratio = 2 * vae.downscale_ratio
    _tell_memory(out, out.downscale_ratio)
    return out


def _tell_memory(vae: VAE, latent_factor: int) -> None:
    """ComfyUI's estimates count an attention in slices and twice the copies; ours are what one whole pass holds."""
    stage = vae.first_stage_model
    vae.memory_used_encode = lambda s, dtype: s[0] * vae_bytes(stage, s[2] * s[3], dtype, latent_factor, False)
    vae.memory_used_decode = lambda s, dtype: (
        s[0] * vae_bytes(stage, s[2] * s[3] * latent_factor**2, dtype, latent_factor, True)
    )


def load_embedded() -> tuple[ModelPatcher, list, VAE]:
    """The bundled model as a native FLUX MODEL (theta 100), its learned CONDITIONING and a native F16 VAE."""
    prompt = find_weights(EMBEDDED / "prompt.safetensors").tensors()
    conditioning = [[prompt["prompt_embeds"], {"pooled_output": prompt["pooled_prompt_embeds"], "guidance": 1.0}]]
    model, vae = load_folder(EMBEDDED)
    return with_rope(model, RopeSettings(theta=100.0)), conditioning, vae


def load_folder(folder: Path, given_vae: VAE | None = None) -> tuple[ModelPatcher, VAE]:
    """A diffusers folder (`transformer`, sharded or not, and `vae`) as native MODEL and VAE.

    A folder without `vae`, or one that is a transformer itself, goes with the VAE that is given; a VAE that is given
    goes before the folder's. The folder's VAE is F16 where its config.json has stride 2. Weights of FLUX's own width
    go through ComfyUI's loader, so that its dtypes and offloading apply. Raises WeightsError.
    """
    files = find_weights(folder / "vae") if (folder / "vae").is_dir() else None
    if files is None and given_vae is None:
        raise WeightsError(
            f"{folder} has no vae. Connect one: for UltraFlux-v1.1 that of UltraFlux-v1, loaded from its folder."
        )
    if files is not None and files.config is None:
        raise WeightsError(f"{folder / 'vae'} has no config.json, which says how the VAE scales and compresses.")
    state = find_weights(folder / "transformer" if (folder / "transformer").is_dir() else folder).tensors()
    if is_bfl_transformer(set(state)):
        state = transformer_to_diffusers(state)
    config = transformer_config({key: tuple(value.shape) for key, value in state.items()})
    bfl = transformer_to_bfl(state)
    vae_settings = files.config or {} if files is not None else {}
    numbers = FLUX_VAE | {key: vae_settings[key] for key in FLUX_VAE if vae_settings.get(key) is not None}
    if config["num_attention_heads"] * config["attention_head_dim"] == 3072:
        model = comfy.sd.load_diffusion_model_state_dict(bfl)
        if model is None:
            raise WeightsError(f"ComfyUI does not know the transformer in {folder}.")
    else:
        model = _small_flux(bfl, config, numbers)
    if given_vae is not None or files is None:
        return model, given_vae
    vae = autoencoder(files.tensors(), numbers)
    return model, to_f16(vae, "centered") if strided_by(vae_settings) else vae


def _small_flux(state: dict[str, Tensor], config: dict, numbers: dict) -> ModelPatcher:
    """A FLUX transformer of any width, in float32; ComfyUI's detection knows FLUX's width alone."""
    settings = versions.flux_config(
        state,
        {
            "in_channels": config["in_channels"] // 4,
            "out_channels": config["in_channels"] // 4,
            "vec_in_dim": config["pooled_projection_dim"],
            "context_in_dim": config["joint_attention_dim"],
            "hidden_size": config["num_attention_heads"] * config["attention_head_dim"],
            "num_heads": config["num_attention_heads"],
            "depth": config["num_layers"],
            "depth_single_blocks": config["num_single_layers"],
            "axes_dim": list(config["axes_dims_rope"]),
            "guidance_embed": config["guidance_embeds"],
        },
    )
    settings.latent_format = _latent_format(numbers, config["in_channels"] // 4)
    settings.set_inference_dtype(torch.float32, None)
    model = settings.get_model(dict(state), "", device=comfy.model_management.unet_offload_device())
    patcher = versions.new_patcher(model)
    own = settings.process_unet_state_dict({key: value.float() for key, value in state.items()})
    versions.load_weights(model.diffusion_model, own, "The transformer", versions.is_dynamic(patcher))
    return patcher


def _latent_format(numbers: dict, channels: int) -> comfy.latent_formats.LatentFormat:
    """FLUX's, with this VAE's scale, shift and channels; a preview's colours exist for FLUX's own channels alone."""
    form = comfy.latent_formats.Flux()
    form.scale_factor, form.shift_factor = numbers["scaling_factor"], numbers["shift_factor"]
    if channels != form.latent_channels:
        form.latent_channels = channels
        form.latent_rgb_factors = form.latent_rgb_factors_bias = form.taesd_decoder_name = None
    return form


def autoencoder(weights: dict[str, Tensor], numbers: dict) -> VAE:
    """ComfyUI's own FLUX VAE, or the same made to a smaller model's measure."""
    if is_ldm_vae(set(weights)):
        weights = vae_to_diffusers(weights)
    config = vae_config({key: tuple(value.shape) for key, value in weights.items()}, numbers)
    state = vae_to_ldm(weights)
    if config["block_out_channels"] == [128, 256, 512, 512]:
        return VAE(sd=state)
    return _small_autoencoder({key: value.float() for key, value in state.items()}, config)


def _small_autoencoder(state: dict[str, Tensor], config: dict) -> VAE:
    """Other widths, fewer groups, perhaps no mid attention: ComfyUI's classes, then adjusted."""
    widths, latent = config["block_out_channels"], config["latent_channels"]
    shape = {
        "double_z": True,
        "z_channels": latent,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [w // widths[0] for w in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    for name, width in (("quant_conv", 2 * latent), ("post_quant_conv", latent)):
        if f"{name}.weight" not in state:
            state |= {f"{name}.weight": torch.eye(width)[:, :, None, None], f"{name}.bias": torch.zeros(width)}
    bare = not any(".mid." in key for key in state)
    if bare:
        state |= _zero_blocks(widths[-1])
    if not config["mid_block_add_attention"]:
        state |= _zero_attention(widths[-1])
    with versions.group_norms(config["norm_num_groups"]):
        vae = VAE(sd=dict(state), config={"params": {"ddconfig": shape, "embed_dim": latent}}, dtype=torch.float32)
    stage = vae.first_stage_model
    versions.load_weights(stage, state, "The VAE", versions.is_dynamic(vae.patcher))  # ComfyUI's loader only logs
    for half in (stage.encoder, stage.decoder):
        if not config["mid_block_add_attention"]:
            half.mid.attn_1 = nn.Identity()
        if bare:
            half.mid.block_1 = half.mid.block_2 = half.mid.attn_1 = NoMiddle()
    vae.latent_channels = latent
    vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(widths) - 1)
    _tell_memory(vae, vae.downscale_ratio)
    return vae


def _zero_blocks(width: int) -> dict[str, Tensor]:
    """The same of a middle block."""
    state = {}
    for side in ("encoder", "decoder"):
        for block in ("block_1", "block_2"):
            for layer in ("norm1", "conv1", "norm2", "conv2"):
                kernel = (width,) if layer.startswith("norm") else (width, width, 3, 3)
                state[f"{side}.mid.{block}.{layer}.weight"] = torch.zeros(kernel)
                state[f"{side}.mid.{block}.{layer}.bias"] = torch.zeros(width)
    return state


def _zero_attention(width: int) -> dict[str, Tensor]:
    """What the loader wants of an attention that the model lacks and that is taken out afterwards."""
    state = {}
    for side in ("encoder", "decoder"):
        for layer in ("norm", "q", "k", "v", "proj_out"):
            kernel = (width,) if layer == "norm" else (width, width, 1, 1)
            state[f"{side}.mid.attn_1.{layer}.weight"] = torch.zeros(kernel)
            state[f"{side}.mid.attn_1.{layer}.bias"] = torch.zeros(width)
    return state

"""Files of diffusers' layout as ComfyUI's own MODEL and VAE, also of widths that its detection does not know."""

from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor, nn

from ..op4ksr_core.errors import WeightsError
from ..op4ksr_core.model.vae import NoMiddle
from ..op4ksr_core.paths import EMBEDDED
from ..op4ksr_core.settings import RopeSettings
from ..op4ksr_core.weights.configs import FLUX_VAE, head_by, strided_by, transformer_config, vae_config
from ..op4ksr_core.weights.files import find_weights
from ..op4ksr_core.weights.key_layouts import (
    is_bfl_transformer,
    is_ldm_vae,
    transformer_to_bfl,
    transformer_to_diffusers,
    vae_to_diffusers,
    vae_to_ldm,
)
from ..op4ksr_core.weights.trained_for import TrainedFor, read_trained_for
from . import versions
from .checks import TRAINED_FOR
from .f16 import tell_memory, to_f16
from .rope_patch import with_rope


def load_embedded() -> tuple[ModelPatcher, list, VAE]:
    """The bundled model as a native FLUX MODEL (theta 100), its learned CONDITIONING and a native F16 VAE."""
    prompt = find_weights(EMBEDDED / "prompt.safetensors").tensors()
    conditioning = [[prompt["prompt_embeds"], {"pooled_output": prompt["pooled_prompt_embeds"], "guidance": 1.0}]]
    model, vae = load_folder(EMBEDDED)
    said = TrainedFor(preset="embedded", sigma=0.3, rope=RopeSettings(theta=100.0))
    model.set_attachments(TRAINED_FOR, said)
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
    vae_settings = files.config or {} if files is not None else {}
    numbers = FLUX_VAE | {key: vae_settings[key] for key in FLUX_VAE if vae_settings.get(key) is not None}
    model = _load_transformer(folder, numbers)
    versions.remember_loader(model, _load_transformer, folder, numbers)
    attach_trained_for(model, folder)
    if given_vae is not None or files is None:
        return model, given_vae
    config = files.config or {}
    vae = _load_vae(folder, numbers, head_by(config) if strided_by(config) else "")
    head = vae.first_stage_model.decoder.conv_out.mode if strided_by(config) else ""
    versions.remember_loader(vae.patcher, _load_vae_patcher, folder, numbers, head)
    return model, vae


def attach_trained_for(model: ModelPatcher, path: Path) -> None:
    """Lets the MODEL carry what an adapter, or a folder with merged adapters, says of its training."""
    said = read_trained_for(path)
    if said is not None:
        model.set_attachments(TRAINED_FOR, said)


def _load_transformer(folder: Path, numbers: dict, disable_dynamic: bool = False) -> ModelPatcher:
    """The folder's transformer, for a VAE of these numbers."""
    state = find_weights(folder / "transformer" if (folder / "transformer").is_dir() else folder).tensors()
    if is_bfl_transformer(set(state)):
        state = transformer_to_diffusers(state)
    config = transformer_config({key: tuple(value.shape) for key, value in state.items()}, folder)
    bfl = transformer_to_bfl(state)
    if config["num_attention_heads"] * config["attention_head_dim"] != 3072:
        return _small_flux(bfl, config, numbers, disable_dynamic)
    model = versions.load_native(bfl, disable_dynamic)
    if model is None:
        raise WeightsError(f"ComfyUI does not know the transformer in {folder}.")
    return model


def _load_vae(folder: Path, numbers: dict, head: str) -> VAE:
    """The folder's VAE, at 16x where a head is named."""
    vae = autoencoder(folder / "vae", numbers)
    return to_f16(vae, head) if head else vae


def _load_vae_patcher(folder: Path, numbers: dict, head: str, disable_dynamic: bool = False) -> ModelPatcher:
    """`disable_dynamic` is not heeded, as in ComfyUI's own loader: only the module is used of what is returned."""
    return _load_vae(folder, numbers, head).patcher


def _small_flux(state: dict[str, Tensor], config: dict, numbers: dict, disable_dynamic: bool) -> ModelPatcher:
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
    patcher = versions.new_patcher(model, plain=disable_dynamic)
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


def autoencoder(path: Path, numbers: dict) -> VAE:
    """ComfyUI's own FLUX VAE, or the same made to a smaller model's measure."""
    weights = find_weights(path).tensors()
    if is_ldm_vae(set(weights)):
        weights = vae_to_diffusers(weights)
    config = vae_config({key: tuple(value.shape) for key, value in weights.items()}, numbers, path)
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
    tell_memory(vae, vae.downscale_ratio)
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

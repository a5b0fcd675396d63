"""What differs between ComfyUI's versions. Everything is asked of the ComfyUI at hand; no other module looks at it.

Tried on the versions in `TESTED`. Each function says which version brought what it bridges.
"""

import copy
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import MISSING, fields
from typing import Any

import comfy.ldm.modules.diffusionmodules.model as autoencoder_blocks
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from comfy.ldm.flux.model import FluxParams
from comfy.model_patcher import ModelPatcher
from comfy_execution.utils import get_executing_context
from torch import Tensor, nn

from ..op4ksr_core.errors import ComfyVersionError, WeightsError
from ..op4ksr_core.model.layer_weights import Weights
from ..op4ksr_core.weights.files import listing

OLDEST = "0.3.60"
TESTED = ("0.3.64", "0.33.0")


def version() -> str:
    """ComfyUI's version, like 0.33.0; "unknown" where it does not say."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return "unknown"
    return __version__


def check_version() -> None:
    """Raises ComfyVersionError where ComfyUI is older than OLDEST."""
    found = _numbers(version())
    if found and found < _numbers(OLDEST):
        raise ComfyVersionError(f"OP4KSR needs ComfyUI {OLDEST} or later; this is {version()}. Update ComfyUI.")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def changed(what: str) -> ComfyVersionError:
    """The error for internals that are not as they were in the tested versions."""
    return ComfyVersionError(
        f"{what} OP4KSR was tested with ComfyUI {TESTED[0]} to {TESTED[-1]}; this is {version()}. "
        "Update OP4KSR, or use a tested ComfyUI."
    )


def flux_config(state: dict[str, Tensor], known: dict[str, Any]) -> Any:
    """ComfyUI's own model config for FLUX weights in BFL's layout; `known` goes before what its detection assumes.

    Detection assumes FLUX.1's widths: all of them in 0.3.64, the output channels still in 0.33.0. Settings that came
    after 0.3.64 (`txt_ids_dims` is required in 0.33.0) are filled in by detection, or keep the default of ComfyUI's own
    dataclass. Raises ComfyVersionError by the name of the setting that does not fit.
    """
    found = comfy.model_detection.detect_unet_config(state, "")
    if not found or found.get("image_model") != "flux":
        raise changed("ComfyUI does not recognise these weights as a FLUX transformer.")
    config = found | known
    parameters = {field.name: field for field in fields(FluxParams)}
    strange = sorted(known.keys() - parameters.keys())
    if strange:
        raise changed(f"ComfyUI's FLUX has no setting {listing(strange)}.")
    wanted = [name for name, field in parameters.items() if field.default is MISSING and name not in config]
    if wanted:
        raise changed(f"ComfyUI's FLUX wants a setting {listing(wanted)}, which its own detection does not give.")
    settings = comfy.model_detection.model_config_from_unet_config(config, state)
    if settings is None:
        raise changed("ComfyUI has no model for this FLUX configuration.")
    return settings


def load_weights(module: nn.Module, state: dict[str, Tensor], what: str, assign: bool = False) -> None:
    """Loads every weight. One that ComfyUI names otherwise takes the place that has its parent and shape.

    (The norms' `scale` of 0.3.64 is `weight` in 0.33.0.) Raises WeightsError on a wrong shape, ComfyVersionError where
    a weight has no place or a place no weight.
    """
    missing, strange = _load(module, state, what, assign)
    renames = _renames(module, state, missing, strange)
    if renames:
        missing, strange = _load(module, {renames.get(key, key): value for key, value in state.items()}, what, assign)
    if missing or strange:
        raise changed(
            f"{what} has weights that ComfyUI's model has no place for ({listing(sorted(strange)) or 'none'}) and "
            f"lacks what it wants ({listing(sorted(missing)) or 'none'})."
        )


def _load(module: nn.Module, state: dict[str, Tensor], what: str, assign: bool) -> tuple[list[str], list[str]]:
    try:
        missing, strange = module.load_state_dict(state, strict=False, **({"assign": True} if assign else {}))
    except RuntimeError as error:
        raise WeightsError(f"{what} does not fit: {' '.join(str(error).split())}") from error
    return list(missing), list(strange)


def _renames(module: nn.Module, state: dict[str, Tensor], missing: list[str], strange: list[str]) -> dict[str, str]:
    """Keys of the state -> the missing key beside it, where parent and shape leave no choice."""
    renames = {}
    for key in missing:
        parent = key.rpartition(".")[0]
        beside = [name for name in strange if name.rpartition(".")[0] == parent]
        places = [name for name in missing if name.rpartition(".")[0] == parent]
        if len(beside) == len(places) == 1:
            place = comfy.utils.get_attr(module, key)
            if place is None or place.shape == state[beside[0]].shape:
                renames[beside[0]] = key
    return renames


def new_patcher(module: nn.Module, like: ModelPatcher | None = None, plain: bool = False) -> ModelPatcher:
    """A patcher of the kind that ComfyUI gives its own models: since 0.16 one that streams weights, on CUDA.

    `plain` makes one that does not stream.
    """
    kind = ModelPatcher if plain else getattr(comfy.model_patcher, "CoreModelPatcher", ModelPatcher)
    if like is not None:
        return kind(module, load_device=like.load_device, offload_device=like.offload_device)
    load, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return kind(module, load_device=load, offload_device=offload)


def is_dynamic(patcher: ModelPatcher) -> bool:
    """Whether the patcher streams weights (0.16); such a one wants them assigned, not copied."""
    return bool(getattr(patcher, "is_dynamic", lambda: False)())


Loader = Callable[..., ModelPatcher]
"""Loads weights anew from its arguments; `disable_dynamic=True` asks for a patcher that does not stream."""


def remember_loader(patcher: ModelPatcher, load: Loader, *arguments: Any) -> None:
    """Tells ComfyUI how to load these weights anew: for hooks under streaming and for another device (0.33.0)."""
    if hasattr(patcher, "cached_patcher_init"):
        patcher.cached_patcher_init = (load, arguments)


def loader_of(patcher: ModelPatcher) -> tuple | None:
    """What `remember_loader` or ComfyUI's own loaders keep: a loader, its arguments, perhaps an index of its result."""
    return getattr(patcher, "cached_patcher_init", None)


def load_again(loader: tuple, **options: bool) -> ModelPatcher:
    """A patcher with weights of its own, from what `loader_of` gives."""
    load, arguments, *index = loader
    found = load(*arguments, **options)
    return found[index[0]] if index else found


def load_native(state: dict[str, Tensor], disable_dynamic: bool = False) -> ModelPatcher | None:
    """ComfyUI's own loader of a transformer; only versions that stream weights know `disable_dynamic`."""
    options = {"disable_dynamic": True} if disable_dynamic else {}
    return comfy.sd.load_diffusion_model_state_dict(state, **options)


_STREAMING = ("_v", "_prefetch", "_pins", "_pin_state", "_comfy_graph", "_comfy_cross_step_state")


def _is_bookkeeping(name: str) -> bool:
    """Attributes that the dynamic patchers of 0.16 and later keep on a model and on its layers.

    Those that begin with `_v` (0.33.0) hold views of memory that unloading frees: reading one kills the process.
    """
    return name in _STREAMING or name.startswith(("_v_", "dynamic_")) or name.endswith("_lowvram_function")


def own_copy(patcher: ModelPatcher) -> Any:
    """A deep copy of the patcher's module, its weights as they are without patches, without a patcher's bookkeeping."""
    for loaded in list(comfy.model_management.current_loaded_models):
        if loaded.model is not None and (loaded.model is patcher or loaded.model.is_clone(patcher)):
            loaded.model_unload()
            comfy.model_management.current_loaded_models.remove(loaded)
    kept = [value for part in patcher.model.modules() for name, value in vars(part).items() if _is_bookkeeping(name)]
    copied = copy.deepcopy(patcher.model, {id(value): None for value in kept})
    for part in copied.modules():
        for name in [name for name in vars(part) if _is_bookkeeping(name)]:
            del vars(part)[name]
    return copied


def shape_of(model: nn.Module, key: str) -> tuple[int, ...]:
    """A weight's logical shape. A state dict would give the packed shape of a quantised one (GGUF, core's layouts)."""
    return tuple(comfy.utils.get_attr(model, key).shape)


@contextmanager
def cast_weights(layer: Any, x: Tensor) -> Iterator[Weights]:
    """The core's `Caster`: weight and bias with ComfyUI's patches, on the device and in the dtype of `x`.

    In 0.33.0 a cast may borrow a buffer, which must be given back; 0.3.64 knows no such thing.
    """
    if not hasattr(layer, "comfy_cast_weights"):
        yield layer.weight.to(x), None if layer.bias is None else layer.bias.to(x)
        return
    give_back = getattr(comfy.ops, "uncast_bias_weight", None)
    if give_back is None:
        yield comfy.ops.cast_bias_weight(layer, x)
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    try:
        yield weight, bias
    finally:
        give_back(layer, weight, bias, stream)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception says that the device's memory ran out.

    0.33.0 recognises more of them by `is_oom`, but not "Fault failed", which streaming weights raise then
    (ComfyUI#15269).
    """
    if error is None or isinstance(error, comfy.model_management.InterruptProcessingException):
        return False
    known: Any = (torch.OutOfMemoryError, *_oom_of_comfyui())
    if isinstance(error, known) or (isinstance(error, RuntimeError) and str(error).startswith("Fault failed")):
        return True
    return bool(getattr(comfy.model_management, "is_oom", lambda _: False)(error))


def _oom_of_comfyui() -> tuple[type[BaseException], ...]:
    """ComfyUI's own class; plain `Exception` on builds of torch without one, which says nothing."""
    kind = comfy.model_management.OOM_EXCEPTION
    return () if kind is Exception else (kind,)


def on_device(device: torch.device) -> AbstractContextManager[None]:
    """Makes `device` the current one, so that ComfyUI's own kernels run there and not on the first card (0.33.0)."""
    context = getattr(comfy.model_management, "cuda_device_context", None)
    return nullcontext() if context is None else context(device)


@contextmanager
def group_norms(groups: int) -> Iterator[None]:
    """Inside, ComfyUI makes autoencoders whose group norms have that many groups: its own 32 do not divide 24 channels.

    Raises ComfyVersionError where its norms are made in another way than in the tested versions.
    """
    maker: Any = getattr(autoencoder_blocks, "Normalize", None)
    if getattr(maker, "__defaults__", None) != (32,):
        raise changed("ComfyUI's autoencoders make their norms in another way.")
    maker.__defaults__ = (groups,)  # the blocks hold the function itself as their default
    try:
        yield
    finally:
        maker.__defaults__ = (32,)


def tell_node(text: str) -> None:
    """Shows a line under the node that runs now; does nothing outside a run."""
    context, server = get_executing_context(), sys.modules.get("server")
    if context is not None and server is not None:
        server.PromptServer.instance.send_progress_text(text, context.node_id)

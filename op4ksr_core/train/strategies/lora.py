"""LoRA in a network that stands: adding it, switching it, reading it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ...weights.adapters import Adapter
from ..settings import TrainSettings
from ..sharding import whole

SINGLE = "adapters.safetensors"
"""The file of a checkpoint that ComfyUI's loaders read."""

REGULARISER = "regulariser"
"""The second LoRA of a network, which VSD lets learn what the first one makes."""


def add_lora(network: Any, targets: Sequence[str], settings: TrainSettings, name: str = "default") -> dict:
    """Adds a LoRA in place and returns PEFT's settings as plain values. The first one stays the active one."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=list(targets), init_lora_weights="gaussian"
    )
    inject_adapter_in_model(config, network, adapter_name=name)
    for key, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in key)
        if "lora_" in key:
            parameter.data = parameter.data.float()
    for layer in (layer for layer in network.modules() if isinstance(layer, LoraLayer)):
        layer._active_adapter = ["default"]
    return plain_config(config)


def plain_config(config: Any) -> dict:
    """A LoraConfig as JSON can hold it: sets sorted, enumerations by value."""
    values = {}
    for key, value in config.to_dict().items():
        value = sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        if value is None or isinstance(value, (str, int, float, bool, list, dict)):
            values[key] = value
    return values


@contextmanager
def active_lora(network: nn.Module, name: str | None) -> Iterator[None]:
    """Runs a network with another of its LoRAs, or with none; afterwards as before."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in network.modules() if isinstance(layer, LoraLayer)]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:  # not by set_adapter, which also changes what requires a gradient
        layer._active_adapter = [name] if name else []
        layer._disable_adapters = name is None
    try:
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter = active
            layer._disable_adapters = disabled


def read_lora(network: nn.Module, config: dict) -> Adapter:
    """The first LoRA of a network, whole. Sharded: to be called in all processes at once."""
    from peft import get_peft_model_state_dict

    state = {key: whole(value) for key, value in get_peft_model_state_dict(network).items()}
    return Adapter("this training", config, state)


def trainable_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """What requires a gradient, by name, but for the regulariser."""
    return {n: p for n, p in module.named_parameters() if p.requires_grad and f".{REGULARISER}." not in n}


def regulariser_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The regulariser's weights by name; empty without VSD."""
    return {name: p for name, p in module.named_parameters() if f".{REGULARISER}." in name}

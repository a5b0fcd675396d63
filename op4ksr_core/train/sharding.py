"""A transformer shared out over processes (torch's FSDP2): each holds a part of every weight, and borrows the rest
of a block while it runs. The VAE is small and stays whole in each; what is whole is averaged here, as DDP would.

With tensors that are not sharded every function here does the plain thing, so that one training loop serves both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import SettingError


def shard(transformer: Any, device: torch.device) -> None:
    """Shards a FLUX transformer in place, block by block, over all processes; its parts come to lie on `device`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for part in (*transformer.transformer_blocks, *transformer.single_transformer_blocks, transformer):
        fully_shard(part, mesh=mesh)


def whole(value: Tensor) -> Tensor:
    """The whole tensor, detached, on the CPU. Of a sharded one: to be called in all processes at once."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu().clone()


def fill(parameter: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into a parameter, of which this process may hold only a part."""
    with torch.no_grad():
        parameter.copy_(like(parameter, value))


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor shared out as the parameter is."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value


def by_kind(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Sharded ones apart from whole ones, empty groups left out: torch's fused updates do not mix them."""
    groups = [[p for p in parameters if isinstance(p, DTensor) is sharded] for sharded in (False, True)]
    return [group for group in groups if group]


def average_gradients(parameters: Sequence[nn.Parameter], average: Callable[[Tensor], Tensor]) -> None:
    """Averages gradients of whole parameters over the processes; those of sharded ones are already averaged."""
    for parameter in parameters:
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
            parameter.grad = average(parameter.grad)


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Scales gradients so that their common norm is `most` or less; returns the norm they had."""
    groups = by_kind([p for p in parameters if p.grad is not None])
    norms = [whole(nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])) for group in groups]
    total = torch.stack(norms).square().sum().sqrt() if norms else torch.zeros(())
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, most, total.to(group[0].device))
    return float(total)


def optimizer_state(optimizer: Any, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    """An optimizer's numbers and moments by parameter name; sharded ones are the part that is here.

    A moment of 8 bits is its `.codes` and `.scale`.
    """
    found = {}
    for name, parameter in parameters.items():
        if parameter in optimizer.state:
            held = optimizer.state[parameter]
            found[name] = {key: part for one in held for key, part in _parts(one, held[one]).items()}
    return found


def _parts(name: str, value: Any) -> dict[str, Tensor]:
    """A number or moment as plain tensors, by name."""
    if hasattr(value, "codes"):
        return {f"{name}.codes": value.codes, f"{name}.scale": value.scale}
    return {name: torch.as_tensor(value)}


def fill_optimizer(
    optimizer: Any, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """What `optimizer_state` gave, put back from whole tensors. Raises SettingError where it names other parameters."""
    odd = sorted(state.keys() - parameters.keys())
    if odd:
        raise SettingError(f"The checkpoint's optimizer is of another model: {', '.join(odd[:3])} ({len(odd)} differ).")
    for name, values in state.items():
        optimizer.state[parameters[name]] = _moments(optimizer, parameters[name], values)


def _moments(optimizer: Any, parameter: nn.Parameter, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One parameter's moments as the optimizer keeps them."""
    held: dict[str, Any] = {}
    for key, value in values.items():
        name, _, part = key.partition(".")
        if part and name not in held:
            # torchao makes its 8-bit tensors by this method alone.
            held[name] = optimizer._new_buffer(parameter.detach(), signed=name == "exp_avg")
        if part:
            getattr(held[name], part).copy_(value)
        else:
            held[name] = like(parameter, value) if value.shape == parameter.shape else value.clone()
    return held

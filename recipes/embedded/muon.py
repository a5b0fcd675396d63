"""Muon (Jordan et al. 2024) for convolutions and linear layers: the momentum of each, as a matrix, made orthogonal.

On the VAE it reaches in 200 steps what AdamW does in 340; a step costs a sixth to a half more on two cores, by batch
size.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from op4ksr_core.model.precision import half_is_fast

RATE = 20.0
"""Muon's learning rate in multiples of AdamW's."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by five Newton-Schulz steps, in bfloat16 where the device has it.

    Weights of one shape are made orthogonal together: one by one, a GPU would wait for its next small product.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "factor": RATE})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[tuple(p.shape)].append(p)
                    if not self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
            for parameters in alike.values():
                gradients = [p.grad for p in parameters]
                averages = [self.state[p]["momentum"] for p in parameters]
                torch._foreach_mul_(averages, group["momentum"])
                torch._foreach_add_(averages, gradients)
                ahead = torch._foreach_add(gradients, averages, alpha=group["momentum"])
                updates = orthogonal(torch.stack([x.flatten(1) for x in ahead]))
                rows, columns = updates.shape[1:]
                scale = group["lr"] * group["factor"] * max(1.0, rows / columns) ** 0.5
                torch._foreach_sub_(parameters, list((updates * scale).view(-1, *parameters[0].shape)))


def orthogonal(x: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, roughly: (..., rows, columns), float32."""
    wide = x.mT if x.shape[-2] > x.shape[-1] else x
    y = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-9)
    y = y.to(torch.bfloat16 if half_is_fast(x.device) else torch.float32)
    for _ in range(5):
        square = y @ y.mT
        y = 3.4445 * y + (-4.7750 * square + 2.0315 * square @ square) @ y
    return (y.mT if x.shape[-2] > x.shape[-1] else y).float()

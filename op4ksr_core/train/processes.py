"""What several training processes agree on; with one process every function here does the plain thing."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..errors import Op4ksrError, SettingError
from ..model.precision import half_is_fast
from .settings import TrainSettings

T = TypeVar("T")


def launched() -> int:
    """Processes that were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def micro_batches(settings: TrainSettings, processes: int) -> int:
    """Micro-batches per optimizer step. Raises SettingError where the batch cannot be shared out evenly."""
    at_once = settings.per_device * processes
    if settings.batch % at_once:
        raise SettingError(
            f"A batch of {settings.batch} cannot be shared evenly over {processes} processes with "
            f"{settings.per_device} pictures at once. Choose --batch as a multiple of --per-device times the processes."
        )
    return settings.batch // at_once


def make_accelerator(settings: TrainSettings, cpu: bool, sharded: bool) -> Any:
    """accelerate's, for one process, for many on CPUs or for many on GPUs. Raises SettingError for other kinds."""
    from accelerate import Accelerator, DistributedType

    processes = launched()
    # Without a GPU accelerate joins several processes only where it is asked for CPUs.
    on_cpus = cpu or (processes > 1 and not torch.cuda.is_available())
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        gradient_accumulation_steps=micro_batches(settings, processes),
        cpu=on_cpus,
    )
    if accelerator.num_processes != processes:
        raise SettingError(
            f"{processes} processes were launched and this one knows of {accelerator.num_processes}: they would train "
            "apart. Launch with torchrun, with a GPU for each process or none."
        )
    kind = accelerator.distributed_type
    if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise SettingError(f"{kind} is not supported: launch with plain multi-GPU settings, and --shard for FSDP.")
    for name, other in (("precision", "fp16"), ("optimizer", "adamw8bit")):
        if sharded and getattr(settings, name) == other:
            raise SettingError(f"--shard does not go with --{name} {other}. Leave one of the two out.")
    if sharded and processes == 1:
        raise SettingError("--shard shares the transformer out over processes: launch with two or more.")
    return accelerator


def is_slower_in_half(settings: TrainSettings, accelerator: Any) -> bool:
    """Whether the settings ask for half precision where float32 is faster; no CPU computes in float16."""
    if accelerator.device.type == "cpu" and settings.precision == "fp16":
        return True
    return settings.precision == "bf16" and not half_is_fast(accelerator.device)


def as_the_first_says(accelerator: Any, here: bool) -> bool:
    """The first process's answer, in all of them."""
    if accelerator.num_processes == 1:
        return here
    from accelerate.utils import broadcast

    flag = torch.tensor([int(here)], device=accelerator.device)
    return bool(broadcast(flag).item())


def by_the_first(accelerator: Any, make: Callable[[], T]) -> T:
    """What the first process makes, in all of them; where it raises an error of ours, all raise it."""
    if accelerator.num_processes == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    box: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            box[0] = make()
        except Op4ksrError as error:
            box[1] = error
    broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return cast(T, box[0])


def mean_losses(accelerator: Any, logs: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Means over micro-batches and processes, by name."""
    mean = {name: torch.stack([one[name].cpu() for one in logs if name in one]).mean() for name in logs[-1]}
    if accelerator.num_processes > 1:
        values = torch.stack(list(mean.values())).to(accelerator.device)
        values = accelerator.reduce(values, "mean")
        mean = dict(zip(mean, values.cpu(), strict=True))
    return {name: float(value) for name, value in mean.items()}


def first_not_finite(accelerator: Any, losses: dict[str, Tensor]) -> tuple[str, float] | None:
    """(what is NaN or infinite, its value), the same in all processes; None where every loss is finite."""
    values = torch.stack([value.detach().float() for value in losses.values()])[None]
    if accelerator.num_processes > 1:
        values = accelerator.gather(values)
    bad = (~values.isfinite()).nonzero().tolist()
    if not bad:
        return None
    process, place = bad[0]
    where = f" in process {process}" if len(values) > 1 else ""
    return f"the {list(losses)[place]} loss{where}", float(values[process, place])

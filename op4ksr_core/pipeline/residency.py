"""Where a model is kept between uses: on the device, in host memory, or on disk."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Resident:
    """One model: kept on the device, offloaded to host memory, streamed from there, or read for each use."""

    def __init__(self, load: Callable[[], Any], device: torch.device, can_stream: bool = False):
        self._load, self._device, self._can_stream = load, device, can_stream
        self.module: Any = None
        self._streams = False

    @contextmanager
    def use(self, residency: str) -> Iterator[Any]:
        streams = residency == "stream" and self._can_stream
        if self._streams and not streams:
            self.module, self._streams = None, False  # the hooks that stream it cannot be removed: read it again
        module = self._loaded()
        if streams and not self._streams:
            _stream(module, self._device)
            self._streams = True
        elif not streams:
            module.to(self._device)
        try:
            yield module
        finally:
            if residency in ("offload", "stream") and not streams:
                module.to("cpu")
            if residency == "reload":
                self.module = None
                del module
                gc.collect()
            if residency != "resident" and self._device.type == "cuda":
                torch.cuda.empty_cache()

    def make_room(self, residency: str) -> None:
        """Leaves the device, or memory altogether, before a call that cannot afford both models."""
        if residency in ("offload", "stream") and self.module is not None and not self._streams:
            self.module.to("cpu")
        if residency == "reload":
            self.module, self._streams = None, False

    def _loaded(self) -> Any:
        if self.module is None:
            self.module = self._load()
        return self.module

    @property
    def held_bytes(self) -> int:
        """Weights on the device now."""
        if self.module is None:
            return 0
        held = (*self.module.parameters(), *self.module.buffers())
        return sum(p.numel() * p.element_size() for p in held if p.device.type == self._device.type)


def _stream(module: Any, device: torch.device) -> None:
    """Keeps a transformer's blocks in (pinned) host memory; each comes to the device while the one before runs."""
    from diffusers.hooks.group_offloading import apply_group_offloading

    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )

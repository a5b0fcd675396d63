"""What the GPU benchmarks share: a clock, results that survive a cut, and the method at full size with random
weights."""

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import full_size
from benchmarks.provenance import provenance
from op4ksr_core.errors import SettingError
from op4ksr_core.files import write_text
from op4ksr_core.geometry import Size, SizePlan
from op4ksr_core.model import flow
from op4ksr_core.model.attention import attention_kernel
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.model.transformer import make_lean_transformer
from op4ksr_core.model.vae import decode, encode, finish_vae
from op4ksr_core.model.vae_passes import WHOLE, passing
from op4ksr_core.picture.resample import channels_last
from op4ksr_core.pipeline.memory import Footprint, estimate
from op4ksr_core.settings import RopeSettings

SIGMA = 0.3
CUT = (SettingError, RuntimeError, ImportError)
"""What ends one row and not the benchmark: the row then says what happened. In PyTorch, a lack of memory or of a kernel
is a RuntimeError."""


class Clock:
    """Seconds and peak memory of calls on one device, medians over repeats."""

    def __init__(self, device: torch.device, repeats: int = 3):
        self.device, self.repeats, self.cuda = device, repeats, device.type == "cuda"

    def __call__(self, call: Callable[[], Any]) -> dict[str, float]:
        """The first call warms up and is not counted. GB are NaN on a CPU."""
        call()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        times = [self._once(call) for _ in range(self.repeats)]
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.cuda else math.nan
        return {"s": statistics.median(times), "peak_gb": peak}

    def _once(self, call: Callable[[], Any]) -> float:
        if not self.cuda:
            started = time.perf_counter()
            call()
            return time.perf_counter() - started
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000


class Results:
    """Rows by name, in a JSON file that is whole after each; a row that fails says why."""

    def __init__(self, path: Path | None, device: torch.device, dtype: torch.dtype):
        self.path = path
        self.rows: dict[str, Any] = {}
        self.about = provenance(device) | {"dtype": str(dtype)}
        print(json.dumps(self.about), flush=True)

    def add(self, name: str, row: Any) -> None:
        self.rows[name] = row
        print(name, json.dumps(_rounded(row)), flush=True)
        if self.path:
            write_text(self.path, json.dumps({"about": self.about, "rows": self.rows}, indent=2) + "\n")

    @contextmanager
    def row(self, name: str) -> Iterator[dict[str, Any]]:
        """Inside, a row is filled; where that fails for want of memory, a kernel or a package, the row says so."""
        row: dict[str, Any] = {}
        try:
            yield row
        except CUT as error:
            row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        self.add(name, row)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def ceiling(clock: Clock, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product."""
    side = 8192 if clock.cuda else 512
    a, b = (torch.randn(side, side, device=clock.device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / clock(lambda: a @ b)["s"] / 1e12


class Method:
    """Transformer, VAE and prompt with random weights, of full size or tiny, and the method's phases on them."""

    def __init__(self, device: torch.device, dtype: torch.dtype, tiny: bool):
        torch.manual_seed(0)
        self.device, self.dtype, self.tiny = device, dtype, tiny
        make_transformer, make_vae = full_size.transformer, full_size.vae
        if tiny:
            make_transformer, make_vae = full_size.tiny_transformer, full_size.tiny_vae
        self.transformer = make_transformer(device, dtype)
        self.transformer.pos_embed = RotaryEmbedding(RopeSettings(100.0), self.transformer.config.axes_dims_rope)
        make_lean_transformer(self.transformer)
        self.vae: Any = finish_vae(make_vae(device, dtype)).to(memory_format=torch.channels_last)
        self.attention, self.vae_pass = "auto", WHOLE
        config = self.transformer.config
        self.prompt = torch.randn(1, 8 if tiny else full_size.TOKENS, config.joint_attention_dim, device=device).to(
            dtype
        )
        self.pooled = torch.randn(1, config.pooled_projection_dim, device=device).to(dtype)

    def encode(self, picture: Tensor) -> Tensor:
        with passing(self.vae.encoder, self.vae_pass, "encode", lambda *_: None):
            return encode(self.vae, channels_last(picture.to(self.dtype))).float()

    def step(self, z: Tensor) -> Tensor:
        sigma = torch.full((len(z),), SIGMA, device=self.device)
        with attention_kernel(self.attention):
            return z - SIGMA * flow.transformer_velocity(self.transformer, z, sigma, self.prompt, self.pooled, 1.0)

    def decode(self, z: Tensor) -> Tensor:
        with passing(self.vae.decoder, self.vae_pass, "decode", lambda *_: None):
            return decode(self.vae, channels_last(z.to(self.dtype)))

    def planned_gb(self, side: int) -> dict[str, float]:
        """The memory plan's estimate of the phases, with all weights on the device."""
        weights = [
            sum(p.numel() * p.element_size() for p in part.parameters()) for part in (self.transformer, self.vae)
        ]
        config, itemsize = self.transformer.config, torch.empty(0, dtype=self.dtype).element_size()
        width = config.num_attention_heads * config.attention_head_dim
        size = SizePlan(Size(side // 4, side // 4), Size(side, side), Size(side, side), 16)
        footprint = Footprint(*weights, width, tuple(self.vae.config.block_out_channels), itemsize)
        phases = estimate(size, footprint, 1, self.vae_pass)
        return {name: (sum(weights) + work) / 1e9 for name, work in zip(PHASES, phases, strict=True)}


PHASES = ("encode", "transform", "decode")

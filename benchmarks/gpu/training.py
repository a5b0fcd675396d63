"""What training takes on a card: steps a second of the bundled recipe, and a LoRA's memory against its plan.

The recipe's detail network learns from random crops for a fixed time. The LoRA is the preset op4ksr at full width with
random weights: ten steps on a crop of 1024 px, gradient checkpointing on, without VSD.
"""

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import full_size
from op4ksr_core.train.memory import plan_training
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.strategies.flow import FlowStrategy
from recipes.embedded import crops, detail
from recipes.embedded.loop import read

from .common import Results

STEPS = 10


def run(arguments: argparse.Namespace, results: Results, device: torch.device, dtype: torch.dtype) -> None:
    """Two rows."""
    with results.row("recipe, detail network") as row, torch.inference_mode(False), torch.enable_grad():
        row |= recipe(device, 0.02 if arguments.tiny else 0.3)
    with results.row("LoRA") as row, torch.inference_mode(False), torch.enable_grad():
        row |= lora(arguments.tiny, device, dtype)


def recipe(device: torch.device, minutes: float) -> dict[str, float]:
    """Steps a second of `python -m recipes.embedded detail`."""
    count, side = 64, crops.SIDE
    shapes = {"lr": side // 4, "picture": side, "hr": side, "target": side}
    parts = {
        name: torch.randint(0, 256, (count, 3, s, s), dtype=torch.uint8, device=device) for name, s in shapes.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        figures = lambda module: {"score": 0.0}  # noqa: E731
        detail.train_faithful(Path(folder), "detail", minutes, None, crops.Kept(parts), figures, device)
        seconds = time.perf_counter() - started
        steps = read(Path(folder) / "detail.pt")["step"]
    return {"steps": steps, "crops a step": detail.CROPS[device.type], "steps a second": steps / seconds}


def lora(tiny: bool, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Ten steps, their seconds, the peak and the plan."""
    crop = 128 if tiny else 1024  # L_AP looks 40 px far, at half the size
    preset = PRESETS["op4ksr"]
    losses = replace(preset.losses, vsd=0.0, lpips=0.0, adversarial=0.0)
    settings = replace(preset, crop=crop, least_crop=0, losses=losses, checkpointing=not tiny)
    make_transformer, make_vae = full_size.transformer, full_size.vae
    if tiny:
        make_transformer, make_vae = full_size.tiny_transformer, full_size.tiny_vae
    transformer, vae = make_transformer(device, dtype), make_vae(device, dtype)
    config = transformer.config
    tokens = 8 if tiny else full_size.TOKENS
    prompt = (torch.randn(1, tokens, config.joint_attention_dim), torch.randn(1, config.pooled_projection_dim))
    model = FlowStrategy(transformer, vae, prompt, settings).to(device)
    learned = list(model.trainable().values())
    optimizer = torch.optim.AdamW(learned, 1e-5)
    batch = {
        "hr": torch.rand(1, 3, crop, crop, device=device),
        "lr": torch.rand(1, 3, crop // 4, crop // 4, device=device),
        "seed": torch.tensor([1]),
    }
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(2 if tiny else STEPS):
        loss = step(model, batch, device, dtype)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else math.nan
    planned = plan_training(model, settings, crop).total / 1e9
    return {"crop": crop, "s": seconds, "loss": float(loss.detach()), "peak_gb": peak, "planned_gb": planned}


def step(model: FlowStrategy, batch: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The weighted sum of the losses of one batch."""
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs = model(*model.inputs(batch))
    losses, _ = model.losses(batch, outputs)
    weights = model.settings.losses
    return torch.stack([getattr(weights, name) * value.float() for name, value in losses.items()]).sum()

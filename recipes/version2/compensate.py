"""Trains the high-frequency compensation behind frozen models.

    python -m op4ksr_core.training.compensate crops  --run runs/compensation [--model FOLDER ...] [--count 1200]
    python -m op4ksr_core.training.compensate train  --run runs/compensation [--steps 3000] [--minutes 40]
    python -m op4ksr_core.training.compensate export --run runs/compensation [--to FILE]

`crops` restores degraded crops once, by each model in turn and every fourth time by back-projection without a model,
at fidelities from 0.5 to 1; `train` learns from them, and goes on where it was; `export` writes the averaged weights.
So that it is of use behind better models too, two pictures in five are drawn towards the truth, half of those all the
way: there it learns to add nothing.
"""

import argparse
import copy
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.geometry import Size
from op4ksr_core.model.compensation import FACTOR, HighFrequencyCompensation
from op4ksr_core.paths import COMPENSATION, EMBEDDED
from op4ksr_core.picture.colour import finish
from op4ksr_core.picture.resample import resize
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS
from op4ksr_core.train.degradation import EMBEDDED as MILD
from op4ksr_core.train.degradation import degrade
from op4ksr_core.train.losses.wavelet import wavelet_loss
from recipes.pictures import PicturePool
from recipes.version2.embedded import save, update_average

SIDE, MARGIN = 192, 16
"""px of a crop, and what is restored around it, where the pipeline fades the model out."""

SHARP = 0.4
"""Share of pictures that are drawn towards the truth."""

EMA = 0.998


@dataclass(frozen=True)
class Crops:
    """LR (N, 3, 48, 48), restored and true pictures (N, 3, 192, 192), float16 in [0, 1]."""

    lr: Tensor
    picture: Tensor
    hr: Tensor

    def batch(self, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Random crops, each in one of eight turns and flips; follows from the seed alone."""
        rng = random.Random(seed)
        rows = []
        for _ in range(count):
            n, turn = rng.randrange(len(self.lr)), (rng.randrange(4), rng.random() < 0.5)
            lr, picture, hr = (_turned(part[n].float(), *turn) for part in (self.lr, self.picture, self.hr))
            kind = rng.random()
            share = 1.0 if kind < SHARP / 2 else rng.random() if kind < SHARP else 0.0
            rows.append((lr, picture.lerp(hr, share), hr))
        lr, picture, hr = (torch.stack(parts) for parts in zip(*rows, strict=True))
        return lr, picture, hr


def _turned(x: Tensor, quarter: int, flip: bool) -> Tensor:
    x = torch.rot90(x, quarter, (1, 2))
    return x.flip(2) if flip else x


def restore_crops(models: Sequence[Path], count: int, scenes: int, seed: int) -> Crops:
    """Degrades and restores `count` crops; sample n follows from `seed` and n."""
    upscalers = [
        Upscaler.from_pretrained(path, settings=PRESETS["embedded"], check_memory=False, device="cpu")
        for path in models
    ]
    pool = PicturePool.make(scenes, 384, "cpu", seed)
    whole, inner = SIDE + 2 * MARGIN, slice(MARGIN, MARGIN + SIDE)
    low = slice(MARGIN // FACTOR, (MARGIN + SIDE) // FACTOR)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for n in range(count):
        rng = random.Random(seed * 1_000_003 + n)
        hr = pool.crops(1, whole, seed=rng.randrange(2**40), photo_share=0.7)
        lr = degrade(hr[0], torch.Generator().manual_seed(rng.randrange(2**40)), MILD)[None]
        fidelity = rng.uniform(0.5, 1)
        if n % 4 == 3:
            picture = finish(resize(lr, Size(whole, whole)), lr, Size(whole, whole), "none", fidelity)
        else:
            settings = replace(PRESETS["embedded"], fidelity=fidelity, compensation=0.0)
            picture = upscalers[n % len(upscalers)](lr, scale=FACTOR, settings=settings)
        rows.append((lr[0, :, low, low].half(), picture[0, :, inner, inner].half(), hr[0, :, inner, inner].half()))
        if (n + 1) % 100 == 0:
            print(f"{n + 1} of {count} crops", flush=True)
    return Crops(*(torch.stack(parts) for parts in zip(*rows, strict=True)))


def loss_of(restored: Tensor, hr: Tensor) -> Tensor:
    """The picture losses of the embedded model."""
    return 10 * F.mse_loss(restored, hr) + F.l1_loss(restored, hr) + 0.25 * wavelet_loss(restored, hr)


def train(run: Path, steps: int, batch: int, rate: float, minutes: float, seed: int, stop_after: int) -> None:
    """Runs or continues the training to `steps` or `stop_after`, or until the minutes are used up."""
    crops, started, path = Crops(**torch.load(run / "crops.pt", weights_only=True)), time.time(), run / "train.pt"
    torch.manual_seed(seed)
    module = HighFrequencyCompensation()
    average = copy.deepcopy(module).requires_grad_(False)
    optimizer = torch.optim.AdamW(module.parameters(), rate, betas=(0.9, 0.99), weight_decay=1e-4)
    step = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        for part, name in ((module, "model"), (average, "ema"), (optimizer, "optimizer")):
            part.load_state_dict(state[name])  # type: ignore[attr-defined]
        step = state["step"]
    errors: list[tuple[float, float]] = []
    last, out_of_time = min(steps, stop_after), False
    while step < last and not out_of_time:
        lr, picture, hr = crops.batch(batch, seed * 10_000_019 + step)
        for group in optimizer.param_groups:
            share = 0.5 + 0.5 * math.cos(math.pi * step / steps)
            group["lr"] = rate * min(1, (step + 1) / 50) * (0.02 + 0.98 * share)
        restored = picture + module(lr, picture)
        loss = loss_of(restored, hr)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(module.parameters(), 1.0))
        if not math.isfinite(norm):
            raise SystemExit(f"Step {step}: the gradient is {norm}; the last good checkpoint is {path}.")
        optimizer.step()
        step += 1
        update_average(average, module, min(EMA, step / (step + 10)))
        errors = [*errors[-99:], (float(F.mse_loss(picture, hr)), float(F.mse_loss(restored.detach(), hr)))]
        out_of_time = time.time() - started >= 60 * minutes
        if step % 100 == 0 or step == last or out_of_time:
            before, after = (sum(error) for error in zip(*errors, strict=True))
            gain = 10 * math.log10(before / after) if before and after else 0.0  # all of them may be the truth itself
            print(f"{step}/{steps} {(time.time() - started) / 60:.1f} min gain {gain:.3f} dB", flush=True)
            parts = {"model": module, "ema": average, "optimizer": optimizer}
            save(path, {"step": step} | {name: part.state_dict() for name, part in parts.items()})  # type: ignore[attr-defined]


def export(run: Path, to: Path) -> None:
    """The averaged weights, float16."""
    from safetensors.torch import save_file

    state = torch.load(run / "train.pt", weights_only=True)
    save_file({name: value.half() for name, value in state["ema"].items()}, to, metadata={"format": "pt"})
    print(f"Wrote {to}: {sum(v.numel() for v in state['ema'].values())} parameters after {state['step']} steps.")


def main(argv: Sequence[str] | None = None) -> None:
    """Restores the crops, trains, or exports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["crops", "train", "export"])
    parser.add_argument("--run", type=Path, default=Path("runs/compensation"))
    parser.add_argument("--model", type=Path, nargs="+", default=[EMBEDDED])
    parser.add_argument("--to", type=Path, default=COMPENSATION)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--stop-after", type=int, default=sys.maxsize, help="stop at this step; run again to go on")
    parser.add_argument("--rate", type=float, default=5e-4)
    for name, value in (("count", 1200), ("scenes", 300), ("steps", 3000), ("batch", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args(argv)
    args.run.mkdir(parents=True, exist_ok=True)
    if args.stage == "crops":
        crops = restore_crops(args.model, args.count, args.scenes, args.seed)
        save(args.run / "crops.pt", {"lr": crops.lr, "picture": crops.picture, "hr": crops.hr})
    elif args.stage == "train":
        train(args.run, args.steps, args.batch, args.rate, args.minutes, args.seed, args.stop_after)
    else:
        export(args.run, args.to)


if __name__ == "__main__":
    main()

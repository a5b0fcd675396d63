"""Trains the denoiser for noisy and compressed pictures, on photographs reduced to half, where JPEG's traces are gone.

python -m recipes.denoiser --photos FOLDER [FOLDER ...] --run RUN --minutes 15 --to FILE
"""

import argparse
import io
import random
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.model.denoise import Denoiser
from op4ksr_core.picture.convert import as_tensor
from recipes.embedded.loop import Figures, Loop, read
from recipes.embedded.networks import half_where_fast
from recipes.embedded.pictures import HELD_OUT, LEFT_OUT

SIDE, BATCH = 96, 12


def halved(path: Path) -> Image.Image:
    photo = Image.open(path).convert("RGB")
    return photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.LANCZOS)


def crop(rng: random.Random, photos: list[Image.Image], side: int = SIDE) -> Image.Image:
    photo = rng.choice(photos)
    left, top = rng.randint(0, photo.width - side), rng.randint(0, photo.height - side)
    part = photo.crop((left, top, left + side, top + side))
    return part.transpose(rng.choice(list(Image.Transpose))) if rng.random() < 0.8 else part


def spoiled(rng: random.Random, clean: Tensor) -> Tensor:
    """Noise of a sensor and JPEG, each or both; one in eight stays as it is."""
    kind, x = rng.random(), clean
    if kind < 0.625:
        x = noisy(x, rng.uniform(0, 1) ** 1.5 * 30 / 255, rng.uniform(0, 0.02), rng.random() < 0.5)
    if 0.375 < kind < 0.875:
        x = compressed(x, rng.randint(25, 95), rng.choice((0, 2)))
    return x


def noisy(clean: Tensor, sigma: float, shot: float, grainy: bool) -> Tensor:
    """Read noise of deviation `sigma` and shot noise of variance `shot` times brightness; grain is wider than a px."""
    noise = torch.randn_like(clean)
    if grainy:
        noise = F.avg_pool2d(noise[None], 2, 1, 1)[0, :, : clean.shape[1], : clean.shape[2]] * 1.6
    return (clean + (sigma**2 + shot * clean * 0.3).sqrt() * noise).clamp(0, 1)


def compressed(x: Tensor, quality: int, subsampling: int) -> Tensor:
    memory = io.BytesIO()
    picture = Image.fromarray((x * 255).round().byte().permute(1, 2, 0).numpy())
    picture.save(memory, "jpeg", quality=quality, subsampling=subsampling)
    return as_tensor(Image.open(memory).convert("RGB"))


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over the pictures, in dB, at most 70 of each."""
    return float(-10 * (a - b).square().mean((1, 2, 3)).clamp_min(1e-7).log10().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    files = [f for folder in args.photos for f in sorted(folder.glob("*.jpg")) if f.stem not in LEFT_OUT]
    photos, held_out = ([halved(f) for f in files if (f.stem in HELD_OUT) == kept] for kept in (False, True))
    photos, held_out = ([p for p in some if min(p.size) >= SIDE] for some in (photos, held_out))

    def batch(rng: random.Random, source: list[Image.Image], count: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(rng.randrange(2**40))
        clean = [as_tensor(crop(rng, source)) for _ in range(count)]
        return torch.stack([spoiled(rng, one) for one in clean]), torch.stack(clean)

    checked = batch(random.Random(1), held_out, 96)

    def figures(network: nn.Module) -> Figures:
        with torch.no_grad():
            made = torch.cat([x + network(x) for x in checked[0].split(16)]).clamp(0, 1)
        before, after = (psnr(x, checked[1]) for x in (checked[0], made))
        return {"before": before, "after": after, "score": after}

    loop = Loop("denoiser", args.run, Denoiser().to(memory_format=torch.channels_last), args.minutes, 1e-3, {})

    def loss(rng: random.Random, step: int) -> Tensor:
        x, clean = batch(rng, photos, BATCH)
        with half_where_fast(x.device):
            added = loop.module(x.contiguous(memory_format=torch.channels_last)).float()
        return (x + added - clean).abs().mean()

    loop.train(loss, figures)
    state = read(args.run / "denoiser_best.pt")
    save_file({name: value.half().contiguous() for name, value in state.items()}, args.to, metadata={"format": "pt"})


if __name__ == "__main__":
    main()

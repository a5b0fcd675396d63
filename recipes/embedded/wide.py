"""Stage d: the transformer on large pictures, 32 to 64 tokens a side, behind the frozen encoder and decoder.

The stages before see 16 tokens a side at most; the model runs at 128. Here it meets distances of up to 64 tokens.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import op4ksr_core
from op4ksr_core.model.vae import make_f16
from op4ksr_core.train.losses.wavelet import wavelet_loss

from .figures import detail_and_right, psnr
from .loop import Figures, Loop, write
from .networks import SIGMA_MID, THETA, Restorer
from .pictures import Pictures, degraded
from .teacher import load_teacher, sharp_target
from .transformer import TRUTH, Frozen, enlarged, restored

SIDES = (1024, 1536)
"""px of the crops; where a photograph is smaller, what it has."""

WINDOW, EDGE = 16, 4
"""Latent px of the square that is decoded for the loss, and of the margin around it, which its zero padding spoils."""

EVERY = 3
"""Steps between two with the picture's loss on a window, beside the latent's squared error."""

HIDDEN, BLANK = 0.5, 0.2
"""Share of the steps in which tokens are blank, and share of the tokens: they have to be drawn from their neighbours,
so that where a token lies comes to matter."""


@dataclass(frozen=True)
class Wide:
    """One crop: latents (64, h, w) of the enlarged small picture and of the target; target and truth as bytes."""

    before: Tensor
    wanted: Tensor
    target: Tensor
    hr: Tensor


def bundled() -> tuple[Frozen, Restorer]:
    """The VAE and the transformer that are bundled now."""
    from diffusers import AutoencoderKL

    folder = Path(op4ksr_core.__file__).parent / "assets/embedded"
    vae = make_f16(AutoencoderKL.from_pretrained(folder / "vae")).requires_grad_(False).eval()
    restorer = Restorer()
    restorer.dit.load_state_dict(load_file(folder / "transformer/diffusion_pytorch_model.safetensors"))
    prompt = load_file(folder / "prompt.safetensors")
    restorer.prompt.data.copy_(prompt["prompt_embeds"])
    restorer.pooled.data.copy_(prompt["pooled_prompt_embeds"])
    return Frozen(vae), restorer


def keep_wide(run: Path, photos: Path, teacher_file: Path, frozen: Frozen, count: int) -> None:
    """Degrades, encodes and keeps `count` crops with their latents; crop n follows from n."""
    pictures, teacher, rows = Pictures.load(photos, scenes=0), load_teacher(teacher_file), []
    large = [p for p in pictures.photos if min(p.shape[:2]) >= SIDES[0]]
    for number in range(count):
        rng = random.Random(f"wide {number}")
        hr = _crop(large[number % len(large)], SIDES[number % 3 == 2], rng)
        lr = degraded(hr, rng)
        target = sharp_target(teacher, lr, hr)
        before, wanted = frozen.encoded(enlarged(lr)), frozen.encoded(target)
        rows.append(
            {"before": before[0].half(), "wanted": wanted[0].half(), "target": _bytes(target), "hr": _bytes(hr)}
        )
        if (number + 1) % 10 == 0:
            print(f"{number + 1} of {count} large crops", flush=True)
    write(run / "wide-pairs.pt", rows)


def _crop(photo: np.ndarray, side: int, rng: random.Random) -> Tensor:
    x = torch.from_numpy(photo.copy()).permute(2, 0, 1).float() / 255
    height, width = (min(side, length // 128 * 128) for length in x.shape[1:])
    top, left = rng.randint(0, x.shape[1] - height), rng.randint(0, x.shape[2] - width)
    part = x[:, top : top + height, left : left + width]
    return torch.rot90(part.flip(2) if rng.random() < 0.5 else part, rng.randrange(4), (1, 2))[None].contiguous()


def _bytes(x: Tensor) -> Tensor:
    return (x[0] * 255).round().clamp(0, 255).byte()


def train_wide(run: Path, photos: Path, minutes: float, frozen: Frozen, module: Restorer) -> None:
    """The latent's squared error, and every few steps the picture's loss on a window of what it decodes to."""
    rows = [Wide(**row) for row in torch.load(run / "wide-pairs.pt", weights_only=True)]
    kept, held = rows[:-HELD], rows[-HELD:]
    loop = Loop("wide", run, module.requires_grad_(True), minutes, 3e-4, {"sigma": SIGMA_MID, "theta": THETA}, muon=2)

    def loss(rng: random.Random, step: int) -> Tensor:
        row = kept[rng.randrange(len(kept))]
        before, wanted = row.before[None].float(), row.wanted[None].float()
        if rng.random() < HIDDEN:
            before = before * _shown(before, rng)
        z = restored(module, before)
        total = F.mse_loss(z, wanted)
        if step % EVERY == 0:
            cut, pixels = _window(z, rng)
            made = frozen.decoded(cut)[..., 16 * EDGE : -16 * EDGE, 16 * EDGE : -16 * EDGE]
            target, hr = (x[None, :, pixels[0], pixels[1]].float() / 255 for x in (row.target, row.hr))
            total = total + F.l1_loss(made, target) + 0.25 * wavelet_loss(made, target) + TRUTH * F.mse_loss(made, hr)
        return total

    def figures(average: nn.Module) -> Figures:
        values: dict[str, list[float]] = {"gain": [], "psnr": [], "detail": [], "right": []}
        rng = random.Random(5)
        for row in held:
            before, wanted, hr = row.before[None].float(), row.wanted[None].float(), row.hr
            with torch.no_grad():
                z = restored(average, before)
                cut, pixels = _window(z, rng, 24)
                made = frozen.decoded(cut)[..., 16 * EDGE : -16 * EDGE, 16 * EDGE : -16 * EDGE].clamp(0, 1)
            truth = hr[None, :, pixels[0], pixels[1]].float() / 255
            detail, right = detail_and_right(made, truth)
            gain = float(10 * torch.log10(F.mse_loss(before, wanted) / F.mse_loss(z, wanted)))
            for name, value in zip(values, (gain, psnr(made, truth), detail, right), strict=True):
                values[name].append(value)
        means = {name: sum(found) / len(found) for name, found in values.items()}
        return means | {"score": means["right"] - 0.01 * abs(means["detail"]) + 0.02 * means["psnr"]}

    print("before: " + "  ".join(f"{name} {value:.4f}" for name, value in figures(module).items()), flush=True)
    loop.train(loss, figures)


HELD = 5
"""The last crops, kept for validation: of photographs that other crops are from, so they compare stages, no more."""


def _shown(z: Tensor, rng: random.Random) -> Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**40))
    tokens = torch.rand(1, 1, z.shape[2] // 2, z.shape[3] // 2, generator=generator) > BLANK
    return tokens.float().repeat_interleave(2, 2).repeat_interleave(2, 3)


def _window(z: Tensor, rng: random.Random, side: int = WINDOW) -> tuple[Tensor, tuple[slice, slice]]:
    """A square of the latent with its margin, and the px that it stands for."""
    top, left = (rng.randint(EDGE, length - side - EDGE) for length in z.shape[2:])
    cut = z[..., top - EDGE : top + side + EDGE, left - EDGE : left + side + EDGE]
    return cut, (slice(16 * top, 16 * (top + side)), slice(16 * left, 16 * (left + side)))

"""Trains the network that finds lettering, from drawn text and from photographs that CRAFT has labelled.

    python -m recipes.lettering --photos FOLDER --labels FOLDER --fonts /usr/share/fonts --run RUN --to FILE

Labels: a grey PNG of each photograph's name, CRAFT's region and affinity scores (Baek et al., arXiv 1904.01941, the
public weights of easyocr), of any size. Photographs named in recipes/embedded/held_out.txt are left out of the training
and give the figures.
"""

import argparse
import random
import string
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.picture.convert import as_tensor
from op4ksr_core.subjects.lettering import CELL, Lettering
from recipes.embedded.loop import Figures, Loop, read
from recipes.embedded.networks import half_where_fast
from recipes.embedded.pictures import HELD_OUT

SIDE, BATCH = 192, 8
TEXT = 0.35
"""CRAFT's score from which a place is text."""
DRAWN = 0.4
"""Share of the crops that get drawn text."""
WRITINGS = (
    string.ascii_letters + string.digits,
    "的一是不了人我在有他这中大来上国",
    "あいうえおかきくけこアイウエオ日本",
    ".,:%$&",
)


class Labelled:
    """Photographs and where CRAFT saw text."""

    def __init__(self, photos: Path, labels: Path, fonts: Path, held_out: bool):
        files = [f for f in sorted(photos.glob("*.jpg")) if (f.stem in HELD_OUT) == held_out]
        self.pairs = [
            (Image.open(f).convert("RGB"), Image.open(labels / f"{f.stem}.png"))
            for f in files
            if (labels / f"{f.stem}.png").exists()
        ]
        self.fonts = sorted(str(f) for f in fonts.rglob("*.tt[fc]"))
        self.with_text = [
            n for n, (_, label) in enumerate(self.pairs) if (np.asarray(label) > 255 * TEXT).mean() > 0.003
        ]

    def crop(self, rng: random.Random) -> tuple[Image.Image, Image.Image]:
        """A part of a photograph at SIDE px and its label, half of them of one that has text."""
        wanted = self.with_text if rng.random() < 0.5 else range(len(self.pairs))
        photo, label = self.pairs[rng.choice(wanted)]
        span = min(*photo.size, int(SIDE * 2 ** rng.uniform(-0.3, 2)))
        left, top = rng.randint(0, photo.width - span), rng.randint(0, photo.height - span)
        box = left, top, left + span, top + span
        across, down = label.width / photo.width, label.height / photo.height
        own = left * across, top * down, (left + span) * across, (top + span) * down
        part = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box)
        return part, label.resize((SIDE, SIDE), Image.Resampling.BILINEAR, own)

    def sample(self, rng: random.Random) -> tuple[Tensor, Tensor]:
        """(3, SIDE, SIDE) and where text is, (1, SIDE/4, SIDE/4)."""
        part, label = self.crop(rng)
        text = label.point(lambda v: 255 * (v > 255 * TEXT))
        if rng.random() < DRAWN:
            part, text = self.written(rng, part, text)
        x = as_tensor(part)
        if rng.random() < 0.4:
            x = F.interpolate(x[None], scale_factor=rng.uniform(0.4, 0.9), mode="area")
            x = F.interpolate(x, size=(SIDE, SIDE), mode="bicubic")[0]
        x = (x + rng.random() * 0.03 * torch.randn(3, SIDE, SIDE)).clamp(0, 1)
        return x, F.max_pool2d(as_tensor(text.convert("RGB"))[:1][None], CELL)[0]

    def written(self, rng: random.Random, part: Image.Image, text: Image.Image) -> tuple[Image.Image, Image.Image]:
        """One to four lines of text drawn over the crop."""
        part, ink = part.copy(), Image.new("L", part.size)
        for _ in range(rng.randint(1, 4)):
            size = int(9 * 2 ** rng.uniform(0, 3))
            font = ImageFont.truetype(rng.choice(self.fonts), size)
            signs = rng.choices(WRITINGS, (8, 2, 2, 1))[0]
            words = "".join(rng.choice([*signs, " "]) for _ in range(rng.randint(2, 14)))
            layer = Image.new("L", part.size)
            place = rng.randint(-20, SIDE - 20), rng.randint(-5, SIDE - 10)
            ImageDraw.Draw(layer).text(place, words, fill=255, font=font)
            layer = layer.rotate(rng.gauss(0, 8), Image.Resampling.BILINEAR)
            if rng.random() < 0.5:
                back = tuple(rng.randrange(256) for _ in range(3))
                part.paste(back, mask=layer.filter(ImageFilter.MaxFilter(size // 4 * 2 + 1)))
            part.paste(tuple(rng.randrange(256) for _ in range(3)), mask=layer)
            wider = layer.filter(ImageFilter.MaxFilter(size // 6 * 2 + 1))
            ink.paste(255, mask=wider.point(lambda v: 255 * (v > 100)))
        both = Image.fromarray(np.maximum(np.asarray(text), np.asarray(ink)))
        return part, both

    def batch(self, rng: random.Random, count: int) -> tuple[Tensor, Tensor]:
        x, y = zip(*(self.sample(rng) for _ in range(count)), strict=True)
        return torch.stack(x), torch.stack(y)


def loss_of(logits: Tensor, text: Tensor) -> Tensor:
    """Binary cross entropy, text weighing three times, and Dice's loss."""
    each = F.binary_cross_entropy_with_logits(logits, text, pos_weight=torch.tensor(3.0))
    likely = logits.sigmoid()
    return each + 1 - (2 * (likely * text).sum() + 1) / (likely.sum() + text.sum() + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "labels", "fonts", "run", "to"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    training, held_out = (Labelled(args.photos, args.labels, args.fonts, kept) for kept in (False, True))
    checked = held_out.batch(random.Random(1), 96)

    def figures(network: nn.Module) -> Figures:
        with torch.no_grad():
            found = torch.cat([network(part) for part in checked[0].split(16)]) > 0
        text = checked[1] > 0.5
        both = (found & text).sum().item()
        recall, precision = both / text.sum().item(), both / max(1, found.sum().item())
        return {
            "recall": recall,
            "precision": precision,
            "score": 2 * recall * precision / max(1e-6, recall + precision),
        }

    loop = Loop("lettering", args.run, Lettering().to(memory_format=torch.channels_last), args.minutes, 2e-3, {})

    def loss(rng: random.Random, step: int) -> Tensor:
        torch.manual_seed(rng.randrange(2**40))
        x, text = training.batch(rng, BATCH)
        with half_where_fast(x.device):
            logits = loop.module(x.contiguous(memory_format=torch.channels_last)).float()
        return loss_of(logits, text)

    loop.train(loss, figures)
    state = read(args.run / "lettering_best.pt")
    save_file({name: value.half().contiguous() for name, value in state.items()}, args.to, metadata={"format": "pt"})


if __name__ == "__main__":
    main()

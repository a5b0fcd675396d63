"""Stage e: transformer, decoder and detail network together, on the picture that is shown.

Trained one after the other, each part learns to do without the one before it. Here the detail network sees what the
transformer and decoder make of this very step, after the colour fix and fidelity of the preset, and they learn what it
needs of them.
"""

import random
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.evaluate.sharpness import right
from op4ksr_core.geometry import Size
from op4ksr_core.picture.colour import finish, low_band, wavelet_fix
from op4ksr_core.settings import PRESETS

from .detail import TRUTH, forward, new_network
from .figures import detail_and_right, lattice, psnr
from .loop import Figures, Loop, write
from .networks import SIGMA_MID, THETA, Restorer
from .norms import DROPLET, excess_of, inner_norms
from .pictures import LIGHT, Pictures
from .teacher import load_teacher, sharp_target
from .transformer import LARGE, PLAIN, RAW, Frozen, enlarged, picture_loss, restored

LATENT, LATENT_SIDE = 0.04, 1024
"""Share of the steps on the latent of a crop of 1024 px, 32 tokens a side, which the picture's loss never sees."""

BEFORE = 0.5
"""Weight of the loss of stage c, of the picture before the detail network."""

MARGIN = 16
"""px at a crop's border that the loss leaves out: there `finish` fades the picture, and zero padding misleads."""


def new_whole(frozen: Frozen) -> nn.ModuleDict:
    """Transformer, decoder and detail network by the names that their checkpoint has."""
    decoder = frozen.vae.decoder.requires_grad_(True)
    return nn.ModuleDict({"restorer": Restorer(), "decoder": decoder, "detail": new_network()})


def start_of(run: Path) -> dict[str, Tensor]:
    """The state dict of `new_whole` from what the stages before, or "bundled", left in the run."""
    before = torch.load(run / "together_best.pt", weights_only=True)
    detail = torch.load(run / "detail_start.pt", weights_only=True)
    return before | {f"detail.{name}": value for name, value in detail.items()}


def shown(detail: nn.Module, raw: Tensor, lr: Tensor) -> Tensor:
    """The decoder's picture as the pipeline finishes it: colour fix, fidelity, the detail network at strength 1."""
    preset, size = PRESETS["embedded"], Size(*raw.shape[-2:])
    picture = finish(raw, lr, size, preset.colour, preset.fidelity)
    made = forward(detail, lr, picture)
    return made + low_band(picture - made)


def train_whole(run: Path, photos: Path, teacher_file: Path, minutes: float, start: Path | None) -> None:
    """L1 of the shown picture to the sharp target and the truth's squared error, and stage c's loss beside it."""
    frozen = Frozen.load(run, photos)
    module = new_whole(frozen)
    module.load_state_dict(start_of(run) if start is None else torch.load(start, weights_only=True))
    teacher, training = load_teacher(teacher_file), Pictures.load(photos)
    loop = Loop("whole", run, module, minutes, 3e-4, {"sigma": SIGMA_MID, "theta": THETA}, muon=4)
    restorer, decoder, inner = module["restorer"], module["decoder"], slice(MARGIN, -MARGIN)

    def loss(rng: random.Random, step: int) -> Tensor:
        if rng.random() < LATENT:
            small, truth = training.mixed_pairs(rng, 1, LATENT_SIDE)
            return F.mse_loss(restored(restorer, frozen.encoded(enlarged(small))), frozen.encoded(truth))
        clean = 0 if rng.random() < LARGE else 1
        small, truth = training.mixed_pairs(rng, *((4, 192) if clean else (1, 384)))
        colours = enlarged(small)
        z = restored(restorer, frozen.encoded(colours[clean:]))
        if clean:
            z, colours[0] = torch.cat([frozen.encoded(truth[:1]), z]), truth[0]
        kind = rng.random()
        if kind < PLAIN:
            raw, droplets = frozen.decoded(z), 0.0
        else:
            with inner_norms(decoder, pooled=kind > 0.5 + PLAIN / 2):
                raw = frozen.decoded(z)
                droplets = DROPLET * excess_of(decoder)
        before = picture_loss(wavelet_fix(raw, colours), truth) + RAW * F.l1_loss(raw, truth)
        small, truth, raw = small[clean:], truth[clean:], raw[clean:]
        target = sharp_target(teacher, small, truth)[..., inner, inner]
        made = shown(module["detail"], raw, small)[..., inner, inner]
        sharp = F.l1_loss(made, target) + TRUTH * F.mse_loss(made, truth[..., inner, inner])
        return sharp + BEFORE * before + droplets

    loop.train(loss, whole_figures(photos, frozen))


def whole_figures(photos: Path, frozen: Frozen) -> Callable[[Any], Figures]:
    """Of 48 held-out crops under light blur, with the transformer and (`_off`) without it; `before` is without the
    detail network. The score is the mean of right, less a lattice."""
    rng, pictures = random.Random(7), Pictures.load(photos, held_out=True)
    lr, hr = pictures.pairs(rng, 48, 256, LIGHT)
    z = torch.cat([frozen.encoded(enlarged(part)) for part in lr.split(8)])

    def figures(average: Any) -> Figures:
        settings, preset = frozen.vae.config, PRESETS["embedded"]

        def made(change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
            rows = []
            for small, latent in zip(lr.split(8), z.split(8), strict=True):
                raw = average["decoder"](change(latent) / settings.scaling_factor + settings.shift_factor)
                raw = raw * 0.5 + 0.5
                before = finish(raw, small, Size(*raw.shape[-2:]), preset.colour, preset.fidelity)
                rows.append((before, shown(average["detail"], raw, small).clamp(0, 1)))
            before, after = (torch.cat(row) for row in zip(*rows, strict=True))
            return before, after

        with torch.no_grad():
            (before, on), (before_off, off) = made(lambda x: restored(average["restorer"], x)), made(lambda x: x)
        values: Figures = {}
        for name, picture in (("", on), ("_off", off), ("_before", before), ("_before_off", before_off)):
            pairs = zip(picture.split(1), hr.split(1), strict=True)
            values |= {f"psnr{name}": psnr(picture, hr), f"right{name}": fmean(right(*pair) for pair in pairs)}
        grid = lattice(on, hr)
        values |= {"detail": detail_and_right(on, hr)[0], "detail_off": detail_and_right(off, hr)[0], "lattice": grid}
        return values | {"score": values["right"] - 0.2 * grid}

    return figures


def split(run: Path, start: Path) -> None:
    """What a checkpoint of this stage holds as the files of the stages before, to be exported or gone on from."""
    state = torch.load(start, weights_only=True)
    inner = {name.removeprefix("detail."): value for name, value in state.items() if name.startswith("detail.")}
    write(run / "together_best.pt", {name: value for name, value in state.items() if not name.startswith("detail.")})
    write(run / "detail_best.pt", {name: value.contiguous() for name, value in inner.items()})

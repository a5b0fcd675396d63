"""Stage e: the transformer and the decoder on the picture that is shown, the detail network behind them frozen.

The detail network sees the small picture and makes up for much of what they do. Here they learn what it cannot.
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
from op4ksr_core.picture.colour import finish, low_band
from op4ksr_core.settings import PRESETS

from .detail import TRUTH, forward, new_network
from .figures import detail_and_right, lattice, psnr
from .loop import Figures, Loop
from .networks import SIGMA_MID, THETA, half_where_fast
from .pictures import LIGHT, Pictures
from .teacher import load_teacher, sharp_target
from .transformer import LARGE, Frozen, decoded_under_norms, enlarged, latent_step, picture_loss, restored, trained

BEFORE = 0.25
"""Weight of the loss of stage c, of the picture before the detail network."""

MARGIN = 16
"""px at a crop's border that the loss leaves out: there `finish` fades the picture, and zero padding misleads."""


def shown(detail: nn.Module, raw: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's picture as the pipeline finishes it, by colour fix and fidelity, and with the network's detail."""
    preset, size = PRESETS["embedded"], Size(*raw.shape[-2:])
    picture = finish(raw, lr, size, preset.colour, preset.fidelity)
    made = forward(detail, lr, picture)
    return picture, made + low_band(picture - made)


def train_whole(run: Path, photos: Path, teacher_file: Path, minutes: float, detail_file: Path) -> None:
    """L1 of the shown picture to the sharp target (of graphics, which the teacher does not draw well, to the truth) and
    the truth's squared error, and stage c's loss beside it."""
    frozen, restorer = trained(run, photos)
    decoder, detail = frozen.vae.decoder.requires_grad_(True), new_network(detail_file).requires_grad_(False)
    module = nn.ModuleDict({"restorer": restorer.train().requires_grad_(True), "decoder": decoder})
    restorer.look_at_neighbours()  # freezes their queries and keys again
    teacher, training = load_teacher(teacher_file), Pictures.load(photos)
    loop = Loop("whole", run, module, minutes, 4e-4, {"sigma": SIGMA_MID, "theta": THETA}, muon=4)
    inner = slice(MARGIN, -MARGIN)

    def loss(rng: random.Random, step: int) -> Tensor:
        if (latent := latent_step(restorer, frozen, training, rng)) is not None:
            return latent
        clean = 0 if rng.random() < LARGE else 1
        small, truth, drawn = training.mixed_pairs(rng, *((4, 192) if clean else (1, 384)))
        colours = enlarged(small)
        z = restored(restorer, frozen.encoded(colours[clean:]))
        if clean:
            z, colours[0] = torch.cat([frozen.encoded(truth[:1]), z]), truth[0]
        raw, droplets = decoded_under_norms(frozen, z, rng)
        before = picture_loss(raw, colours, truth)
        small, truth, raw = small[clean:], truth[clean:], raw[clean:]
        target = torch.where(drawn[clean:, None, None, None], truth, sharp_target(teacher, small, truth))
        made, target, truth = (x[..., inner, inner] for x in (shown(detail, raw, small)[1], target, truth))
        return F.l1_loss(made, target) + TRUTH * F.mse_loss(made, truth) + BEFORE * before + droplets

    loop.train(loss, whole_figures(photos, frozen, detail))


def whole_figures(photos: Path, frozen: Frozen, detail: nn.Module) -> Callable[[Any], Figures]:
    """Of 48 held-out crops under light blur, with the transformer and (`_off`) without it; `before` is without the
    detail network. The score is the mean of right, less a lattice."""
    rng, pictures = random.Random(7), Pictures.load(photos, held_out=True)
    lr, hr = pictures.pairs(rng, 48, 256, LIGHT)
    z = torch.cat([frozen.encoded(enlarged(part)) for part in lr.split(8)])

    def figures(average: Any) -> Figures:
        settings = frozen.vae.config

        def made(small: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
            with half_where_fast():
                raw = average["decoder"](z / settings.scaling_factor + settings.shift_factor).float()
            return shown(detail, raw * 0.5 + 0.5, small)

        values: Figures = {}
        for name in ("", "_off"):
            rows = []
            for small, latent in zip(lr.split(8), z.split(8), strict=True):
                with torch.no_grad():
                    rows.append(made(small, latent if name else restored(average["restorer"], latent)))
            before, picture = (torch.cat(row).clamp(0, 1) for row in zip(*rows, strict=True))
            values |= {f"psnr{name}": psnr(picture, hr), f"right_before{name}": right_of(before, hr)}
            values |= dict(zip((f"detail{name}", f"right{name}"), detail_and_right(picture, hr), strict=True))
            values[f"lattice{name}"] = lattice(picture, hr)
        return values | {"score": values["right"] - 0.2 * values["lattice"]}

    return figures


def right_of(picture: Tensor, truth: Tensor) -> float:
    return fmean(right(*pair) for pair in zip(picture.split(1), truth.split(1), strict=True))

"""Stages b and c: the transformer on the frozen encoder's latents, then it and the decoder on the picture."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.geometry import Size
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.model.vae import decode, encode
from op4ksr_core.picture.colour import finish, wavelet_fix
from op4ksr_core.picture.resample import resize
from op4ksr_core.settings import PRESETS, RopeSettings
from op4ksr_core.train.losses.wavelet import wavelet_loss

from . import crops
from .figures import detail_and_right, lattice, psnr
from .loop import Figures, Loop, mean, write
from .networks import SIGMA_MID, THETA, Restorer, half_where_fast, new_vae
from .norms import DROPLET, excess_of, inner_norms, take_over
from .pictures import LIGHT, Pictures

VARIANTS = ((0, False), (1, True))
"""(quarter turns, flipped): the forms of each crop whose latents are kept; of crops above 512 px the first alone."""

SIZES = {"pairs": 256, "pairs-large": 512, "pairs-huge": 1024, "pairs-whole": 1408}
"""Kept crops by the side in px: 8, 16, 32 and 44 tokens a side."""

STEPS = {"pairs": (0.4, 24), "pairs-large": (0.25, 6), "pairs-huge": (0.2, 2), "pairs-whole": (0.15, 1)}
"""Stage b: the share of the steps that see crops of a size, and how many at once."""

LARGE = 0.25
"""Share of the steps of stage c on one crop of 384 px in place of four of 192."""

LATENT, LATENT_SIDE = 0.04, 1024
"""Share of the steps of stage c on the latent of a crop of 1024 px, 32 tokens a side, which the picture's loss never
sees."""

FLUX_THETA = 10_000.0

SQUARED = 4.0
"""Weight of the squared error beside L1 in stage c."""

PLAIN = 0.25
"""Share of the steps of stage c under plain group norms: a flat picture's statistics are its border's."""

RAW = 0.1
"""Weight in stage c of the picture before the colour fix that the pipeline ends with: without it most of the error is
tint, which the fix takes away anyhow."""


@dataclass
class Frozen:
    """The VAE of stage a with the statistics of its latents, not trained any more."""

    vae: Any

    @classmethod
    def load(cls, run: Path, photos: Path) -> "Frozen":
        """Reads `vae_best.pt`; measures the latents once and keeps the result."""
        vae = new_vae().requires_grad_(False).eval()
        path = run / "vae_best.pt"
        if not path.exists():
            raise SystemExit(f"{path} is missing: run the vae stage first.")
        vae.load_state_dict(torch.load(path, weights_only=True))
        statistics = run / "latents.pt"
        if not statistics.exists():
            with torch.no_grad():
                z = vae.encoder(Pictures.load(photos).batch(random.Random(1), 24, 256) * 2 - 1).chunk(2, 1)[0]
            write(statistics, {"shift": float(z.mean()), "scale": float(1 / z.std())})
        found = torch.load(statistics, weights_only=True)
        vae.register_to_config(shift_factor=found["shift"], scaling_factor=found["scale"])
        return cls(vae)

    def encoded(self, picture: Tensor) -> Tensor:
        with torch.no_grad(), half_where_fast():
            return encode(self.vae, picture).float()

    def decoded(self, z: Tensor) -> Tensor:
        with half_where_fast():
            return decode(self.vae, z).float()


def restored(restorer: nn.Module, z: Tensor) -> Tensor:
    with half_where_fast():
        return restorer(z).float()


def enlarged(lr: Tensor) -> Tensor:
    return resize(lr, Size(4 * lr.shape[-2], 4 * lr.shape[-1])).clamp(0, 1)


def keep_latents(run: Path, photos: Path) -> None:
    """Latents of every pair, before (the enlarged small picture's) and wanted (the truth's), as float16.

    Encoding is most of a step's work, and the encoder is frozen: so the transformer sees twenty times the tokens.
    """
    frozen = Frozen.load(run, photos)
    for name, side in SIZES.items():
        pairs, rows, count = crops.Kept.load(run / f"{name}.pt"), [], max(1, 10 * 256**2 // side**2)
        for turn, flip in VARIANTS if side <= 512 else VARIANTS[:1]:
            for first in range(0, len(pairs.parts["lr"]), count):
                part = {key: value[first : first + count].float() / 255 for key, value in pairs.parts.items()}
                part = {key: torch.rot90(value, turn, (2, 3)) for key, value in part.items()}
                if flip:
                    part = {key: value.flip(3) for key, value in part.items()}
                before, wanted = frozen.encoded(enlarged(part["lr"])), frozen.encoded(part["hr"])
                rows.append(torch.stack([before, wanted], 1).half())
            print(f"{name}: {turn} turns, {'flipped' if flip else 'not flipped'}", flush=True)
        write(run / f"latents-{name}.pt", torch.cat(rows))


def train_transformer(run: Path, photos: Path, minutes: float, start: Path | None) -> None:
    """Squared error of the latent against the truth's, at 8 to 44 tokens a side."""
    frozen = Frozen.load(run, photos)
    sources = {name: torch.load(run / f"latents-{name}.pt", weights_only=True) for name in SIZES}
    module = Restorer()
    if start is not None:
        module.load_state_dict(torch.load(start, weights_only=True))
        module.look_at_neighbours()
    settings = {"sigma": SIGMA_MID, "theta": THETA, "latents": {name: len(kept) for name, kept in sources.items()}}
    loop = Loop("transformer", run, module, minutes, 6e-4, settings, muon=2)

    def loss(rng: random.Random, step: int) -> Tensor:
        (name,) = rng.choices(list(STEPS), [share for share, _ in STEPS.values()])
        rows = [rng.randrange(len(sources[name])) for _ in range(STEPS[name][1])]
        before, wanted = sources[name][rows].float().unbind(1)
        return F.mse_loss(restored(module, before), wanted)

    loop.train(loss, held_out_figures(photos, frozen))


def held_out_figures(photos: Path, frozen: Frozen) -> Callable[[nn.Module], Figures]:
    """Of 12 held-out crops: how much of the latent's error the transformer takes away, in dB, and the decoded pictures'
    PSNR; of 4 large ones the same, at theta 100 and at 10,000."""
    rng, pictures = random.Random(7), Pictures.load(photos, held_out=True)
    lr, hr = pictures.pairs(rng, 12, 256)
    z, wanted = frozen.encoded(enlarged(lr)), frozen.encoded(hr)
    large = []
    for _ in range(4):
        small, truth = pictures.pairs(rng, 1, SIZES["pairs-whole"])
        large.append((frozen.encoded(enlarged(small)), frozen.encoded(truth)))
    with torch.no_grad():
        off = frozen.decoded(z)

    def figures(module: nn.Module) -> Figures:
        with torch.no_grad():
            moved = restored(module, z)
            on = frozen.decoded(moved)
            whole = gain_of_large(module, large)
            with positions(module, FLUX_THETA):
                elsewhere = gain_of_large(module, large)
        gain = latent_gain(z, moved, wanted)
        detail, right = detail_and_right(on, hr)
        values = {"latent_gain": gain, "large": whole, "large_10000": elsewhere}
        values |= {"psnr_on": psnr(on, hr), "psnr_off": psnr(off, hr)}
        return values | {"detail": detail, "right": right, "score": gain}

    return figures


def latent_gain(before: Tensor, after: Tensor, wanted: Tensor) -> float:
    """dB by which the squared error is smaller afterwards."""
    return float(10 * torch.log10(F.mse_loss(before, wanted) / F.mse_loss(after, wanted)))


def gain_of_large(module: nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> float:
    return mean(latent_gain(z, restored(module, z), wanted) for z, wanted in pairs)


@contextmanager
def positions(module: Any, theta: float) -> Iterator[None]:
    """The transformer under another RoPE base."""
    own = module.dit.pos_embed
    module.dit.pos_embed = RotaryEmbedding(RopeSettings(theta=theta))
    try:
        yield
    finally:
        module.dit.pos_embed = own


def without_droplets(run: Path, photos: Path) -> None:
    """Starts the stage "together" from its own best weights with factors of the group norms that fit their inside."""
    frozen, restorer = trained(run, photos)
    z = frozen.encoded(Pictures.load(photos).batch(random.Random(3), 32, 192))
    take_over(frozen.vae.decoder, z / frozen.vae.config.scaling_factor + frozen.vae.config.shift_factor)
    write(run / "together_start.pt", nn.ModuleDict({"restorer": restorer, "decoder": frozen.vae.decoder}).state_dict())


def train_together(run: Path, photos: Path, minutes: float, start: Path | None) -> None:
    """The transformer and the decoder on the picture, behind the frozen encoder; one small crop in four is a clean
    latent that the decoder alone decodes, so that the VAE stays one.

    The latent loss of stage b leaves a blurred picture: what a latent's mean over all sharp pictures decodes to. Here
    the picture is the truth's, after the colour fix that the pipeline ends with, and the decoder learns to show what
    the transformer found. Sharpness is left to the detail network. A share of the steps is stage b's at large sizes,
    which the picture's loss never sees.
    """
    frozen = Frozen.load(run, photos)
    training = Pictures.load(photos)
    restorer, decoder = Restorer(), frozen.vae.decoder.requires_grad_(True)
    module = nn.ModuleDict({"restorer": restorer, "decoder": decoder})
    if start is None:
        restorer.load_state_dict(torch.load(run / "transformer_best.pt", weights_only=True))
    else:
        module.load_state_dict(torch.load(start, weights_only=True))
    loop = Loop("together", run, module, minutes, 5e-4, {"sigma": SIGMA_MID, "theta": THETA}, muon=4)

    def loss(rng: random.Random, step: int) -> Tensor:
        if rng.random() < LATENT:
            small, truth, _ = training.mixed_pairs(rng, 1, LATENT_SIDE)
            return F.mse_loss(restored(restorer, frozen.encoded(enlarged(small))), frozen.encoded(truth))
        large = rng.random() < LARGE
        small, truth, _ = training.mixed_pairs(rng, *((1, 384) if large else (4, 192)))
        colours = enlarged(small)
        z = frozen.encoded(colours)
        if large:
            z = restored(restorer, z)
        else:
            z, colours[0] = torch.cat([frozen.encoded(truth[:1]), restored(restorer, z[1:])]), truth[0]
        made, droplets = decoded_under_norms(frozen, z, rng)
        return picture_loss(made, colours, truth) + droplets

    loop.train(loss, picture_figures(photos, frozen))


def decoded_under_norms(frozen: Frozen, z: Tensor, rng: random.Random) -> tuple[Tensor, Tensor | float]:
    """The picture of a latent under plain or inner group norms, and what droplets cost."""
    kind = rng.random()
    if kind < PLAIN:
        return frozen.decoded(z), 0.0
    with inner_norms(frozen.vae.decoder, pooled=kind > 0.5 + PLAIN / 2):
        return frozen.decoded(z), DROPLET * excess_of(frozen.vae.decoder)


def picture_loss(raw: Tensor, colours: Tensor, truth: Tensor) -> Tensor:
    """Of the decoder's picture, before the colour fix and after it."""
    made = wavelet_fix(raw, colours)
    sharp = F.l1_loss(made, truth) + 0.25 * wavelet_loss(made, truth) + SQUARED * F.mse_loss(made, truth)
    return RAW * F.l1_loss(raw, truth) + sharp


def picture_figures(photos: Path, frozen: Frozen) -> Callable[[nn.Module], Figures]:
    """Of 48 held-out crops under light blur, with the transformer and (`_off`) without it; `clean` is the decoder's
    PSNR on two clean pictures of 768 px, `part` how well the middle of their latents agrees with it when decoded alone.
    """
    rng, pictures = random.Random(7), Pictures.load(photos, held_out=True)
    lr, hr = pictures.pairs(rng, 48, 256, LIGHT)
    z = torch.cat([frozen.encoded(enlarged(part)) for part in lr.split(8)])
    whole = pictures.batch(rng, 2, 768)
    z_whole = frozen.encoded(whole)

    def figures(average: nn.Module) -> Figures:
        settings = frozen.vae.config

        def shown(z: Tensor) -> Tensor:
            with half_where_fast():
                scaled = z / settings.scaling_factor + settings.shift_factor
                return average["decoder"](scaled).float() * 0.5 + 0.5

        with torch.no_grad():
            moved = torch.cat([restored(average["restorer"], part) for part in z.split(8)])
            on, off = (wavelet_fix(torch.cat([shown(x) for x in y.split(8)]), enlarged(lr)) for y in (moved, z))
            large, part = shown(z_whole), shown(z_whole[..., 16:32, 16:32].contiguous())
        (detail, right), (_, right_off) = detail_and_right(on, hr), detail_and_right(off, hr)
        values = {"psnr": psnr(on, hr), "psnr_off": psnr(off, hr), "detail": detail, "right": right}
        values |= {"clean": psnr(large, whole), "part": psnr(part[..., 64:192, 64:192], large[..., 320:448, 320:448])}
        return values | {"right_off": right_off, "lattice": lattice(on, hr, 16), "score": psnr(on, hr)}

    return figures


def trained(run: Path, photos: Path) -> tuple[Frozen, Restorer]:
    """The VAE and the transformer as the stage "together" left them."""
    path = run / "together_best.pt"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run the together stage first.")
    frozen = Frozen.load(run, photos)
    module = nn.ModuleDict({"restorer": Restorer(), "decoder": frozen.vae.decoder})
    module.load_state_dict(torch.load(path, weights_only=True))
    return frozen, module["restorer"].requires_grad_(False).eval()


def pipeline(run: Path, photos: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """(small, truth) -> what the detail network will be given, after the preset's colour fix and fidelity."""
    frozen, restorer = trained(run, photos)
    preset = PRESETS["embedded"]

    def made(lr: Tensor, hr: Tensor) -> Tensor:
        with torch.no_grad():
            raw = frozen.decoded(restored(restorer, frozen.encoded(enlarged(lr))))
            return finish(raw, lr, Size(*hr.shape[-2:]), preset.colour, preset.fidelity)

    return made

"""Stages b and c: the transformer on the frozen encoder's latents, then it and the decoder on the picture."""

import itertools
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
from op4ksr_core.model.vae import decode, encode
from op4ksr_core.picture.colour import finish, wavelet_fix
from op4ksr_core.settings import PRESETS
from op4ksr_core.train.losses.wavelet import wavelet_loss

from .crop_pool import CropPool, HeldOut, enlarged
from .figures import energy_and_correlation, lattice, psnr
from .loop import Figures, Loop, mean, read, write
from .networks import SIGMA_MID, THETA, KnownPositions, Restorer, half_where_fast, new_vae
from .norms import DROPLET, excess_of, inner_norms

LATENTS = {"cpu": ((0.6, 256, 8), (0.4, 1024, 1)), "cuda": ((0.7, 256, 96), (0.3, 1024, 8))}
"""Stage b: share of the steps, side and number of their crops; 8 and 32 tokens a side."""

CROPS = {"cpu": ((0.75, 192, 4), (0.25, 384, 1)), "cuda": ((0.75, 256, 96), (0.25, 512, 24))}
"""Stage c: the same."""

LATENT = 0.08
"""Share of the steps of stage c that are stage b's at its largest size, which the picture's loss never sees."""

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
    def load(cls, run: Path, device: torch.device, pool: CropPool | None = None) -> "Frozen":
        """Reads `vae_best.pt`; measures the latents once, on the pool's crops, and keeps the result."""
        vae = new_vae().requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
        path = run / "vae_best.pt"
        if not path.exists():
            raise SystemExit(f"{path} is missing: run the vae stage first.")
        vae.load_state_dict(read(path))
        statistics = run / "latents.pt"
        if not statistics.exists():
            if pool is None:
                raise SystemExit(f"{statistics} is missing: run the transformer stage first.")
            with torch.no_grad():
                z = vae.encoder(pool.crops(random.Random(1), 24, 256) * 2 - 1).chunk(2, 1)[0]
            write(statistics, {"shift": float(z.mean()), "scale": float(1 / z.std())})
        found = read(statistics)
        vae.register_to_config(shift_factor=found["shift"], scaling_factor=found["scale"])
        return cls(vae)

    def encoded(self, picture: Tensor) -> Tensor:
        with torch.no_grad(), half_where_fast(picture.device):
            return encode(self.vae, picture).float()

    def decoded(self, z: Tensor) -> Tensor:
        with half_where_fast(z.device):
            return decode(self.vae, z).float()


def restored(restorer: nn.Module, z: Tensor) -> Tensor:
    with half_where_fast(z.device):
        return restorer(z).float()


def train_transformer(
    run: Path, pool: CropPool, held_out: HeldOut, minutes: float, start: Path | None, rate: float = 6e-4
) -> None:
    """Squared error of the latent against the truth's, at 8 and 32 tokens a side."""
    device = pool.patches.device
    frozen, module = Frozen.load(run, device, pool), Restorer()
    if start is not None:
        module.load_state_dict(read(start))
        module.look_at_neighbours()
    module.to(device)
    loop = Loop("transformer", run, module, minutes, rate, {"sigma": SIGMA_MID, "theta": THETA}, muon=(2,))

    def loss(rng: random.Random, step: int) -> Tensor:
        ((_, side, count),) = rng.choices(LATENTS[device.type], [share for share, _, _ in LATENTS[device.type]])
        return latent_loss(frozen, module, pool, rng, side, count)

    loop.train(loss, latent_figures(frozen, held_out))


def latent_loss(
    frozen: Frozen, restorer: nn.Module, pool: CropPool, rng: random.Random, side: int, count: int
) -> Tensor:
    small, truth, _ = pool.pairs(rng, count, side)
    return F.mse_loss(restored(restorer, frozen.encoded(enlarged(small))), frozen.encoded(truth))


def latent_figures(frozen: Frozen, held_out: HeldOut) -> Callable[[nn.Module], Figures]:
    """How much of the latent's error the transformer takes away, in dB, and the decoded pictures' PSNR; of the large
    crops the same, at theta 100 and at 10,000."""
    z, wanted = (frozen.encoded(x) for x in (enlarged(held_out.lr), held_out.hr))
    large = [(frozen.encoded(enlarged(small)), frozen.encoded(truth)) for small, truth in held_out.large]

    def figures(module: nn.Module) -> Figures:
        with torch.no_grad():
            moved = restored(module, z)
            on = frozen.decoded(moved)
            whole = mean(latent_gain(*pair, restored(module, pair[0])) for pair in large)
            with positions(module, FLUX_THETA):
                elsewhere = mean(latent_gain(*pair, restored(module, pair[0])) for pair in large)
        gain = latent_gain(z, wanted, moved)
        energy, correlation = energy_and_correlation(on, held_out.hr)
        values = {"latent_gain": gain, "large": whole, "large_10000": elsewhere, "psnr": psnr(on, held_out.hr)}
        return values | {"hf_energy_db": energy, "hf_correlation": correlation, "score": gain}

    return figures


def latent_gain(before: Tensor, wanted: Tensor, after: Tensor) -> float:
    """dB by which the squared error is smaller afterwards."""
    return float(10 * torch.log10(F.mse_loss(before, wanted) / F.mse_loss(after, wanted)))


@contextmanager
def positions(module: Any, theta: float) -> Iterator[None]:
    """The transformer under another RoPE base."""
    own = module.dit.pos_embed
    module.dit.pos_embed = KnownPositions(theta)
    try:
        yield
    finally:
        module.dit.pos_embed = own


def train_together(
    run: Path, pool: CropPool, held_out: HeldOut, minutes: float, start: Path | None, rate: float = 5e-4
) -> None:
    """The transformer and the decoder on the picture, behind the frozen encoder; one crop in four is a clean latent
    that the decoder alone decodes, so that the VAE stays one.

    The latent loss of stage b leaves a blurred picture: what a latent's mean over all sharp pictures decodes to. Here
    the picture is the truth's, after the colour fix that the pipeline ends with, and the decoder learns to show what
    the transformer found. Sharpness is left to the detail network.
    """
    device = pool.patches.device
    frozen, restorer = Frozen.load(run, device, pool), Restorer()
    decoder = frozen.vae.decoder.requires_grad_(True)
    module = nn.ModuleDict({"restorer": restorer, "decoder": decoder})
    if start is None:
        restorer.load_state_dict(read(run / "transformer_best.pt"))
    else:
        module.load_state_dict(read(start))
    restorer.to(device)
    loop = Loop("together", run, module, minutes, rate, {"sigma": SIGMA_MID, "theta": THETA}, muon=(2, 4))
    _, latent_side, latent_count = LATENTS[device.type][-1]

    def loss(rng: random.Random, step: int) -> Tensor:
        if rng.random() < LATENT:
            return latent_loss(frozen, restorer, pool, rng, latent_side, latent_count)
        ((_, side, count),) = rng.choices(CROPS[device.type], [share for share, _, _ in CROPS[device.type]])
        small, truth, _ = pool.pairs(rng, count, side)
        colours, alone = enlarged(small), count // 4
        moved = restored(restorer, frozen.encoded(colours[alone:]))
        z = torch.cat([frozen.encoded(truth[:alone]), moved]) if alone else moved
        colours = torch.cat([truth[:alone], colours[alone:]])
        made, droplets = decoded_under_norms(frozen, z, rng)
        return picture_loss(made, colours, truth) + droplets

    loop.train(loss, picture_figures(frozen, held_out))


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


def picture_figures(frozen: Frozen, held_out: HeldOut) -> Callable[[nn.Module], Figures]:
    """Of the held-out crops with the transformer and (`_off`) without it; `clean` is the decoder's PSNR on two clean
    pictures of 768 px, `part` how well the middle of their latents agrees with it when decoded alone."""
    lr, hr, whole = held_out.lr, held_out.hr, held_out.clean
    z = torch.cat([frozen.encoded(enlarged(part)) for part in lr.split(8)])
    z_whole = frozen.encoded(whole)

    def figures(average: nn.Module) -> Figures:
        settings = frozen.vae.config

        def shown(z: Tensor) -> Tensor:
            with half_where_fast(z.device):
                scaled = z / settings.scaling_factor + settings.shift_factor
                return average["decoder"](scaled).float() * 0.5 + 0.5

        with torch.no_grad():
            moved = torch.cat([restored(average["restorer"], part) for part in z.split(8)])
            on, off = (wavelet_fix(torch.cat([shown(x) for x in y.split(8)]), enlarged(lr)) for y in (moved, z))
            large, part = shown(z_whole), shown(z_whole[..., 16:32, 16:32].contiguous())
        (energy, correlation), (_, correlation_off) = energy_and_correlation(on, hr), energy_and_correlation(off, hr)
        values = {
            "psnr": psnr(on, hr),
            "psnr_off": psnr(off, hr),
            "hf_energy_db": energy,
            "hf_correlation": correlation,
        }
        values |= {"clean": psnr(large, whole), "part": psnr(part[..., 64:192, 64:192], large[..., 320:448, 320:448])}
        return values | {"hf_correlation_off": correlation_off, "lattice": lattice(on, hr, 16), "score": correlation}

    return figures


def trained(run: Path, device: torch.device) -> tuple[Frozen, Restorer]:
    """The VAE and the transformer as the stage "together" left them."""
    path = run / "together_best.pt"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run the together stage first.")
    frozen = Frozen.load(run, device)
    module = nn.ModuleDict({"restorer": Restorer(), "decoder": frozen.vae.decoder}).to(device)
    module.load_state_dict(read(path))
    return frozen, module["restorer"].requires_grad_(False).eval()


def pipeline(
    run: Path, device: torch.device, fidelities: tuple[float, ...] = (PRESETS["embedded"].fidelity,)
) -> Callable[[Tensor, Tensor], Tensor]:
    """(small, truth) -> what the detail network will be given, after the preset's colour fix and one of the fidelities,
    one after the other."""
    frozen, restorer = trained(run, device)
    colour, turn = PRESETS["embedded"].colour, itertools.cycle(fidelities)

    def made(lr: Tensor, hr: Tensor) -> Tensor:
        with torch.no_grad():
            raw = frozen.decoded(restored(restorer, frozen.encoded(enlarged(lr))))
            return finish(raw, lr, Size(*hr.shape[-2:]), colour, next(turn))

    return made

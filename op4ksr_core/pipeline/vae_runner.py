"""The autoencoder's half of a host on diffusers' models: where it is kept, in what pass it runs, encode and decode."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..model.finite import check_finite
from ..model.interfaces import Vae
from ..model.vae import compile_norms, decode, encode, finish_vae
from ..model.vae_passes import passes_of, passing
from ..picture.resample import channels_last
from ..progress import Progress
from ..settings import Execution
from ..weights.configs import vae_layout
from .residency import Resident

REMEDY = "Use bfloat16 or float32 (--dtype)."


class VaeRunner:
    """Encodes and decodes whole pictures by the autoencoder at `path`, which `load` reads.

    `f16` says whether it compresses 16x where its files do not. `vae_pass`, one of settings.PASSES, says how the next
    picture is run.
    """

    def __init__(
        self,
        path: Path,
        f16: bool | None,
        load: Callable[[], Vae],
        device: torch.device,
        dtype: torch.dtype,
        execution: Execution,
    ):
        self.path, self.f16, self.device, self.dtype, self.execution = path, f16, device, dtype, execution
        self._read = load
        self.model = Resident(self._load, device)
        self.vae_pass = self.passes[0]

    @property
    def passes(self) -> tuple[str, ...]:
        """The ways that the VAE may go, the first wanted most."""
        if self.execution.vae_pass:
            return (self.execution.vae_pass,)
        return passes_of(self.device) if self.execution.lean else ("whole",)

    @cached_property
    def layout(self) -> tuple[tuple[int, ...], int]:
        """(channels of the VAE's levels, picture px per latent px), from the file's header: what does not fit in
        memory is refused before a model is loaded."""
        return vae_layout(self.path, self.f16)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the levels, from the picture inwards."""
        return self.layout[0]

    @property
    def latent_factor(self) -> int:
        """Picture px per latent px: 16, 8 or 4."""
        return self.layout[1]

    def encode(self, padded: Tensor, posterior_seed: int | None, residency: str, report: Progress) -> Tensor:
        """Picture (B, 3, H, W) in [0, 1] -> latent, float32. Raises PrecisionError on NaN or infinity."""
        with self.model.use(residency) as vae, passing(vae.encoder, self.vae_pass, "encode", report):
            z = encode(vae, channels_last(padded.to(self.dtype)), posterior_seed)
        return check_finite(z, "The VAE's encoder", self.dtype, REMEDY).float().contiguous()

    def decode(self, z: Tensor, residency: str, report: Progress) -> Tensor:
        """Latent -> picture. Raises PrecisionError on NaN or infinity."""
        with self.model.use(residency) as vae, passing(vae.decoder, self.vae_pass, "decode", report):
            picture = decode(vae, channels_last(z.to(self.dtype)))
        return check_finite(picture, "The VAE's decoder", self.dtype, REMEDY)

    def _load(self) -> Vae:
        vae = self._read()
        if not self.execution.lean:
            return vae
        finish_vae(vae).to(memory_format=torch.channels_last)
        return compile_norms(vae) if self.execution.compiled else vae

"""Where a model's parts come from, and how they are loaded."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..files import at_home
from ..paths import EMBEDDED
from .adapters import Adapter, find_adapters, merge_adapter
from .configs import header_shapes, transformer_config, vae_layout
from .loading import load_transformer, load_vae
from .prompt_files import load_prompt


@dataclass(frozen=True)
class Sources:
    """Where a model's parts come from."""

    transformer: Path
    vae: Path
    prompt: Path
    f16: bool | None = None
    head: str = "auto"
    adapters: tuple[Path, ...] = ()
    adapter_scale: float = 1.0
    compensation: Path | None = None
    """The detail network; the bundled one without it."""

    @classmethod
    def find(
        cls,
        folder: str | Path | None = None,
        *,
        transformer: str | Path | None = None,
        vae: str | Path | None = None,
        prompt: str | Path | None = None,
        f16: bool | None = None,
        head: str = "auto",
        adapters: Iterable[str | Path] = (),
        adapter_scale: float = 1.0,
        compensation: str | Path | None = None,
    ) -> "Sources":
        """The parts of a diffusers folder (`transformer`, `vae`, `prompt.safetensors`), each named one in its place.

        Raises WeightsError where a part is neither named nor in a folder, or the prompt file is missing.
        """

        def part(given: str | Path | None, name: str) -> Path:
            if given is not None:
                return at_home(given)
            if folder is None:
                raise WeightsError(f"No {name} was given: name a model folder, or the {name} itself.")
            return at_home(folder) / name

        prompt_path = part(prompt, "prompt.safetensors")
        if not prompt_path.exists():
            raise WeightsError(f"{prompt_path} is missing. `op4ksr embed-prompt` makes it from the text encoders.")
        places = tuple(at_home(a) for a in adapters)
        detail = None if compensation is None else at_home(compensation)
        parts = part(transformer, "transformer"), part(vae, "vae"), prompt_path
        return cls(*parts, f16, head, places, adapter_scale, detail)

    @cached_property
    def found_adapters(self) -> dict[str, list[Adapter]]:
        """The adapters by part, read once."""
        found: dict[str, list[Adapter]] = {"transformer": [], "vae": []}
        for path in self.adapters:
            for part, adapter in find_adapters(path).items():
                found[part].append(adapter)
        return found

    @property
    def is_bundled(self) -> bool:
        """Whether this is the bundled model as it is, which needs no diffusers to be run."""
        return not self.adapters and self.transformer == EMBEDDED / "transformer" and self.vae == EMBEDDED / "vae"

    def check(self) -> None:
        """Reads the headers of all files, and the adapters: what cannot be loaded is said before the first picture.
        Raises WeightsError, SettingError."""
        config = transformer_config(header_shapes(self.transformer), self.transformer)
        self._check_prompt(config["joint_attention_dim"], config["pooled_projection_dim"])
        vae_layout(self.vae, self.f16)
        _ = self.found_adapters

    def _check_prompt(self, *wanted: int) -> None:
        widths = tuple(part.shape[-1] for part in self.load_prompt())
        if widths != wanted:
            raise WeightsError(
                f"{self.prompt} holds widths {widths[0]} and {widths[1]}, but the transformer {self.transformer} wants "
                f"{wanted[0]} and {wanted[1]}. Make the prompt file with this model's text encoders."
            )

    def load_prompt(self) -> tuple[Tensor, Tensor]:
        """(sequence, pooled) of the fixed prompt."""
        return load_prompt(self.prompt)

    def load_transformer(self, dtype: torch.dtype, plain: bool = False) -> Any:
        """The transformer with its adapters merged. Raises WeightsError, also where the prompt does not fit it."""
        model = load_transformer(self.transformer, dtype, plain)
        for adapter in self.found_adapters["transformer"]:
            merge_adapter(model, adapter, self.adapter_scale)
        self._check_prompt(model.config.joint_attention_dim, model.config.pooled_projection_dim)
        return model

    def load_vae(self, dtype: torch.dtype, plain: bool = False) -> Any:
        """The VAE with its adapters merged, in diffusers' own layers or `plain` ones. Raises WeightsError."""
        vae = load_vae(self.vae, dtype, self.f16, self.head, plain)
        for adapter in self.found_adapters["vae"]:
            merge_adapter(vae.encoder, adapter, self.adapter_scale)
        return vae

"""How a model is run. None of it changes the picture by more than docs/performance.md says."""

from dataclasses import dataclass

from .errors import SettingError
from .model.attention import check_attention
from .model.vae_passes import PASSES


@dataclass(frozen=True)
class Execution:
    """Ways to run the models that can be chosen. Raises SettingError on an unknown one.

    fp8: the transformer's weights in 8 bits, and its products where the card can.
    compiled: through torch.compile, which takes minutes at first: the transformer's blocks, and where the VAE's lean
    layers run in one pass, their norms.
    attention: the transformer's attention kernel, one of `attention.ATTENTIONS`.
    vae_pass: one of `vae_strips.PASSES`; None leaves it to the memory plan.
    lean: False runs diffusers' own layers, the slow twins, which take more time and memory for the same picture.
    """

    fp8: bool = False
    compiled: bool = False
    attention: str = "auto"
    vae_pass: str | None = None
    lean: bool = True

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if self.vae_pass not in (None, *PASSES):
            raise SettingError(f"The VAE's pass must be one of {', '.join(PASSES)}, got {self.vae_pass!r}.")

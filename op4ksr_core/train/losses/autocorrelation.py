"""L_AP, OP4KSR's autocorrelation periodicity loss (arXiv 2605.13457), as a module."""

from collections.abc import Sequence

from torch import Tensor, nn

from ...lattice.autocorrelation import LAGS, Highpass, Normalise, autocorrelation_loss


class AutocorrelationLoss(nn.Module):
    """`autocorrelation_loss` with its settings."""

    def __init__(
        self,
        lags: Sequence[int] = LAGS,
        remove_mean: bool = True,
        normalise: Normalise = "none",
        highpass: Highpass = "none",
    ):
        super().__init__()
        self.lags, self.remove_mean, self.normalise, self.highpass = tuple(lags), remove_mean, normalise, highpass

    def forward(self, prediction_bchw: Tensor, target_bchw: Tensor) -> Tensor:
        return autocorrelation_loss(
            prediction_bchw, target_bchw, self.lags, self.remove_mean, self.normalise, self.highpass
        )

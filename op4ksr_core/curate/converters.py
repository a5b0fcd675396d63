"""Stage 2's models from their public files: pickles, of which only tensors are read.

`degradation`: DEResNet of MM-RealSR (arXiv 2203.05262), which S3Diff ships too (`de_net.pth`), as a program of
torch.export.
`aesthetic`: LAION's predictor (`sac+logos+ava1-l14-linearMSE.pth`), a stack of linear layers over CLIP ViT-L/14.
"""

import re
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import OutputError, SettingError, WeightsError
from ..files import at_home
from ..weights.convert import written_whole
from ..weights.files import listing
from ..weights.unet_adapters import read_pickle

FORMS = {"degradation": ".pt2", "aesthetic": ".safetensors"}
"""What can be made, and how its file ends."""

_WIDTHS, _BLOCKS, _STRIDED = (64, 64, 64, 128), 2, 2
"""DEResNet: channels of its four stages, residual blocks of each, and the stage that a convolution of stride 2 ends."""

_HIDDEN = 512
_LAION = re.compile(r"layers\.(\d+)\.(weight|bias)")
_SIDES = (16, 16384)
"""px that a program takes on a side."""


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class DegradationEstimator(nn.Module):
    """DEResNet: picture (B, 3, H, W) in [0, 1] -> (B, 2), how blurred and how noisy it is, 0 to 1.

    Each of the two has a network of its own. The names are those of the public weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_first = nn.ModuleList(nn.Conv2d(3, _WIDTHS[0], 3, padding=1) for _ in range(2))
        self.body = nn.ModuleList(_body() for _ in range(2))
        self.fc_degree = nn.ModuleList(
            nn.Sequential(nn.Linear(_WIDTHS[-1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1), nn.Sigmoid())
            for _ in range(2)
        )

    def forward(self, picture: Tensor) -> Tensor:
        degrees = []
        for first, body, degree in zip(self.conv_first, self.body, self.fc_degree, strict=True):
            degrees.append(degree(body(first(picture)).mean((2, 3))))
        return torch.cat(degrees, 1)


def _body() -> nn.Sequential:
    layers: list[nn.Module] = []
    for stage, width in enumerate(_WIDTHS):
        layers += [_Residual(width) for _ in range(_BLOCKS)]
        if stage == _STRIDED:
            layers.append(nn.Conv2d(width, _WIDTHS[stage + 1], 3, stride=2, padding=1))
    return nn.Sequential(*layers)


def convert_judge(source: str | Path, to: str | Path, form: str) -> str:
    """Writes one of FORMS, whole or not at all, and returns what it is, in a line. Raises SettingError on a wrong name,
    WeightsError where the source is something else, OutputError where `to` is there or cannot be written."""
    to = at_home(to)
    if to.suffix != FORMS[form]:
        raise SettingError(f"The form {form} is a {FORMS[form]} file: give -o such a name, not {to.name}.")
    if to.exists():
        raise OutputError(f"{to} is there already. Give another name with -o.")
    state = read_pickle(source)
    return {"degradation": _write_degradation, "aesthetic": _write_aesthetic}[form](str(source), state, to)


def _write_degradation(origin: str, held: dict, to: Path) -> str:
    state = held.get("params", held)
    model = DegradationEstimator().requires_grad_(False).eval()
    own = {key: value.shape for key, value in model.state_dict().items()}
    given = {key: value.shape for key, value in state.items() if isinstance(value, Tensor)}
    strange = sorted(key for key in own.keys() | given.keys() if own.get(key) != given.get(key))
    if strange:
        raise WeightsError(f"{origin} is no DEResNet for blur and noise: it differs in {listing(strange)}.")
    model.load_state_dict(state)
    height, width = (torch.export.Dim(name, min=_SIDES[0], max=_SIDES[1]) for name in ("height", "width"))
    example = torch.rand(1, 3, 64, 80)
    program = torch.export.export(model, (example,), dynamic_shapes=({2: height, 3: width},))
    with written_whole(to) as part, part.open("wb") as file:
        torch.export.save(program, file)
    return f"DEResNet, {sum(value.numel() for value in state.values())} weights: blur and noise"


def _write_aesthetic(origin: str, state: dict, to: Path) -> str:
    from safetensors.torch import save_file

    found = {key: value for key, value in state.items() if isinstance(value, Tensor) and _LAION.fullmatch(key)}
    numbers = sorted({int(key.split(".")[1]) for key in found})
    pairs = [(found.get(f"layers.{n}.weight"), found.get(f"layers.{n}.bias")) for n in numbers]
    weights = [weight for weight, bias in pairs if weight is not None and bias is not None and weight.ndim == 2]
    chained = all(before.shape[0] == after.shape[1] for before, after in pairwise(weights))
    if not weights or len(found) != len(state) or 2 * len(weights) != len(found) or not chained:
        raise WeightsError(f"{origin} is no stack of linear layers of LAION's: it has {listing(map(str, state))}.")
    if weights[-1].shape[0] != 1:
        raise WeightsError(f"{origin} ends in {weights[-1].shape[0]} numbers; an aesthetic score is one.")
    with written_whole(to) as part:
        save_file({key: value.float().contiguous() for key, value in found.items()}, part)
    return f"{len(weights)} linear layers over CLIP's {weights[0].shape[1]} numbers"

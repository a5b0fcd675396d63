"""The metrics by name: what they need, which way is better, and over what they are computed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError
from ..optional import is_installed
from ..picture.tiles import stepped_starts
from . import measures, reading, sharpness
from .niqe import niqe, niqe_pyiqa

PAIR, SINGLE, SET, EITHER = "pair", "single", "set", "either"
"""A picture and its ground truth; a picture alone; all pictures of a method at once."""


@dataclass(frozen=True)
class Tiles:
    """How a deep metric sees a large picture: tiles of `size` px, `stride` px apart (the size, if 0), joined by
    `aggregate` (mean, median or min). The last row and column are moved inwards, so that every pixel is seen."""

    size: int = 512
    stride: int = 0
    aggregate: str = "mean"

    def __post_init__(self) -> None:
        if self.size < 32:
            raise SettingError(f"Tiles want sides of 32 px or more, got {self.size}.")
        if not 0 <= self.stride <= self.size:
            raise SettingError(
                f"The stride of tiles must lie in 0 to their size, {self.size} (else pixels are left out);"
                f" got {self.stride}."
            )
        if self.aggregate not in ("mean", "median", "min"):
            raise SettingError(f"Tiles are joined by mean, median or min, got {self.aggregate!r}.")

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of every tile of a picture."""
        rows, columns = (stepped_starts(side, self.size, self.stride or self.size) for side in (height, width))
        return [(top, left) for top in rows for left in columns]

    def join(self, values: Sequence[float]) -> float:
        """One number from those of the tiles."""
        x = torch.tensor(values, dtype=torch.float64)
        if self.aggregate == "median":
            return float(x.quantile(0.5))
        return float(x.mean() if self.aggregate == "mean" else x.min())


@dataclass(frozen=True)
class Metric:
    """One metric. `library` is what it is computed with; `tiled` ones see tiles, the others whole pictures.

    Where `ideal` is given, the best value is the one nearest to it; else the highest or lowest.
    """

    name: str
    title: str
    kind: str
    higher: bool
    library: str = ""
    tiled: bool = False
    measure: Callable[..., float] | None = None
    ideal: float | None = None

    @property
    def heading(self) -> str:
        """Its title, and where good values lie."""
        direction = "↑" if self.higher else "↓"
        return f"{self.title} {direction if self.ideal is None else f'→ {self.ideal:g}'}"

    def goodness(self, value: float) -> float:
        """Greater is better."""
        if self.ideal is not None:
            return -abs(value - self.ideal)
        return value if self.higher else -value

    def missing(self) -> str:
        """Why it cannot run here and what to install, or nothing."""
        if self.library and not is_installed(self.library):
            remedy = {
                "scipy": "pip install 'op4ksr[evaluate]'",
                "torchmetrics": "pip install 'op4ksr[evaluate]'",
                "pyiqa": "pip install 'op4ksr[iqa]', which brings torchvision; its weights are downloaded at first use",
                "easyocr": "pip install 'op4ksr[ocr]'; its weights are downloaded at first use",
            }[self.library]
            return f"{self.library} is not installed: {remedy}"
        return ""

    def __call__(self, picture: Tensor, truth: Tensor | None, tiles: Tiles) -> float:
        """Its value for a picture (1, 3, H, W) in [0, 1], and its ground truth if it is a metric of pairs."""
        alone = self.kind == SINGLE or (self.kind == EITHER and truth is None)
        pictures = (picture,) if alone else (picture, truth)
        measure = self.measure or _pyiqa(self.name)
        if not self.tiled:
            return float(measure(*pictures))
        return tiles.join([float(measure(*parts)) for parts in _tiles(pictures, tiles)])


def _tiles(pictures: Sequence[Any], tiles: Tiles) -> Iterator[list[Tensor]]:
    for top, left in tiles.corners(*pictures[0].shape[-2:]):
        yield [x[..., top : top + tiles.size, left : left + tiles.size] for x in pictures]


@cache
def _pyiqa(name: str) -> Any:
    """pyiqa's metric, its weights downloaded at first use. Raises SettingError where it cannot be made."""
    import pyiqa

    try:
        return pyiqa.create_metric(name)
    except Exception as error:  # no network, no such weights, another version: whatever it is, it is reported
        raise SettingError(f"pyiqa could not make {name} ({type(error).__name__}: {error}).") from error


def pyiqa_fid(folder: str, truth: str) -> float:
    """Frechet inception distance of two folders of pictures, by pyiqa."""
    return float(_pyiqa("fid")(folder, truth))


def _deep(name: str, title: str, kind: str, higher: bool, tiled: bool = True) -> Metric:
    return Metric(name, title, kind, higher, "pyiqa", tiled)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", PAIR, True, "", False, measures.psnr),
        Metric("ssim", "SSIM", PAIR, True, "torchmetrics", False, measures.ssim),
        Metric("ms_ssim", "MS-SSIM", PAIR, True, "torchmetrics", False, measures.ms_ssim),
        Metric("vif", "VIF", PAIR, True, "torchmetrics", False, measures.vif),
        Metric("gmsd", "GMSD", PAIR, False, "", False, measures.gmsd),
        Metric("hf_energy_db", "HF energy dB", PAIR, True, "", False, sharpness.hf_energy_db, ideal=0.0),
        Metric("hf_correlation", "HF correlation", PAIR, True, "", False, sharpness.hf_correlation),
        Metric("niqe", "NIQE", SINGLE, False, "scipy", False, niqe),
        Metric("niqe-pyiqa", "NIQE (pyiqa)", SINGLE, False, "scipy", False, niqe_pyiqa),
        Metric("l_ap", "L_AP", PAIR, False, "", False, measures.l_ap),
        Metric("periodicity", "lattice", EITHER, False, "", False, measures.periodicity),
        _deep("lpips", "LPIPS", PAIR, False),
        _deep("dists", "DISTS", PAIR, False),
        _deep("topiq_fr", "TOPIQ-FR", PAIR, True),
        _deep("fsim", "FSIM", PAIR, True),
        _deep("afine_fr", "A-FINE FR", PAIR, False),
        _deep("maniqa", "MANIQA", SINGLE, True),
        _deep("maniqa-pipal", "MANIQA (PIPAL)", SINGLE, True),
        _deep("hyperiqa", "HyperIQA", SINGLE, True),
        _deep("qalign", "Q-Align", SINGLE, True),
        _deep("afine_nr", "A-FINE NR", SINGLE, False),
        _deep("musiq", "MUSIQ", SINGLE, True),
        _deep("clipiqa", "CLIPIQA", SINGLE, True),
        _deep("topiq_nr", "TOPIQ-NR", SINGLE, True),
        _deep("topiq_iaa", "TOPIQ-IAA", SINGLE, True),
        _deep("nima", "NIMA", SINGLE, True),
        Metric("ocr_acc", "OCR ACC", PAIR, True, "easyocr", False, reading.accuracy),
        Metric("ocr_ned", "OCR NED", PAIR, True, "easyocr", False, reading.ned),
        _deep("fid", "FID", SET, False, tiled=False),
    )
}
"""Every metric, in the order of tables."""

FORMER_NAMES = {"detail": "hf_energy_db", "right": "hf_correlation"}
"""Names of version 0.1, taken and written beside the new ones until 0.4."""

LOCAL = tuple(name for name, metric in METRICS.items() if metric.library not in ("pyiqa", "easyocr"))
"""Those that need no download."""


def find_metrics(names: Sequence[str], with_truth: bool) -> tuple[list[Metric], dict[str, str]]:
    """The metrics of these names (`all` and `local` are lists of their own) that can run, and why others cannot.

    Raises SettingError on an unknown name, or where none can run.
    """
    wanted: dict[str, None] = {}
    for name in names:
        name = FORMER_NAMES.get(name, name)
        wanted |= dict.fromkeys({"all": METRICS, "local": LOCAL}.get(name, (name,)))
    unknown = [name for name in wanted if name not in METRICS]
    if unknown:
        raise SettingError(f"There is no metric {', '.join(unknown)}; there are {', '.join(METRICS)}, all and local.")
    chosen, absent = [], {}
    for metric in METRICS.values():
        if metric.name in wanted:
            reason = metric.missing()
            if not with_truth and metric.kind not in (SINGLE, EITHER):
                reason = "it compares with a ground truth: name one with --gt"
            if reason:
                absent[metric.name] = reason
            else:
                chosen.append(metric)
    if not chosen:
        raise SettingError("No metric can run: " + "; ".join(f"{name}: {why}" for name, why in absent.items()) + ".")
    return chosen, absent

"""The periodicity inspector: is there a lattice in the picture, of what period, how strong, and where.

A decoder or a one-step transformer can leave a faint pattern that repeats every P px over the whole picture
(OP4KSR, arXiv 2605.13457, figures 2 and 6). Against a photo it has three marks: its energy sits on exact multiples
(k/P, l/P) of one frequency, it keeps its phase over unrelated regions, and it is there in flat areas too. So:

1. luma, high-passed, each pixel weighted by 1 / (local variance + 1): flat areas speak, edges and textures hardly do;
2. its spectrum over a local background (geometric mean of the neighbourhood, along the axes for the axes);
3. the comb: for every period, how far the points that belong to it alone stand above chance;
4. demodulation in blocks at the points that stand out: the lattice's amplitude and phase everywhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import ImageError, SettingError
from .losses.autocorrelation import LAGS, autocorrelation, quadrants

SHORTEST, LONGEST = 4, 128
"""Periods that are searched, in px."""
JPEG = 8
_HIGH_PASS = 33  # px; its response is divided out of every amplitude
_LOCAL = 17  # px over which the local variance is taken
_ORDERS = 4  # harmonics of each axis that a period between whole px is tried with,
_TRIALS = 1.75  # and how much more certain it must be: there are many, and few points of each
_PERIODS_WANTED = 8  # periods that the shorter side must hold for a search
_CERTAIN = 8.0  # comb statistic, see docs/periodicity.md
_TRACE = 0.05  # amplitude in 1/255 that is not told of
_VISIBLE = 0.35  # amplitude in 1/255 at which the score is one half
_PEAKS = 160  # waves that make up one lattice
_COHERENT, _COHERENT_BETWEEN = 0.4, 0.85  # of a faint lattice of whole, and of fractional period
_COHERENT_STRONG = 0.7  # of one of 3/255 and more
_PRIOR = 10.0  # how strongly a block is taken to have the lattice that the whole picture has
_NOTCHED = 0.003  # share of the spectrum that notches may take
_TEXTURE = 0.3  # normalised autocorrelation of a real texture


@dataclass(frozen=True)
class Peak:
    """One point of the lattice: cycles per px down and across, amplitude in 1/255, dB over the background."""

    fy: float
    fx: float
    amplitude: float
    decibels: float


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    score: 0 (no lattice) to 1. verdict: `clean`, `lattice` or `texture`; reason: why, in plain sentences.
    period: px, 0 where there is none; it may be fractional after a resize. amplitude: 1/255, in the tenth of the
    flat area where the lattice is strongest. confidence: 0 to 1. coherence: how far all blocks agree on the phase,
    0 to 1. jpeg_grid: whether the 8-px grid of JPEG blocks stands out. suspects: dB over chance of each period asked
    for. autocorrelation: (quadrants, 2, lags) of luma in [0, 1]. ap_loss: L_AP against the reference, if there was
    one. heat: (blocks down, blocks across), amplitude in 1/255.
    """

    score: float
    verdict: str
    reason: str
    period: float
    amplitude: float
    confidence: float
    coherence: float
    jpeg_grid: bool
    suspects: dict[int, float]
    peaks: tuple[Peak, ...]
    autocorrelation: Tensor | None
    ap_loss: float | None
    heat: Tensor
    spectrum: Tensor = field(repr=False)
    lattice: "Lattice | None" = field(repr=False)


@dataclass(frozen=True)
class Lattice:
    """A found lattice: complex waves at (fy, fx), of which `kept` is not chance, `gain` times as strong in a block."""

    fy: Tensor
    fx: Tensor
    amplitude: Tensor
    kept: Tensor
    gain: Tensor
    block: int


def luma255(image_chw: Tensor) -> Tensor:
    """Full-range BT.601 luma (H, W) in [0, 255] of (1 | 3 | 4, H, W) in [0, 1], without alpha. Raises ImageError."""
    if image_chw.ndim != 3 or image_chw.shape[0] not in (1, 3, 4):
        raise ImageError(f"The inspector takes one picture (1, 3 or 4, H, W), got {list(image_chw.shape)}.")
    if not bool(torch.isfinite(image_chw).all()):
        raise ImageError("The picture has NaN or infinite values; find the node that made them.")
    x = image_chw.float()
    if len(x) == 1:
        return x[0] * 255
    return torch.einsum("chw,c->hw", x[:3], x.new_tensor([0.299, 0.587, 0.114])) * 255


def box(x: Tensor, size: int) -> Tensor:
    """Mean over size x size px of (H, W), borders mirrored."""
    for axis in (0, 1):
        length, half = x.shape[axis], size // 2
        index = torch.arange(-half - 1, length + half).abs()
        index = torch.where(index >= length, 2 * (length - 1) - index, index).clamp(0, length - 1)
        total = x.index_select(axis, index).cumsum(axis)
        x = (total.narrow(axis, size, length) - total.narrow(axis, 0, length)) / size
    return x


def high_passed(y: Tensor) -> Tensor:
    """(H, W) less its mean over 33 x 33 px."""
    residual = y - y.mean()
    return residual - box(residual, _HIGH_PASS)


def whitened(y: Tensor) -> tuple[Tensor, Tensor]:
    """Luma (H, W) -> (high-passed luma, weight 1 / (local variance + 1)), so that flat areas count."""
    residual = high_passed(y)
    return residual, 1 / (box(residual.square(), _LOCAL).clamp_min(0) + 1)


def high_pass_gain(fy: Tensor, fx: Tensor) -> Tensor:
    """What the high-pass leaves of a wave of these frequencies in cycles per px."""

    def mean_of_wave(f: Tensor) -> Tensor:
        wave = torch.sin(math.pi * _HIGH_PASS * f) / (_HIGH_PASS * torch.sin(math.pi * f))
        return torch.where(f == 0, torch.ones_like(f), wave)

    return 1 - mean_of_wave(fy) * mean_of_wave(fx)


def _sliding(x: Tensor, size: int, axis: int) -> Tensor:
    """Sum over `size` neighbours; axis 0 goes around, as a spectrum does."""
    length, half = x.shape[axis], size // 2
    index = torch.arange(-half - 1, length + half)
    index = index % length if axis == 0 else index.abs().clamp(max=length - 1)
    total = x.index_select(axis, index).double().cumsum(axis)
    return (total.narrow(axis, size, length) - total.narrow(axis, 0, length)).float()


def over_background(power: Tensor) -> Tensor:
    """Power spectrum (rfft2 layout) over its local background: about 1 on average where there is only noise.

    The background is the geometric mean of 13x13 bins without the inner 5x5, times e^0.577 (the mean of an
    exponential over its geometric mean); on the axes, where straight edges pile up, of 25 bins along the axis.
    """
    logs = (power + 1e-9).log()
    background = (_sliding(_sliding(logs, 13, 0), 13, 1) - _sliding(_sliding(logs, 5, 0), 5, 1)) / 144
    for row in (-2, -1, 0, 1, 2):
        line = logs[row : row + 1 or None]
        background[row] = ((_sliding(line, 25, 1) - _sliding(line, 5, 1)) / 20)[0]
    for column in (0, 1, 2):
        line = logs[:, column : column + 1]
        background[:, column] = ((_sliding(line, 25, 0) - _sliding(line, 5, 0)) / 20)[:, 0]
    return (logs - background - 0.5772).exp()


def spectrum(residual: Tensor, weight: Tensor) -> Tensor:
    """`over_background` of the weighted residual under a Hann window: (H, W // 2 + 1)."""
    windows = (torch.hann_window(side, periodic=True) for side in residual.shape)
    tapered = weight * residual * next(windows)[:, None] * next(windows)
    return over_background(torch.fft.rfft2(tapered).abs().square())


def lattice_points(frequency: float, orders: int = LONGEST, own: bool = True) -> tuple[Tensor, Tensor]:
    """(fy, fx) of the half-plane of multiples (k, l) of `frequency` up to half a cycle per px.

    `own` leaves out those of shorter periods: gcd(k, l) = 1 stays.
    """
    top = min(orders, int(0.5 / frequency + 1e-6))
    rows, columns = torch.meshgrid(torch.arange(-top, top + 1), torch.arange(top + 1), indexing="ij")
    keep = (columns > 0) | (rows > 0)
    if own:
        keep &= torch.gcd(rows, columns) == 1
    return rows[keep].double() * frequency, columns[keep].double() * frequency


def ratio_at(ratio: Tensor, fy: Tensor, fx: Tensor, shape: torch.Size) -> Tensor:
    """`ratio` of a transform of pictures of `shape`, at the bins nearest to these frequencies."""
    rows = torch.round(fy * shape[0]).long() % shape[0]
    return ratio[rows, torch.round(fx * shape[1]).long().clamp(max=ratio.shape[1] - 1)]


def comb(ratio: Tensor, shape: torch.Size, frequency: float, orders: int = LONGEST) -> float:
    """How far a frequency's own lattice points stand above chance, in standard deviations of chance.

    A point of ratio r weighs r - ln r - 1 where r > 1: the log-likelihood of a wave there. Over noise, r being
    exponential, that has mean 0.149 and standard deviation 0.417.
    """
    r = ratio_at(ratio, *lattice_points(frequency, orders), shape)
    weight = torch.where(r > 1, r - r.clamp_min(1).log() - 1, 0)
    return float((weight.sum() - 0.1485 * len(r)) / (0.417 * math.sqrt(len(r))))


def dominant(statistic: dict[float, float], bins: int) -> float:
    """The period that explains the combs best, 0 where none is certain.

    The longest multiple that has energy of its own stands for its divisors; the 8-px grid of JPEG and its half stand
    back behind any other. Periods that a transform of `bins` cannot tell from a whole one are that one.
    """
    certain = {period: z for period, z in statistic.items() if z > _CERTAIN}
    grid = {p: z for p, z in certain.items() if min(abs(1 / p - 1 / q) for q in (JPEG, JPEG / 2)) < 2.5 / bins}
    others = {period: z for period, z in certain.items() if period not in grid}
    stand_back = others and max(others.values()) > 0.6 * max(grid.values(), default=0.0)
    family = others if stand_back else grid
    if not family:
        return 0.0
    best = max(family, key=lambda period: family[period])
    multiples = [
        period
        for period, z in family.items()
        if z > 0.3 * family[best] and round(period / best) > 1 and _same(period / round(period / best), best, bins)
    ]
    longest = max(multiples, default=best)
    whole = [p for p in statistic if p == round(p) and _same(p, longest, bins)]
    return max(whole, key=lambda period: statistic[period], default=longest)


def _same(a: float, b: float, bins: int) -> bool:
    return abs(1 / a - 1 / b) <= 0.75 / bins


def find_period(ratio: Tensor, shape: torch.Size, longest: int) -> tuple[float, dict[float, float]]:
    """(dominant period in px or 0, comb statistic of every period tried).

    Whole periods with all their harmonics, and every bin between (a picture that was resized) with the low ones.
    """
    bins = max(shape)
    whole = {float(p): comb(ratio, shape, 1 / p) for p in range(SHORTEST, longest + 1)}
    tried = range(bins // longest + 1, bins // SHORTEST)
    between = {bins / n: comb(ratio, shape, n / bins, _ORDERS) / _TRIALS for n in tried}
    statistic = between | whole
    return dominant(statistic, bins), statistic


def refine(residual: Tensor, weight: Tensor, fy: Tensor, fx: Tensor, period: float) -> float:
    """By what factor these frequencies must be multiplied so that blocks keep their phase from one to the next."""
    block = max(64, 4 * math.ceil(period))
    if min(residual.shape) < 3 * block:
        return 1.0
    local = demodulate(weight * residual, fy[:1], fx[:1], block)[0]
    down = float((local[1:] * local[:-1].conj()).sum().angle())
    across = float((local[:, 1:] * local[:, :-1].conj()).sum().angle())
    turn = 2 * math.pi * block * float(fy[0] ** 2 + fx[0] ** 2)
    factor = 1 + (down * float(fy[0]) + across * float(fx[0])) / turn
    return factor if abs(factor - 1) * max(residual.shape) < period else 1.0


def _waves(f: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """cos and -sin of 2 pi f n for n = start .. start + length - 1: (length, len(f)) each."""
    angle = 2 * math.pi * (torch.arange(start, start + length, dtype=torch.float64)[:, None] * f.double())
    return angle.cos().float(), -angle.sin().float()


def demodulate(signal: Tensor, fy: Tensor, fx: Tensor, block: int) -> Tensor:
    """sum of signal * exp(-2 pi i (fy row + fx column)) over every block: complex (len(fy), blocks down, across).

    (H, W) is cut to whole blocks; rows and columns count from the picture's origin.
    """
    down, across = (side // block for side in signal.shape)
    signal = signal[: down * block, : across * block]
    columns, which_x = torch.unique(fx, return_inverse=True)
    cosine, sine = _waves(columns, 0, across * block)
    strips = signal.reshape(-1, across, block).transpose(0, 1)  # (across, H, block)
    local = torch.cat([cosine, sine], 1).reshape(across, block, -1)
    along_x = torch.bmm(strips, local)  # (across, H, 2 n)
    count = len(columns)
    partial = torch.complex(along_x[..., :count], along_x[..., count:])  # (across, H, n)
    out = []
    for row_frequency, j in zip(fy, which_x, strict=True):
        cosine, sine = _waves(row_frequency[None], 0, down * block)
        wave = torch.complex(cosine[:, 0], sine[:, 0])
        out.append((partial[..., j] * wave).reshape(across, down, block).sum(-1).mT)
    return torch.stack(out)


def _smooth(x: Tensor, size: int = 5) -> Tensor:
    """Sum over size x size blocks, borders repeated; real (..., h, w)."""
    half = size // 2
    flat = x.reshape(-1, 1, *x.shape[-2:])
    padded = torch.nn.functional.pad(flat, (half, half, half, half), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, size, 1).reshape(x.shape) * size * size


def peak_points(ratio: Tensor, shape: torch.Size, frequency: float) -> tuple[Tensor, Tensor, Tensor]:
    """(fy, fx, ratio) of the lattice points of `frequency` that stand out, strongest first.

    The lowest ones, where the lattice has most of its energy and a photo too, need to stand out less.
    """
    fy, fx = lattice_points(frequency, own=False)
    r = ratio_at(ratio, fy, fx, shape)
    low = (fy.abs().maximum(fx) < 2.5 * frequency) & (r > 2)
    order = torch.where(low, r + 1e9, r).argsort(descending=True)[:_PEAKS]
    order = order[(r > 4)[order] | low[order]]
    order = order[r[order].argsort(descending=True)]
    return fy[order], fx[order], r[order]


def block_size(shape: torch.Size) -> int:
    """Side in px of the blocks that the lattice is followed over."""
    return 32 if min(shape) >= 1024 else 16 if min(shape) >= 256 else 8


def measure(
    residual: Tensor, weight: Tensor, fy: Tensor, fx: Tensor, ratio: Tensor
) -> tuple[Lattice, Tensor, Tensor, float]:
    """The lattice of these waves, its amplitude and the flat weight by block, and how far blocks agree on its phase."""
    block = block_size(residual.shape)
    passed = high_pass_gain(fy, fx)[:, None, None].float()
    local = demodulate(weight * residual, fy, fx, block)
    down, across = local.shape[-2:]
    share = weight[: down * block, : across * block].reshape(down, block, across, block).sum((1, 3))
    amplitude = (2 * local.sum((1, 2)) / share.sum() / passed[:, 0, 0]).to(torch.complex64)
    around = torch.complex(_smooth(local.real), _smooth(local.imag)) * 2 / _smooth(share) / passed
    power = amplitude.abs().square().sum()
    in_phase = (amplitude.conj()[:, None, None] * around).real.sum(0)
    strongest = around[amplitude.abs().argmax()]
    there = share * strongest.abs()  # blocks without the lattice have little say
    coherence = float((there * strongest).sum().abs() / (there * strongest.abs()).sum().clamp_min(1e-9))
    trust = _smooth(share) * power / 4  # signal to noise of a block's own gain
    gain = (trust * in_phase / power + _PRIOR) / (trust + _PRIOR)
    kept = (1 - 1 / ratio).clamp_min(0)
    heat = (in_phase / power.sqrt()).clamp_min(0) * trust / (trust + _PRIOR)
    return Lattice(fy, fx, amplitude, kept, gain.clamp_min(0), block), heat, share, coherence


def strongest_tenth(heat: Tensor, share: Tensor) -> float:
    """The amplitude that a tenth of the flat area reaches."""
    order = heat.flatten().argsort(descending=True)
    reached = share.flatten()[order].cumsum(0) / share.sum()
    return float(heat.flatten()[order][int((reached < 0.1).sum().clamp(max=len(order) - 1))])


def repeat_of_texture(residual: Tensor, longest: int) -> tuple[float, int]:
    """(normalised autocorrelation, lag in px) of the strongest repeat along an axis, in the middle 1024 px."""
    height, width = (min(1024, side) for side in residual.shape)
    top, left = (residual.shape[0] - height) // 2, (residual.shape[1] - width) // 2
    x = residual[top : top + height, left : left + width]
    power = torch.fft.rfft2(x, s=(2 * height, 2 * width)).abs().square()
    shared = torch.fft.irfft2(power)
    best = (0.0, 0)
    for line, length in ((shared[:, 0], height), (shared[0], width)):
        lags = torch.arange(longest + 2)
        curve = line[lags] / line[0].clamp_min(1e-9) * length / (length - lags)
        inner = curve[1:-1]
        top_of = (inner > curve[:-2]) & (inner > curve[2:]) & (lags[1:-1] >= SHORTEST)
        rise = inner - torch.cummin(curve, 0).values[1:-1]  # over the dip before it
        height_of = torch.where(top_of & (rise > _TEXTURE), inner, 0)
        lag = int(height_of.argmax())
        best = max(best, (float(height_of[lag]), lag + 1))
    return best if best[0] > _TEXTURE else (0.0, 0)


def suspect_decibels(ratio: Tensor, shape: torch.Size, period: int) -> float:
    """Mean of a period's own lattice points over their background, dB: 0 is chance."""
    return 10 * math.log10(max(1e-3, float(ratio_at(ratio, *lattice_points(1 / period), shape).mean())))


def inspect(
    image_chw: Tensor, reference_chw: Tensor | None = None, suspects: Sequence[int] = (8, 16, 32), search: bool = True
) -> Inspection:
    """Looks for a lattice in one picture (1, 3 or 4, H, W) in [0, 1]; alpha is left out.

    `suspects` are the periods whose strength is told, in px; with `search` off they are the only ones that can be
    found. The reference, ground truth or upscaled input of the same size, is what L_AP compares with. Raises
    ImageError on NaN, a picture shorter than 2 periods or 32 px, or sizes that differ; SettingError on a period
    outside 4..128 px.
    """
    luma = luma255(image_chw)
    _check(luma, suspects, reference_chw)
    residual, weight = whitened(luma)
    ratio = spectrum(residual, weight)
    longest = min(LONGEST, min(luma.shape) // _PERIODS_WANTED)
    if search:
        period, statistic = find_period(ratio, luma.shape, longest)
    else:
        statistic = {float(p): comb(ratio, luma.shape, 1 / p) for p in suspects}
        period = dominant(statistic, max(luma.shape))
    found = _follow(residual, weight, ratio, period)
    if found is not None and found.amplitude < _TRACE:
        found = None
    texture = repeat_of_texture(residual, min(LONGEST, min(luma.shape) // 2 - 2))
    verdict, reason = _judge(found, texture, statistic)
    curves = autocorrelation(quadrants(luma[None, None] / 255))[:, 0, 0] if min(luma.shape) // 2 > max(LAGS) else None
    lattice = found if verdict == "lattice" else None
    amplitude = lattice.amplitude if lattice else 0.0
    z = max(statistic.values(), default=0.0)
    certainty = z**2 / (z**2 + _CERTAIN**2)
    grid = is_jpeg_grid(luma)
    if grid and lattice and lattice.period == JPEG:
        reason = f"This is JPEG's block grid. {reason}"
    coherence = found.coherence if found else 0.0
    return Inspection(
        score=amplitude**2 / (amplitude**2 + _VISIBLE**2),
        verdict=verdict,
        reason=reason,
        period=_told_period(verdict, found, texture),
        amplitude=amplitude,
        confidence={"lattice": certainty * coherence, "clean": 1 - certainty, "texture": max(texture[0], 0.5)}[verdict],
        coherence=coherence,
        jpeg_grid=grid,
        suspects={p: suspect_decibels(ratio, luma.shape, p) for p in suspects},
        peaks=found.peaks if found else (),
        autocorrelation=curves,
        ap_loss=_ap_loss(image_chw, reference_chw),
        heat=lattice.heat if lattice else torch.zeros(1, 1),
        spectrum=ratio,
        lattice=lattice.lattice if lattice else None,
    )


def _told_period(verdict: str, found: "_Found | None", texture: tuple[float, int]) -> float:
    """A lattice's period; a texture's, which its repeat tells better; else 0."""
    if verdict == "texture" and texture[1]:
        return float(texture[1])
    return found.period if found else 0.0


def is_jpeg_grid(luma: Tensor) -> bool:
    """Whether steps from px to px are larger at every eighth border, and there alone; a smooth wave has no such."""
    for axis in (0, 1):
        steps = luma.diff(dim=axis).abs().mean(1 - axis)
        steps = steps[: len(steps) // JPEG * JPEG].reshape(-1, JPEG).mean(0)
        border, others = steps[-1], steps[:-1]
        if border > 1.02 * others.max() and border - others.max() > 0.5 * (border - others.min()):
            return True
    return False


@dataclass(frozen=True)
class _Found:
    period: float
    lattice: Lattice
    heat: Tensor
    amplitude: float
    coherence: float
    peaks: tuple[Peak, ...]


def _follow(residual: Tensor, weight: Tensor, ratio: Tensor, period: float) -> _Found | None:
    """The waves of this period that stand out, followed over the picture."""
    if not period:
        return None
    fy, fx, r = peak_points(ratio, residual.shape, 1 / period)
    if len(fy) == 0:
        return None
    refined = period / refine(residual, weight, fy, fx, period)
    resolution = refined**2 / max(residual.shape)
    period = round(refined) if abs(refined - round(refined)) < 0.2 * resolution + 0.01 else refined
    fy, fx, r = peak_points(ratio, residual.shape, 1 / period)
    if len(fy) == 0:
        return None
    lattice, heat, share, coherence = measure(residual, weight, fy, fx, r)
    sizes, decibels = lattice.amplitude.abs(), 10 * r.log10()
    peaks = tuple(Peak(*map(float, row)) for row in zip(fy, fx, sizes, decibels, strict=True))
    return _Found(period, lattice, heat, strongest_tenth(heat, share), coherence, peaks)


def _judge(found: _Found | None, texture: tuple[float, int], statistic: dict[float, float]) -> tuple[str, str]:
    """Verdict and its reason."""
    repeat = f"Luma repeats every {texture[1]} px (correlation {texture[0]:.2f}), as a fence, a wall or a fabric does."
    best = max(statistic.values(), default=0.0)
    if found is None:
        if texture[1]:
            return "texture", f"{repeat} No period keeps its phase over the flat areas."
        return "clean", (
            f"No period stands out by {_TRACE:g}/255 or more; the best comb is {best:.1f} (a lattice: {_CERTAIN:g})."
        )
    where = f"period {found.period:.4g} px, amplitude {found.amplitude:.2f}/255 where it is strongest"
    if found.coherence >= _wanted_coherence(found):
        return "lattice", (
            f"A lattice of {where}: {len(found.peaks)} of its harmonics stand out, and blocks all over the picture "
            f"agree on its phase ({found.coherence:.2f} of 1), flat areas included."
        )
    why = f"Something repeats with {where}, but blocks disagree on its phase ({found.coherence:.2f} of 1)"
    return "texture", f"{why}: it belongs to things in the picture. {repeat if texture[1] else ''}".strip()


def _wanted_coherence(found: _Found) -> float:
    """A faint lattice drowns in places; a strong one that does not keep its phase is none."""
    least = _COHERENT if found.period == round(found.period) else _COHERENT_BETWEEN
    return least + (_COHERENT_STRONG - least) * min(1.0, max(0.0, found.amplitude - 1) / 2)


def _check(luma: Tensor, suspects: Sequence[int], reference_chw: Tensor | None) -> None:
    shortest = min(luma.shape)
    wrong = [p for p in suspects if not SHORTEST <= p <= LONGEST]
    if wrong:
        raise SettingError(f"Periods lie in {SHORTEST}..{LONGEST} px, got {', '.join(map(str, wrong))}.")
    needed = max(32, 2 * max(suspects, default=SHORTEST))
    if shortest < needed:
        raise ImageError(
            f"The picture is {luma.shape[1]}x{luma.shape[0]} px; periods up to {max(suspects, default=SHORTEST)} px "
            f"need at least {needed} px a side. Inspect the large picture, or ask for shorter periods."
        )
    if reference_chw is not None and reference_chw.shape[-2:] != luma.shape:
        size = "x".join(str(side) for side in reversed(reference_chw.shape[-2:]))
        raise ImageError(
            f"The reference is {size} px, the picture {luma.shape[1]}x{luma.shape[0]}: resize the reference first."
        )


def _ap_loss(image_chw: Tensor, reference_chw: Tensor | None) -> float | None:
    """L_AP of luma in [0, 1] against the reference; None without one, or where quadrants are too small for its lags."""
    if reference_chw is None or min(image_chw.shape[-2:]) // 2 <= max(LAGS):
        return None
    a, b = (autocorrelation(quadrants(luma255(x)[None, None] / 255)) for x in (image_chw, reference_chw))
    return float((a - b).square().mean())


def suppress(image_chw: Tensor, inspection: Inspection) -> Tensor:
    """The picture (C, H, W) in [0, 1] without the lattice that `inspect` found in it, training-free.

    First each channel's own waves at the lattice's frequencies, as strong as the lattice is in each block; then a comb
    of notches, three bins wide, that bring what the whole picture still has at these points down to its background.
    Without a lattice the picture comes back as it is; alpha is untouched.
    """
    lattice = inspection.lattice
    if lattice is None:
        return image_chw.clone()
    _, weight = whitened(luma255(image_chw))
    gain = spread(lattice.gain, lattice.block, image_chw.shape[-2:])
    out = image_chw.float().clone()
    for channel in range(min(3, len(out))):
        plane = out[channel] * 255
        amplitude = _amplitudes(high_passed(plane), weight, lattice)
        plane = plane - gain * waves(amplitude, lattice.fy, lattice.fx, plane.shape)
        out[channel] = notched(plane, 1 / inspection.period) / 255
    return out.clamp(0, 1)


def dithered(image: Tensor, seed: int = 0) -> Tensor:
    """The picture with uniform noise of one 8-bit step, so that rounding to 8 bits does not bring a faint lattice back.

    A lattice below half a step, taken away, would otherwise be rounded to where it was.
    """
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    return (image + noise / 255).clamp(0, 1)


def notched(plane: Tensor, frequency: float) -> Tensor:
    """(H, W) with 3x3 bins of its spectrum at every lattice point brought down to their background.

    In a small picture that would be much of the spectrum: where it is over 0.3 %, the plane comes back as it is.
    """
    if 9 / (plane.numel() * frequency**2) > _NOTCHED:
        return plane
    transform = torch.fft.rfft2(plane)
    height, last = transform.shape[0], transform.shape[1] - 1
    fy, fx = lattice_points(frequency, own=False)
    rows, columns = torch.round(fy * height).long(), torch.round(fx * plane.shape[1]).long()
    power = transform.abs().square() + 1e-9
    background = _background_at(power.log(), rows, columns)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            i, j = rows + down, columns + across
            inside = (j >= 0) & (j <= last)
            i, j = i[inside] % height, j[inside]
            factor = (background[inside] / power[i, j]).sqrt().clamp(max=1)
            transform[i, j] *= factor
            mirrored = j == 0  # the first column holds both halves
            other = -i[mirrored] % height
            fresh = ~torch.isin(other, i[mirrored])
            transform[other[fresh], 0] *= factor[mirrored][fresh]
    return torch.fft.irfft2(transform, s=plane.shape)


def _background_at(logs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Background as in `over_background`, at these bins alone: 13x13 without 5x5, on the axes 25 without 5."""
    offset = torch.arange(-12, 13)
    near = offset.abs() <= 6
    far = offset.abs() > 2

    def mean_of_logs(down: Tensor, across: Tensor) -> Tensor:
        i = (rows[:, None] + down) % logs.shape[0]
        j = (columns[:, None] + across).abs().clamp(max=logs.shape[1] - 1)
        return logs[i, j].mean(1)

    grid = torch.cartesian_prod(offset[near], offset[near])
    grid = grid[(grid.abs() > 2).any(1)]
    still = torch.zeros_like(offset[far])
    square = mean_of_logs(grid[:, 0], grid[:, 1])
    along_x, along_y = mean_of_logs(still, offset[far]), mean_of_logs(offset[far], still)
    mean = torch.where(rows.abs() <= 2, along_x, torch.where(columns <= 2, along_y, square))
    return (mean + 0.5772).exp()


def _amplitudes(residual: Tensor, weight: Tensor, lattice: Lattice) -> Tensor:
    """The lattice's waves in this plane: complex amplitudes, shrunk as luma's were."""
    total = demodulate(weight * residual, lattice.fy, lattice.fx, lattice.block).sum((1, 2))
    down, across = (side // lattice.block * lattice.block for side in residual.shape)
    found = 2 * total / weight[:down, :across].sum() / high_pass_gain(lattice.fy, lattice.fx)
    return (found * lattice.kept).to(torch.complex64)


def spread(blocks: Tensor, block: int, shape: torch.Size) -> Tensor:
    """A value per block as a value per px (H, W), bilinear between the centres of blocks."""
    whole = [count * block for count in blocks.shape]
    fine = torch.nn.functional.interpolate(blocks[None, None].float(), size=whole, mode="bilinear")
    extra = (0, shape[1] - whole[1], 0, shape[0] - whole[0])
    return torch.nn.functional.pad(fine, extra, mode="replicate")[0, 0]


def waves(amplitude: Tensor, fy: Tensor, fx: Tensor, shape: torch.Size) -> Tensor:
    """sum of Re(amplitude exp(2 pi i (fy row + fx column))): (H, W)."""
    cos_y, sin_y = _waves(fy, 0, shape[0])
    cos_x, sin_x = _waves(fx, 0, shape[1])
    down = torch.complex(cos_y, -sin_y) * amplitude
    return torch.cat([down.real, down.imag], 1) @ torch.cat([cos_x, sin_x], 1).mT

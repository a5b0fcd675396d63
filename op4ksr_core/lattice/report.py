"""What the inspector found, as one picture: spectrum with peaks, autocorrelation, heat map and the verdict."""

import textwrap

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..picture.charts import COLOURS, INK, RED, Axis, Chart, Curve, font
from ..picture.convert import as_picture, as_tensor
from .autocorrelation import LAGS, autocorrelation
from .inspector import Inspection
from .mesh import Mesh
from .spectrum import high_passed, luma255

_SIDE, _GAP, _TOP = 460, 40, 40


def overlay(image_chw: Tensor, inspection: Inspection) -> Tensor:
    """The picture in grey (3, H, W), the lattice's local strength in red, full at 2/255, a mesh in blue, at 8/255."""
    lattice, mesh = mask(inspection, image_chw.shape[-2:]), mesh_map(inspection.mesh, image_chw.shape[-2:])
    grey = luma255(image_chw) / 255
    red = grey + (1 - grey) * lattice
    others = grey * (1 - lattice)
    return torch.stack([red * (1 - mesh), others * (1 - mesh), others + (1 - others) * mesh])


def mask(inspection: Inspection, shape: torch.Size) -> Tensor:
    """Local strength of the lattice at any size (H, W), in [0, 1]: its amplitude over 2/255."""
    heat = torch.nn.functional.interpolate(inspection.heat[None, None].float(), size=tuple(shape), mode="bilinear")
    return (heat[0, 0] / 2).clamp(0, 1)


def mesh_map(mesh: Mesh, shape: torch.Size) -> Tensor:
    """Where texture was drawn into soft areas, at any size (H, W), in [0, 1]: its strength over 8/255."""
    if not mesh.found:
        return torch.zeros(tuple(shape))
    spread = torch.nn.functional.interpolate(mesh.map[None, None], size=tuple(shape), mode="bilinear")
    return (spread[0, 0] / 8).clamp(0, 1)


def draw_report(image_chw: Tensor, inspection: Inspection) -> Tensor:
    """The report as a picture (3, 1060, 1040) in [0, 1]."""
    sheet = Image.new("RGB", (2 * _SIDE + 3 * _GAP, 2 * _SIDE + 2 * _GAP + _TOP + 20), "white")
    draw = ImageDraw.Draw(sheet)
    places = [(_GAP + i * (_SIDE + _GAP), _TOP + j * (_SIDE + _GAP)) for j in (0, 1) for i in (0, 1)]
    titles = ("Spectrum over its background", "Autocorrelation of luma", "Where (red: lattice, blue: mesh)", "Verdict")
    for (x, y), title in zip(places, titles, strict=True):
        draw.text((x, y - 26), title, fill=INK, font=font(18))
    sheet.paste(_spectrum(inspection), places[0])
    sheet.paste(_curve(image_chw), places[1])
    small = torch.nn.functional.interpolate(image_chw[None].float(), size=_fit(image_chw.shape[-2:]), mode="area")[0]
    sheet.paste(as_picture(overlay(small, inspection)), places[2])
    _words(draw, places[3], inspection)
    return as_tensor(sheet)


def _fit(shape: torch.Size) -> list[int]:
    return [max(1, round(side * _SIDE / max(shape))) for side in shape]


def _spectrum(inspection: Inspection) -> Image.Image:
    """Frequencies up to 1/8 cycle per px (1/4 where peaks lie further out), zero in the middle, dB as grey."""
    ratio = inspection.spectrum
    reach = 0.25 if any(max(abs(p.fy), p.fx) > 0.125 for p in inspection.peaks[:12]) else 0.125
    rows, columns = int(ratio.shape[0] * reach), int(ratio.shape[1] * 2 * reach)
    right = torch.cat([ratio[-rows:, :columns], ratio[:rows, :columns]])
    both = torch.cat([right[:, 1:].flip(0, 1), right], 1).clamp_min(0.1).log10()
    pooled = torch.nn.functional.adaptive_max_pool2d(both[None, None], _SIDE)[0, 0]
    grey = (255 - (pooled / 3).clamp(0, 1) * 255).byte().numpy()
    picture = Image.fromarray(grey).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for peak in inspection.peaks[:40]:
        for sign in (1, -1):
            x, y = (_SIDE / 2 * (1 + sign * f / reach) for f in (peak.fx, peak.fy))
            draw.ellipse([x - 6, y - 6, x + 6, y + 6], outline=RED)
    draw.text((6, _SIDE - 20), f"up to {reach:g} cycle/px; circles: peaks of the lattice", fill=INK, font=font(13))
    return picture


def _curve(image_chw: Tensor) -> Image.Image:
    """Normalised autocorrelation of high-passed luma in the middle 1024 px."""
    top, left = (max(0, (side - 1024) // 2) for side in image_chw.shape[-2:])
    x = high_passed(luma255(image_chw[:, top : top + 1024, left : left + 1024]))
    lags = list(range(1, min(65, min(x.shape) // 2)))
    curves = autocorrelation(x, lags) / x.square().mean().clamp_min(1e-9)
    scale = max(0.05, float(curves[:, 4:].abs().max()) * 1.3)
    lines = [
        Curve(list(zip(lags, curve.clamp(-scale, scale).tolist(), strict=True)), colour, name)
        for curve, colour, name in zip(curves, COLOURS[:2], ("across", "down"), strict=True)
    ]
    marks = [lag for lag in LAGS if lag <= lags[-1]]
    across = Axis("lag in px", 0, lags[-1], ticks=marks)
    return Chart("", across, Axis("correlation", -scale, scale), lines).draw(_SIDE, _SIDE)


def _words(draw: ImageDraw.ImageDraw, place: tuple[int, int], inspection: Inspection) -> None:
    x, y = place
    draw.text((x, y), f"{inspection.verdict}, score {inspection.score:.2f}", fill=RED, font=font(30))
    lines = [line for sentence in sentences(inspection) for line in [*textwrap.wrap(sentence, 56), ""]]
    draw.multiline_text((x, y + 50), "\n".join(lines), fill=INK, font=font(15), spacing=5)


def in_a_few_words(found: Inspection) -> str:
    """Whether there is a lattice or a mesh, how strong, and what to do about one that can be seen."""
    return "; ".join([_lattice_in_words(found), *_mesh_in_words(found.mesh)])


def _lattice_in_words(found: Inspection) -> str:
    score = f"(score {found.score:.2f})"
    if found.verdict != "lattice":
        return f"no lattice {score}"
    if found.score < 0.5:
        return f"a trace of a lattice of {found.period:g} px, too faint to see {score}"
    return f"lattice of {found.period:g} px {score}: try the node Suppress lattice"


def _mesh_in_words(mesh: Mesh) -> list[str]:
    if not mesh.found:
        return []
    pitch = f"pitch about {mesh.pitch:.0f} px, " if mesh.pitch else ""
    return [f"texture in soft areas: {mesh.per_mille:.0f} per mille, {pitch}up to {mesh.largest:.0f}/255, see the map"]


def sentences(inspection: Inspection) -> list[str]:
    """The report in plain sentences."""
    lines = [inspection.reason]
    suspects = ", ".join(f"{period} px {value:+.1f} dB" for period, value in inspection.suspects.items())
    if suspects:
        lines.append(f"Over their background, in flat areas: {suspects} (0 dB is chance).")
    if inspection.jpeg_grid:
        lines.append("JPEG's 8-px block grid stands out too.")
    lines.append(_basis(inspection))
    lines.append(_soft_areas(inspection.mesh))
    if inspection.ap_loss is not None:
        lines.append(f"L_AP against the reference: {inspection.ap_loss:.3g}.")
    lines.append(f"Confidence {inspection.confidence:.2f} of 1.")
    return lines


def _basis(inspection: Inspection) -> str:
    """What the verdict is on."""
    basis = "Judged on what was added to the small picture (a reference was used)."
    if not inspection.referenced:
        basis = "Judged without the small picture, so weaker: connect or name the picture that was enlarged."
    return f"{basis} {inspection.note}".strip()


def _soft_areas(mesh: Mesh) -> str:
    """What there is of a mesh, and what it was told by."""
    if mesh.per_mille == 0:
        whole = "the picture" if mesh.referenced else "its middle 1024 px"
        return f"No mesh in soft areas ({mesh.soft:.0%} of {whole} is soft)."
    amount = f"{mesh.per_mille:.1f} per mille of them, pitch about {mesh.pitch:.1f} px, up to {mesh.largest:.1f}/255"
    if mesh.found:
        return f"Texture in soft areas: {amount}; see the map."
    if not mesh.referenced:
        return f"Fine texture where the picture is soft: {amount}. It may be the picture's own."
    return f"Texture in soft areas: {amount}; too little, or too mixed, for a mesh."

"""A page with what was decided: counts, a histogram of every score, and the pictures next to the cuts."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError
from ..picture.convert import as_picture
from ..picture.read import read_picture
from .decide import KEPT, Decisions
from .shards import SCORES_OF

_BINS, _WIDTH, _HEIGHT = 40, 320, 120
_EXAMPLES, _THUMBNAIL = 6, 200

_STYLE = """
:root { color-scheme: light dark; --kept: light-dark(#2a6fb0, #6aaef0); --left: light-dark(#c9c9c9, #555); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 0 auto; padding: 1.5rem; }
td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8884; } td:first-child { text-align: left; }
.row { display: flex; flex-wrap: wrap; gap: 1.2rem; } figure { margin: 0; }
figcaption { font-size: .8rem; max-width: 320px; overflow-wrap: anywhere; }
svg { background: #8881; } .kept { fill: var(--kept); } .left { fill: var(--left); }
img { max-width: 200px; max-height: 200px; }
"""


def as_page(found: Decisions, scores: dict[int, dict[str, dict[str, Any]]]) -> str:
    """The page, complete in itself."""
    parts = [f"<h1>Curation</h1><p>{len(found.kept)} of {len(found.reasons)} pictures are kept.</p>", _counts(found)]
    for stage, rows in scores.items():
        if rows:
            parts.append(f"<h2>Stage {stage}</h2>" + _stage(found, stage, rows))
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>OP4KSR curation</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _counts(found: Decisions) -> str:
    rows = "".join(f"<tr><td>{html.escape(why)}</td><td>{count}</td></tr>" for why, count in found.counts.items())
    return f"<table><tr><th>decision</th><th>pictures</th></tr>{rows}</table>"


def _stage(found: Decisions, stage: int, rows: dict[str, dict[str, Any]]) -> str:
    judged = list(found.aggregates.get(stage) or [path for path, row in rows.items() if not row["error"]])
    kept = {path for path in judged if found.reasons.get(path) == KEPT}
    charts = [_histogram(name, kept, _scored(rows, judged, name)) for name in SCORES_OF[stage]]
    if stage not in found.aggregates:
        return _row(charts)
    values, cut = found.aggregates[stage], found.cuts[stage]
    charts.append(_histogram("rank aggregate", kept, values))
    order = sorted(values, key=lambda path: abs(values[path] - cut))
    above = [path for path in order if values[path] >= cut][:_EXAMPLES]
    below = [path for path in order if values[path] < cut][:_EXAMPLES]
    sections = [_row(charts)]
    for word, some in (("above", above), ("below", below)):
        if some:
            sections.append(f"<h3>Just {word} the cut ({cut:.3f})</h3>" + _row([_example(p, values[p]) for p in some]))
    return "".join(sections)


def _scored(rows: dict[str, dict[str, Any]], judged: Sequence[str], name: str) -> dict[str, float]:
    """A score by picture; older files of scores lack some."""
    return {path: rows[path][name] for path in judged if path in rows and rows[path].get(name) is not None}


def _row(parts: Sequence[str]) -> str:
    return f'<div class="row">{"".join(parts)}</div>'


def _histogram(name: str, kept: set[str], values: dict[str, float]) -> str:
    """Bars of what is kept on top of what is not."""
    finite = {path: value for path, value in values.items() if np.isfinite(value)}
    if not finite:
        return ""
    low, high = min(finite.values()), max(finite.values())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    everything = np.histogram(list(finite.values()), edges)[0]
    chosen = np.histogram([value for path, value in finite.items() if path in kept], edges)[0]
    top, step = max(1, everything.max()), _WIDTH / _BINS
    bars = ""
    for n, (whole, part) in enumerate(zip(everything, chosen, strict=True)):
        for kind, count in (("left", whole), ("kept", part)):
            height = count / top * _HEIGHT
            place = f'x="{n * step:.1f}" y="{_HEIGHT - height:.1f}" width="{step - 0.5:.1f}" height="{height:.1f}"'
            bars += f'<rect class="{kind}" {place}/>'
    caption = f"{html.escape(name)}: {low:.4g} to {high:.4g}; blue is kept"
    drawing = f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{caption}">{bars}</svg>'
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def _example(path: str, value: float) -> str:
    try:
        image = as_picture(read_picture(path).rgb[0])
    except ImageError as error:
        return f"<figure><figcaption>{html.escape(str(error))}</figcaption></figure>"
    buffer = io.BytesIO()
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    image.save(buffer, "JPEG", quality=85)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    text = f"{html.escape(Path(path).name)}: {value:.3f}"
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'

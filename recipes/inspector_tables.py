"""The tables of docs/periodicity.md, from docs/results/inspector.json as benchmarks/inspector.py writes it."""

from .results_files import read, table

FILE = "inspector.json"
BASES = ("alone", "referenced")
PHOTOGRAPHS = ("train", "photos")
"""Kinds that are photographs; all others are drawn."""

WEAK = "0.5/255"
"""Planted lattices that are too weak to be found, and have no column."""


def clean() -> str:
    """Clean pictures that are called a lattice."""
    verdicts = read(FILE)["clean"]["verdicts"]
    kinds = {name.partition(",")[0] for name in verdicts}
    rows = []
    for label, chosen in (
        ("photographs", kinds & set(PHOTOGRAPHS)),
        ("drawn facades, bricks, fabrics, halftones, screens, nets, tiles, dithers ...", kinds - set(PHOTOGRAPHS)),
    ):
        called = [sum(verdicts[f"{kind}, {basis}"].get("lattice", 0) for kind in chosen) for basis in BASES]
        count = sum(_pictures(verdicts[f"{kind}, alone"]) for kind in chosen)
        rows.append([f"{count} {label}", *map(str, called)])
    return table(["clean pictures", "called a lattice, alone", "with the small picture"], rows)


def _pictures(verdicts: dict[str, int]) -> int:
    return sum(count for verdict, count in verdicts.items() if verdict != "mesh")


def found() -> str:
    """Planted lattices that are found, by period and amplitude."""
    figures = read(FILE)
    columns = {
        (scene, amplitude): None
        for scene in ("smooth", "textured")
        for amplitude in (name.partition(", ")[2] for name in figures[scene])
        if amplitude != WEAK
    }
    periods = list(dict.fromkeys(name.partition(", ")[0] for name in figures["smooth"]))
    rows = [
        [period, *(_count(figures[scene].get(f"{period}, {amplitude}")) for scene, amplitude in columns)]
        for period in periods
    ]
    scenes = {"smooth": "smooth", "textured": "photograph"}
    return table(["period", *(f"{scenes[scene]}, {amplitude}" for scene, amplitude in columns)], rows)


def _count(cell: dict | None) -> str:
    return f"{cell['alone']} / {cell['referenced']} of {cell['of']}" if cell else ""


def left() -> str:
    """Energy that the suppressor leaves, by form and period."""
    forms = read(FILE)["forms"]
    names = list(dict.fromkeys(name.partition(", ")[0] for name in forms))
    periods = list(dict.fromkeys(name.partition(", ")[2] for name in forms))
    rows = [[name, *(_share(forms[f"{name}, {period}"]) for period in periods)] for name in names]
    return table(["form", *periods], rows)


def _share(cell: dict) -> str:
    return " / ".join(f"{cell[basis]['left']:.2%}" for basis in BASES)


def area() -> str:
    """How well the score separates planted lattices from clean pictures."""
    areas = read(FILE)["roc_area"]
    return (
        "Area under the ROC curve of the score, all planted lattices (those of 0.5/255 too) against all clean\n"
        f"pictures: {areas['alone']:.3f} alone, {areas['referenced']:.3f} with the small picture.\n"
    )


def treated() -> str:
    """A planted lattice after treatments, and pictures that others published."""
    figures = read(FILE)
    rows = [
        [name, row["verdict"], f"{row['period']:.4g}", f"{row['wanted']:g}"] for name, row in figures["treated"].items()
    ]
    planted = table(["16 px, 2/255, woven, after", "verdict", "period, px", "expected"], rows)
    scores = [row["score"] for row in figures["ultraflux"] if row["verdict"] == "lattice"]
    others = figures["osediff"]
    return (
        f"{planted}\nOf {len(figures['ultraflux'])} pictures that UltraFlux's authors published (4096 px, JPEG), "
        f"{len(scores)} are called a lattice, scores\n{min(scores):.2f} to {max(scores):.2f}. Of the "
        f"{others['pictures']} that OSEDiff released for RealSR, {others['alone'].get('lattice', 0)} are called a "
        f"lattice alone, {others['referenced'].get('lattice', 0)} with the\nsmall picture, and "
        f"{others['referenced'].get('mesh', 0)} has a mesh.\n"
    )

"""Tables and sentences about parts of the method, from the files of docs/results that their benchmarks write."""

from .results_files import read, table

TERMS = {
    "10 MSE": "10 MSE",
    "L1": "L1",
    "0.25 wavelet": "0.25 wavelet",
    "1000 L_AP": "1000 L_AP, literal",
    "L_AP / variance": "L_AP over the variance",
    "L_AP, box / variance": "L_AP, 33-px box taken away, over the variance",
    "L_AP, binomial / variance": "L_AP, binomial high-pass, over the variance",
}
"""What readers call the terms of benchmarks/lattice_slopes.py."""

SLOPES = (("woven", "truth"), ("cells", "truth"), ("woven", "enlargement"), ("cells", "enlargement"))
UNKNOWN = "not recorded"
"""What stands in a file of figures that were measured before their origin was kept."""

PAPER_PICTURES = 2000 * 16
"""2,000 iterations of 16 pictures, by the paper."""


def rope_bases() -> str:
    """What a RoPE base does to token positions."""
    rows = [
        [
            f"{row['theta']:g}",
            f"{row['effective_pairs_w']} of {row['pairs']}",
            f"{100 * row['area_above_0.9']['float32']:.2f}%",
            f"{row['mean_similarity']:.2f}",
            str(row["standing_pairs_w"]["bfloat16"]),
        ]
        for row in read("rope_bases.json")["rows"]
    ]
    headings = [
        "theta",
        "pairs over 5 degrees a token",
        "tokens above 0.9 alike to the middle one",
        "mean similarity",
        "still in bfloat16",
    ]
    return table(headings, rows)


def slopes() -> str:
    """How hard each loss pulls at a lattice of 1/255."""
    found = {(row["lattice"], row["over"]): row["slopes"] for row in read("lattice_slopes.json")["rows"]}
    rows = [[name, *(_rounded(found[column][term]) for column in SLOPES)] for term, name in TERMS.items()]
    return table(["loss", *(f"{kind}, over the {base}" for kind, base in SLOPES)], rows)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2f}"


def fp8_error() -> str:
    """What 8 bits change in the transformer's blocks."""
    ways = {
        "bfloat16": "bfloat16 at the linear layers",
        "fp8 weights": "8-bit weights",
        "fp8 weights and products": "8-bit weights and products",
    }
    found = read("fp8_error.json")
    rows = [[blocks, *(f"{100 * row[way]:.2f} %" for way in ways)] for blocks, row in found["rows"].items()]
    return table(["blocks", *ways.values()], rows) + f"\n{origin(found)}\n"


def full_size_on_a_card() -> str:
    """Seconds of each phase of a full-size model on a card."""
    found = read("h200.json")
    phases = ("encode", "transform", "decode", "finish")
    rows = [[*(f"{found['s'][phase]:.3f}" for phase in phases), f"{found['s']['all']:.2f}", str(found["peak_gb"])]]
    return table([*(f"{phase} s" for phase in phases), "all s", "peak GB"], rows) + f"\n{origin(found)}\n"


def training_memory() -> str:
    """Gigabytes of a training, by GPUs that share it and by crop; then the operations of a picture."""
    found = read("training_memory.json")
    parts = {
        "frozen": "frozen weights",
        "trained": "trained, gradients, moments",
        "activations": "kept for the backward pass",
        "total": "in all",
    }
    rows = [
        [str(row["shards"]), str(row["crop"]), *(f"{row['gb'][part]:.1f} GB" for part in parts)]
        for row in found["rows"]
    ]
    return table(["GPUs sharing", "crop, px", *parts.values()], rows)


def training_operations() -> str:
    """The operations of a picture, and the least hours of the paper's training."""
    found, rate = read("training_memory.json")["operations"], read("growth.json")["tflops"]
    counted = ", ".join(f"{operations / 1e15:.2f} for {crop} px" for crop, operations in found.items())
    whole = PAPER_PICTURES * found["4096"]
    hours = whole / (8 * rate * 1e12) / 3600
    return (
        f"Computation of a picture, counted the same way, in PFLOP: {counted}. The paper's 2,000 iterations of 16\n"
        f"pictures, if all were of 4096 px, which it does not say, are {whole / 1e18:.0f} EFLOP. Eight cards that each "
        f"reach {rate} TFLOP/s, as a\nbf16 matrix product did on an H200, need at least {hours:.1f} h for that; a real "
        "run takes longer.\n"
    )


def growth() -> str:
    """Work and memory of a full-size model by the picture's side."""
    found = read("growth.json")
    rows = []
    for row in found["rows"]:
        work = row["tflop"]
        cells = [f"{value:.0f}" for value in (*work, sum(work))]
        cells += [f"{sum(work) / found['tflops']:.2f}", *(f"{value:.1f}" for value in row["gb"])]
        rows.append([str(row["px"]), str(row["tokens"]), *cells])
    headings = ["output px", "tokens", "encode TFLOP", "transform TFLOP", "decode TFLOP", "all", "floor s"]
    return table([*headings, "encode GB", "transform GB", "decode GB"], rows)


def consistency() -> str:
    """What windows do to a picture."""
    found = read("consistency.json")
    middle, pictures = found["medians"], found["pictures"].values()
    worst = max(one["jump_across"] / one["jump_elsewhere"] for one in pictures)
    return (
        f"Medians of {len(pictures)} pictures, in 1/255: the RMS difference is {middle['beside']:.2f} within 8 px of a "
        f"window's border and {middle['elsewhere']:.2f}\nelsewhere, and from one px to the next it changes by "
        f"{middle['jump_across']:.2f} across a border and {middle['jump_elsewhere']:.2f} elsewhere. In the worst\n"
        f"picture the change is {worst:.1f} times as large at the borders.\n"
    )


def trial() -> str:
    """How far a part that is enlarged alone is from that part of the whole."""
    found = read("trial.json")
    rows = []
    for name, row in found["rows"].items():
        far = row["margins"]["32"]
        rows.append([name, f"{far['mean']:.2f}", f"{far['largest']:.1f}", f"{row['model_changes']:.1f}"])
    headings = [f"photograph of {found['px']} px", "mean, 1/255", "at most", "what the model changes there, mean"]
    return table(headings, rows)


def curate() -> str:
    """Time and memory of deciding."""
    found = read("curate.json")
    return (
        f"Deciding on {found['pictures']:,} made-up pictures takes {found['s']:.0f} s and {found['peak_gb']:.1f} GB. "
        f"{origin(found)}\n"
    )


def origin(found: dict) -> str:
    """Where figures come from; what is "not recorded" is said last."""
    kept = {name: found[name] for name in ("torch", "commit", "date") if found[name] != UNKNOWN}
    missing = [name for name in ("torch", "commit", "date") if name not in kept]
    known = "".join(f", {name} {value}" for name, value in kept.items())
    unknown = f"; not recorded: {', '.join(missing)}" if missing else ""
    return f"Measured on {found['machine']}{known}{unknown}."

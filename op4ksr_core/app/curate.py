"""`op4ksr curate`: chooses training pictures by their scores: list, score, decide, report."""

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..curate.decide import Decisions, Rules, decide, emptied_by
from ..curate.listing import list_pictures
from ..curate.models import PROMPT, Models
from ..curate.report import as_page
from ..curate.rules import USUAL, as_rules, read_rules, write_rules
from ..curate.shards import SCORES_OF, missing_shards, read_scores, run_shards
from ..errors import SettingError
from ..files import at_home, check_folders, read_text, write_atomically, write_text
from .argument_types import WORKERS, number, whole
from .console import complain, picture_bar, say
from .options import find_device

_STAGES = (1, 2, 3)
Scores = dict[int, dict[str, dict[str, Any]]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="folder, picture, list, or table with a column path")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of scores and decisions")
    parser.add_argument(
        "--stage", type=int, nargs="+", choices=(1, 2, 3), default=[1], help="what to score (default 1)"
    )
    parser.add_argument("--decide-only", action="store_true", help="score nothing, decide again from the scores")
    parser.add_argument("--workers", type=WORKERS, default=1, help="processes (default 1)")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="ray: over many machines")
    parser.add_argument("--shard-size", type=whole(1), default=256, help="pictures in a file of scores (default 256)")
    rules = parser.add_argument_group("rules; what is not given is as in the last call into DIR, else the default")
    rules.add_argument("--usual-rules", action="store_true", help="forget the last call's rules")
    rules.add_argument(
        "--keep",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="of stage 1 by texture, of stage 2 by degradation (default 0.5 0.5)",
    )
    for name, default, text in (
        ("laplacian", 20.0, "variance; below it a picture is blurred"),
        ("sobel", 1.0, "mean gradient; below it a picture is flat"),
        ("aesthetic", 5.0, "LAION score of stage 2"),
    ):
        option = f"--least-{name}"
        rules.add_argument(option, type=number(0, 1e9), help=f"{text} (default {default:g})")
    for name in ("blur", "noise"):
        text = f"largest {name} of stage 2, in place of a share of those scored"
        rules.add_argument(f"--most-{name}", type=number(-1e9, 1e9), help=text)
    rules.add_argument(
        "--most-degradation",
        type=number(-1e9, 1e9),
        help="largest mean of both; of a model with one number its share's place",
    )
    rules.add_argument("--vision-score", type=number(0, 100), help="least score of stage 3, 0 to 100 (default 60)")
    rules.add_argument("--side", type=whole(1, 10**6), help="least px of the shorter side (default 1024)")
    rules.add_argument("--duplicate-bits", type=whole(-1, 64), help="of 64 bits of hash (default 4; -1: keep all)")
    rules.add_argument("--licences", metavar="A,B", help='only pictures of these licences; "": of all')
    rules.add_argument(
        "--allowed", metavar="FILE", help='only pictures of this list, such as one without watermarks; "": of all'
    )
    models = parser.add_argument_group("models of stages 2 and 3; none is downloaded")
    models.add_argument(
        "--degradation", metavar="FILE", help="torch.export program: picture to blur and noise, or to one number"
    )
    models.add_argument("--clip", metavar="DIR", help="transformers CLIP folder (LAION's scores want ViT-L/14)")
    models.add_argument(
        "--aesthetic", metavar="FILE", help="LAION's aesthetic layers, as safetensors (`op4ksr convert`)"
    )
    models.add_argument(
        "--vision",
        metavar="DIR|URL",
        help="transformers chat model with pictures, such as Qwen3-VL, or an OpenAI-compatible address (http://.../v1)",
    )
    models.add_argument("--vision-model", metavar="NAME", help="the model's name at that address")
    models.add_argument("--vision-prompt", metavar="FILE", help="text instead of the built-in question")
    models.add_argument("--device", help="cpu (default), cuda ...")


def run(arguments: argparse.Namespace) -> int:
    """Scores what has no scores yet, stage by stage, then decides; returns 0.

    Raises Op4ksrError before any work, and where the rules leave nothing: the decisions before it stay then.
    """
    stages = sorted(set(arguments.stage))
    models = _models(arguments)
    for stage in stages:
        models.check(stage)
    if arguments.shard_size < 1:
        raise SettingError(f"A shard holds one picture or more, got {arguments.shard_size}.")
    folder = at_home(arguments.output)
    values = _rule_values(folder, arguments)
    rules = as_rules(values)
    check_folders([folder / "listing.parquet"])
    rows = _nameable(_listing(folder, arguments.inputs).to_pylist())
    for stage in () if arguments.decide_only else stages:
        paths = _candidates(rows, folder, rules, stage)
        place = folder / "scores" / f"stage{stage}"
        check_folders([place / "0.parquet"])
        shards = missing_shards(stage, paths, place, models, arguments.shard_size)
        with picture_bar(f"stage {stage}") as report:
            fresh = run_shards(shards, arguments.engine, arguments.workers, report)
        say(f"stage {stage}: {len(paths)} pictures, {fresh} scored now")
    scores = {stage: read_scores(folder / "scores" / f"stage{stage}") for stage in _STAGES}
    found = decide(rows, scores, rules)
    say("\n".join(f"{count:8d} {reason}" for reason, count in found.counts.items()))
    if not found.kept:
        raise SettingError(f"{emptied_by(found, rules)} {folder / 'kept.txt'} was not written and stays as it was.")
    _write(folder, rows, scores, found)
    write_rules(folder, values)
    say(f"{len(found.kept)} of {len(rows)} pictures are kept: {folder / 'kept.txt'}, {folder / 'report.html'}")
    return 0


_BREAKS = frozenset("\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")


def _nameable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose path can stand in a list with a path per line; the others are left out and told of."""
    for row in rows:
        if _BREAKS & set(row["path"]):
            complain(f"op4ksr: {row['path']} is left out: its name has a line break, and lists have a path per line.")
    return [row for row in rows if not _BREAKS & set(row["path"])]


def _models(arguments: argparse.Namespace) -> Models:
    prompt = PROMPT
    if arguments.vision_prompt:
        try:
            prompt = read_text(at_home(arguments.vision_prompt))
        except SettingError as error:
            raise SettingError(f"--vision-prompt: {error}") from error
    device = str(find_device(arguments.device) or "cpu")
    return Models(
        arguments.degradation,
        arguments.clip,
        arguments.aesthetic,
        arguments.vision,
        arguments.vision_model,
        prompt,
        device,
    )


def _rule_values(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The usual rules, over them those of the last call into the folder, over both the options; the last call's that
    differ from the usual ones are printed."""
    held = {} if arguments.usual_rules else read_rules(folder)
    given = _given_rules(arguments, {**USUAL, **held})
    taken = {name: value for name, value in held.items() if name not in given and value != _plain(USUAL[name])}
    if taken:
        words = ", ".join(f"{name} {value}" for name, value in taken.items())
        say(f"as in the last call: {words} (--usual-rules forgets them)")
    return {**USUAL, **held, **given}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _given_rules(arguments: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    """The rules among the options, by name."""
    options = {
        "laplacian": arguments.least_laplacian,
        "sobel": arguments.least_sobel,
        "degradation": arguments.most_degradation,
        "blur": arguments.most_blur,
        "noise": arguments.most_noise,
        "aesthetic": arguments.least_aesthetic,
        "vision": arguments.vision_score,
        "side": arguments.side,
        "bits": arguments.duplicate_bits,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if arguments.keep is not None:
        if len(arguments.keep) > 2:
            raise SettingError(f"--keep takes the shares of stages 1 and 2, got {arguments.keep}.")
        given["keep"] = [*arguments.keep, *before["keep"][len(arguments.keep) :]]
    if arguments.licences is not None:
        given["licences"] = arguments.licences.split(",") if arguments.licences else None
    if arguments.allowed is not None:
        given["allowed"] = str(at_home(arguments.allowed).absolute()) if arguments.allowed else None
    return given


def _listing(folder: Path, inputs: list[str]) -> pa.Table:
    """The listing of the last run into this folder, or that of the inputs in its place. Raises SettingError where those
    share no picture with it."""
    path = folder / "listing.parquet"
    if not path.exists() and not inputs:
        raise SettingError(f"{folder} has no listing yet: name the pictures.")
    held = pq.read_table(path) if path.exists() else None
    if held is not None and not inputs:
        return held
    table = list_pictures(inputs)
    if held is not None:
        _say_what_changed(path, set(held["path"].to_pylist()), set(table["path"].to_pylist()), inputs)
    write_atomically(path, lambda file: pq.write_table(table, file))
    return table


def _say_what_changed(path: Path, before: set[str], now: set[str], inputs: list[str]) -> None:
    if not before & now:
        raise SettingError(
            f"{path} lists other pictures than {', '.join(inputs)}: none is in both. Give another folder with -o."
        )
    if before != now:
        say(f"{len(now - before)} pictures are new in the listing, {len(before - now)} are gone from it")


def _candidates(rows: list[dict[str, Any]], folder: Path, rules: Rules, stage: int) -> list[str]:
    """What a stage looks at: everything, or what the stages before it let through. Raises SettingError where they
    have not run."""
    if stage == 1:
        return [row["path"] for row in rows]
    before = {n: read_scores(folder / "scores" / f"stage{n}") for n in range(1, stage)}
    if not before[1]:
        raise SettingError(f"Stage {stage} looks at what stage 1 lets through: run --stage 1 before it, or with it.")
    return decide(rows, before, rules).kept


def _write(folder: Path, rows: list[dict[str, Any]], scores: Scores, found: Decisions) -> None:
    kept, columns = set(found.kept), []
    for row in rows:
        path = row["path"]
        line = row | {"kept": path in kept, "decision": found.reasons[path]}
        for stage in _STAGES:
            line |= {name: scores[stage].get(path, {}).get(name) for name in SCORES_OF[stage]}
        line["aggregate_1"] = found.aggregates.get(1, {}).get(path)
        columns.append(line)
    table = pa.Table.from_pylist(columns)
    write_atomically(folder / "decisions.parquet", lambda file: pq.write_table(table, file))
    summary = {
        "pictures": len(rows),
        "kept": len(kept),
        "reasons": found.counts,
        "cuts": found.cuts,
        "gates": found.gates,
    }
    for name, text in (
        ("kept.txt", "".join(f"{Path(path).absolute()}\n" for path in found.kept)),
        ("summary.json", json.dumps(summary, indent=1) + "\n"),
        ("report.html", as_page(found, scores)),
    ):
        write_text(folder / name, text)

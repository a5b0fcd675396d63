"""The rules of a folder of scores, in its `rules.json`: a later call goes on with them."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import SettingError
from ..files import json_text, read_lines, read_text, write_text
from .decide import Rules

RULES = "rules.json"

USUAL: dict[str, Any] = asdict(Rules())
"""The rules by name as they are stored; `allowed` is the path of a list."""


def read_rules(folder: Path) -> dict[str, Any]:
    """What the last call into this folder decided by; empty where there was none. Raises SettingError."""
    path = folder / RULES
    if not path.exists():
        return {}
    try:
        held = json.loads(read_text(path))
    except ValueError as error:
        raise SettingError(f"{path} is no JSON ({error}). Remove it to begin with the usual rules.") from error
    strange = [*held] if not isinstance(held, dict) else sorted(held.keys() - USUAL.keys())
    if strange or not isinstance(held, dict):
        raise SettingError(f"{path} has no rules that we know ({strange}). Remove it to begin with the usual rules.")
    return held


def write_rules(folder: Path, rules: Mapping[str, Any]) -> None:
    """Stores the rules beside the decisions that they gave."""
    write_text(folder / RULES, json_text(dict(rules)))


def as_rules(values: Mapping[str, Any]) -> Rules:
    """Rules of stored values, with the list that `allowed` names. Raises SettingError."""
    named = USUAL | dict(values)
    licences = named["licences"]
    named |= {"keep": tuple(named["keep"]), "licences": None if licences is None else tuple(licences)}
    named["allowed"] = _listed(named["allowed"])
    try:
        return Rules(**named)
    except TypeError as error:
        raise SettingError(f"The rules {dict(values)} have a value of the wrong kind: {error}.") from error


def _listed(name: str | None) -> frozenset[str] | None:
    """The pictures of a list, a path per line, relative to the list."""
    if name is None:
        return None
    path = Path(name)
    if not path.is_file():
        raise SettingError(f"There is no list {path}, which --allowed names.")
    lines = [line.strip() for line in read_lines(path) if line.strip()]
    return frozenset(os.path.abspath(path.parent / line) for line in lines)  # noqa: PTH100, links stay

"""The table of settings in docs/training-settings.md, from their declarations and the presets.

python -m recipes.training_table
"""

from pathlib import Path
from typing import Any

from op4ksr_core.declared import Setting, declarations, find_setting
from op4ksr_core.train.presets import PRESETS
from op4ksr_core.train.settings import GROUPS, NESTED, TrainSettings

PAGE = Path(__file__).parent.parent / "docs" / "training-settings.md"
BEGIN = "<!-- made by `python -m recipes.training_table` -->\n"
END = "<!-- end of the table -->\n"
SHOWN = ("embedded", "op4ksr", "omgsr-f", "osediff")
"""The presets that have a column."""


def table() -> str:
    """Every setting of a training: option, help with its range, the presets' values."""
    lines = ["| option | meaning | " + " | ".join(f"`{name}`" for name in SHOWN) + " |"]
    lines.append("|---" * (2 + len(SHOWN)) + "|")
    for title, names in GROUPS.items():
        lines.append(f"| **{title}** |" + " |" * (1 + len(SHOWN)))
        for one in (find_setting(TrainSettings, name) for name in names):
            lines.append(_row(one, [getattr(PRESETS[name], one.name) for name in SHOWN]))
        if title in NESTED:
            lines += _nested_rows(*NESTED[title])
    return "\n".join(lines) + "\n"


def _nested_rows(field: str, prefix: str) -> list[str]:
    settings = [getattr(PRESETS[name], field) for name in SHOWN]
    return [_row(one, [getattr(of, one.name) for of in settings], prefix) for one in declarations(type(settings[0]))]


def _row(one: Setting, values: list[Any], prefix: str = "") -> str:
    cells = [f"`--{prefix}{one.flag[2:]}`", one.option_help, *(_cell(value) for value in values)]
    return "| " + " | ".join(cells) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(_cell, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_table(page: str) -> str:
    """The page with the table between its marks. Raises ValueError where a mark is missing."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))

"""The table of settings in docs/cli.md, from their declarations and the presets.

python -m recipes.settings_table
"""

from pathlib import Path
from typing import Any

from op4ksr_core.declared import Setting, declarations
from op4ksr_core.settings import PRESETS, RopeSettings, UpscaleSettings
from op4ksr_core.wishes import Wishes

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
BEGIN = "<!-- made by `python -m recipes.settings_table` -->\n"
END = "<!-- end of the table -->\n"
SHOWN = ("embedded", "op4ksr", "ultraflux", "omgsr", "osediff")
"""The presets that have a column."""


def table() -> str:
    """UpscaleSettings, RopeSettings and Wishes: option, help with its range, the presets' values."""
    lines = ["| option | meaning | " + " | ".join(f"`{name}`" for name in SHOWN) + " |"]
    lines.append("|---" * (2 + len(SHOWN)) + "|")
    for one in declarations(RopeSettings):
        lines.append(_row(one, [getattr(PRESETS[name].rope, one.name, "the model's") for name in SHOWN]))
    for one in declarations(UpscaleSettings):
        if not one.nested:
            lines.append(_row(one, [getattr(PRESETS[name], one.name) for name in SHOWN]))
    for one in declarations(Wishes):
        lines.append(_row(one, [one.default] * len(SHOWN)))
    return "\n".join(lines) + "\n"


def _row(one: Setting, values: list[Any]) -> str:
    cells = [f"`{one.flag}`", one.option_help, *(_cell(value) for value in values)]
    return "| " + " | ".join(cells) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_table(page: str) -> str:
    """The page with the table between its marks. Raises ValueError where a mark is missing."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))

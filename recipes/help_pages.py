"""Help pages in Chinese and Japanese, from the English pages' tables and the nodes' translated texts.

    python -m recipes.help_pages

Reads web/docs/NODE.md and locales/LANGUAGE/nodeDefs.json, writes web/docs/NODE/LANGUAGE.md: description, pictures, and
each input with its values and its translated tooltip. ComfyUI falls back to the English page for other languages.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES, LOCALES = ROOT / "web" / "docs", ROOT / "locales"
WORDS = {
    "ja": {
        "inputs": "入力", "outputs": "出力", "values": "値", "what": "働き", "default": "既定", "to": "～",
        "optional": "省略可", "advanced": "詳細", "on, off": "オン、オフ", " on": " オン", " off": " オフ",
        "times": "倍", "share of noise": "ノイズの割合", "share": "割合", "evaluations": "回",
        "px, times or megapixels": "px、倍、または百万画素",
    },
    "zh": {
        "inputs": "输入", "outputs": "输出", "values": "取值", "what": "作用", "default": "默认", "to": "至",
        "optional": "可选", "advanced": "高级", "on, off": "开、关", " on": " 开", " off": " 关",
        "times": "倍", "share of noise": "噪声比例", "share": "比例", "evaluations": "次",
        "px, times or megapixels": "像素、倍或百万像素",
    },
}  # fmt: skip


def page(name: str, language: str) -> str:
    """One node's page."""
    english = (PAGES / f"{name}.md").read_text()
    texts = json.loads((LOCALES / language / "nodeDefs.json").read_text())[name]
    words = WORDS[language]
    pictures = re.findall(r"!\[.*?\]\((.+?)\)", english)
    lines = [f"# {texts['display_name']}", "", texts["description"], ""]
    for picture in pictures:
        lines += [f"![{texts['display_name']}]({picture})", ""]
    rows = _rows(english, "## Inputs")
    if rows:
        lines += [
            f"## {words['inputs']}",
            "",
            f"| {words['inputs']} | {words['values']} | {words['what']} |",
            "|---|---|---|",
        ]
        for label, values, _ in rows:
            key = label.split()[0]
            own = texts["inputs"][key]
            name_shown = key if own["name"] == key else f"{own['name']} ({key})"
            for mark in ("optional", "advanced"):
                name_shown += f" ({words[mark]})" if f"({mark})" in label else ""
            lines.append(f"| {name_shown} | {_values(values, words)} | {own['tooltip']} |")
        lines.append("")
    outputs = texts.get("outputs", {})
    if outputs:
        lines += [f"## {words['outputs']}", "", f"| {words['outputs']} | {words['what']} |", "|---|---|"]
        lines += [f"| {own['name']} | {own['tooltip']} |" for own in outputs.values()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading, its head left out."""
    _, found, below = text.partition(heading)
    table = re.search(r"((?:^\|.*\n)+)", below, re.M) if found else None
    lines = table[1].splitlines()[2:] if table else []
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _values(text: str, words: dict[str, str]) -> str:
    """Ranges and choices in the language's words."""
    text = re.sub(r"; default (on|off)$", lambda m: f"; default{words[' ' + m[1]]}", text)
    text = re.sub(r"(?<=\d) to (?=\d|2\^)", f" {words['to']} ", text)
    for key in ("px, times or megapixels", "share of noise", "share", "evaluations", "times", "on, off", "default"):
        text = text.replace(key, words[key])
    return text


def main() -> None:
    for path in sorted(PAGES.glob("*.md")):
        folder = PAGES / path.stem
        folder.mkdir(exist_ok=True)
        for language in WORDS:
            (folder / f"{language}.md").write_text(page(path.stem, language))


if __name__ == "__main__":
    main()

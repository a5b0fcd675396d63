"""Help pages in Chinese and Japanese, from the English pages' lists and the nodes' translated texts.

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
        "inputs": "入力", "outputs": "出力", "default": "既定", "to": "～",
        "optional": "省略可", "advanced": "詳細", ".": "。", "on, off": "オン、オフ", " on": " オン", " off": " オフ",
        "times": "倍", "share of noise": "ノイズの割合", "share": "割合", "evaluations": "回",
        "px, times or megapixels": "px、倍、または百万画素", "or a file below": "または次の場所のファイル",
        "a name": "名前", "text": "テキスト", "per mille": "‰", "on or off": "オンまたはオフ",
    },
    "zh": {
        "inputs": "输入", "outputs": "输出", "default": "默认", "to": "至",
        "optional": "可选", "advanced": "高级", ".": "。", "on, off": "开、关", " on": " 开", " off": " 关",
        "times": "倍", "share of noise": "噪声比例", "share": "比例", "evaluations": "次",
        "px, times or megapixels": "像素、倍或百万像素", "or a file below": "或下列位置的文件",
        "a name": "名称", "text": "文本", "per mille": "‰", "on or off": "开或关",
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
    inputs = _inputs(english)
    if inputs:
        lines += [f"## {words['inputs']}", ""]
    for key, values in inputs:
        own = texts["inputs"][key]
        shown = key if own["name"] == key else f"{own['name']} ({key})"
        lines.append(f"- **{shown}** ({_values(values, words)}){words['.']}{own['tooltip']}")
    outputs = texts.get("outputs", {})
    if outputs:
        lines += [""] * bool(inputs) + [f"## {words['outputs']}", ""]
    lines += [f"- **{own['name']}**{words['.']}{own['tooltip']}" for own in outputs.values()]
    return "\n".join(lines).rstrip() + "\n"


def _inputs(english: str) -> list[tuple[str, str]]:
    """(name, values) of each input of a page: a list, for a table is wider than the side panel."""
    section = english.partition("## Inputs")[2].partition("\n## ")[0]
    return re.findall(r"^- \*\*(\w+)\*\* \((.+?)\)\. ", section, re.M)


def _values(text: str, words: dict[str, str]) -> str:
    """Ranges and choices in the language's words."""
    for mark in ("optional", "advanced"):
        text = re.sub(rf"^{mark}; ", f"{words[mark]}; ", text)
    text = re.sub(r"; default (on|off)$", lambda m: f"; default{words[' ' + m[1]]}", text)
    text = re.sub(r"(?<=\d) to (?=\d|2\^)", f" {words['to']} ", text)
    for key in (
        "or a file below",
        "a name",
        "text",
        "per mille",
        "on or off",
        "px, times or megapixels",
        "share of noise",
        "share",
        "evaluations",
        "times",
        "on, off",
        "default",
    ):
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

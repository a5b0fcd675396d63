"""The tables of docs/lab/readers.md: how long a reader takes to find an answer.

    python -m recipes.reading_times

A path begins at the top of the README, follows links, and ends at the words that answer. Its seconds are the words on
the way, at 240 a minute: from the top of a page, or from the heading that a link leads to, down to the next link or to
the answer.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "lab" / "readers.md"
WORDS_A_SECOND = 4
LONGEST = 60
"""Seconds that a path may take."""


@dataclass(frozen=True)
class Question:
    """A question, the links from the README to its answer, and the last words of the answer."""

    asked: str
    links: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Reader:
    """A kind of reader, the minutes meant for it, the pages and sections to be read, and what comes after them."""

    who: str
    meant: int
    parts: tuple[str, ...]
    then: str


QUESTIONS = (
    Question(
        "How do I keep a face unchanged?",
        ("docs/nodes.md#keep-a-face-or-lettering",),
        "There the result is plain enlarging",
    ),
    Question(
        "Which file does FLUX need?", ("docs/nodes.md#where-the-files-go",), "text encoders in `models/text_encoders`"
    ),
    Question("Why does my result have a grid?", ("docs/periodicity.md",), "not from your picture"),
    Question("How do I remove it?", ("docs/periodicity.md",), "or lower **strength**"),
    Question("How do I run a folder overnight?", ("docs/cli.md#a-folder-overnight",), "Finished outputs are skipped"),
    Question("How do I train?", ("docs/training.md",), "on any machine"),
    Question(
        "How do I add a node?",
        ("docs/architecture.md#add-a-node",),
        "makes the other languages' pages",
    ),
)

READERS = (
    Reader(
        "makes pictures in ComfyUI",
        10,
        ("start.md#you-make-pictures-in-comfyui-ten-minutes", "nodes.md"),
        "the quickstart, which runs for about half a minute on two cores",
    ),
    Reader(
        "has a folder",
        5,
        ("start.md#you-have-a-folder-of-pictures-five-minutes", "cli.md#a-folder-overnight"),
        "`make demo`, whose download of PyTorch takes the longest",
    ),
    Reader(
        "does research",
        30,
        ("method.md", "relatives.md", "training.md", "evaluation.md", "results.md", "ablation.md"),
        "the training walk on a CPU",
    ),
    Reader(
        "changes the code",
        60,
        ("start.md#you-change-the-code-an-hour", "architecture.md"),
        "`make test`, then the file that the map names",
    ),
)


def visible(text: str) -> str:
    """A page as it is shown: without comments, pictures and the addresses of links."""
    for hidden in (r"<!--.*?-->", r"!\[.*?\]\(.*?\)", r"\]\([^)\s]*\)"):
        text = re.sub(hidden, "", text, flags=re.DOTALL)
    return text


def words(text: str) -> int:
    """How many words are read; marks of tables and lists are none."""
    return sum(bool(re.search(r"\w", word)) for word in visible(text).split())


def from_heading(text: str, anchor: str) -> str:
    """The page from a heading down, from its top without an anchor. Raises ValueError if there is no such heading."""
    if not anchor:
        return text
    for heading in re.finditer(r"^#+ (.+)$", text, re.MULTILINE):
        if re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-") == anchor:
            return text[heading.start() :]
    raise ValueError(f"There is no heading #{anchor}.")


def section(part: str) -> str:
    """A page below docs/, or with #HEADING its section."""
    name, _, anchor = part.partition("#")
    text = from_heading((ROOT / "docs" / name).read_text(), anchor)
    return text.partition("\n## ")[0] if anchor else text


def words_until(text: str, end: str) -> int:
    """Words down to `end`, with it. Raises ValueError where it is not there."""
    line = " ".join(text.split())
    if end not in line:
        raise ValueError(f"{end!r} is not on the page.")
    return words(line[: line.index(end) + len(end)])


def seconds(question: Question) -> float:
    """Seconds from the top of the README to the answer. Raises ValueError where a link or the answer is missing."""
    page, anchor, read = ROOT / "README.md", "", 0
    for link in question.links:
        read += words_until(from_heading(page.read_text(), anchor), f"]({link})")
        name, _, anchor = link.partition("#")
        page = ROOT / name
    read += words_until(from_heading(page.read_text(), anchor), question.answer)
    return read / WORDS_A_SECOND


def questions_table() -> str:
    lines = ["| question | path from the README | seconds |", "|---|---|---|"]
    for one in QUESTIONS:
        path = ", ".join(f"[{link.partition('docs/')[2]}](../{link.partition('docs/')[2]})" for link in one.links)
        lines.append(f"| {one.asked} | {path} | {seconds(one):.0f} |")
    return "\n".join(lines)


def readers_table() -> str:
    lines = ["| reader | minutes meant | minutes of reading | then |", "|---|---|---|---|"]
    for one in READERS:
        took = {part: words(section(part)) / WORDS_A_SECOND / 60 for part in one.parts}
        links = ", ".join(f"[{part.partition('.')[0]}](../{part}) {minutes:.1f}" for part, minutes in took.items())
        lines.append(f"| {one.who} | {one.meant} | {sum(took.values()):.0f}: {links} | {one.then} |")
    return "\n".join(lines)


TABLES = {"questions": questions_table, "readers": readers_table}


def with_tables(page: str) -> str:
    """The page with both tables as the documents are now."""
    for name, table in TABLES.items():
        begin, end = f"<!-- made by `python -m recipes.reading_times`: {name} -->", "<!-- end of the table -->"
        before, rest = page.split(begin)
        page = f"{before}{begin}\n\n{table()}\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))

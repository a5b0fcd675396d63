"""The documents: links lead somewhere, pages are short and begin with what they answer, and the site has each page."""

import re
from pathlib import Path

import pytest
from places import ROOT

PAGES = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/gpu/README.md", "tests/README.md")
]
PAGES += sorted((ROOT / "docs").rglob("*.md")) + [ROOT / "op4ksr_core/assets/embedded/MODEL_CARD.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
NO_PARAGRAPH = ("#", "|", "-", "*", "!", "<", ">", "```", "1.")
"""How a line begins that is a heading, a table, a list, a picture or code."""

LONGEST = 200


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub and mkdocs make them."""
    text = FENCED.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return set(plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_images_are_there(page):
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} in {page.name}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target} in {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_short(page):
    assert len(page.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_begins_with_what_it_answers(page):
    title, empty, first = page.read_text().splitlines()[:3]
    assert title.startswith("# ") and not empty
    assert first and not first.startswith(NO_PARAGRAPH), first


def test_every_picture_of_the_documents_is_shown_somewhere():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in LINK.findall(page.read_text())
        if "://" not in target
    }
    used_by_publisher = {ROOT / "docs" / name for name in ("icon.png", "banner.jpg")}
    pictures = {file for file in (ROOT / "docs").rglob("*") if file.suffix in (".png", ".jpg")}
    assert pictures - shown - used_by_publisher == set()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_the_site_has_the_page(page):
    assert str(page.relative_to(ROOT / "docs")) in (ROOT / "mkdocs.yml").read_text()


def test_the_readme_fits_a_first_visit():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


MADE = re.compile(
    r"<!-- (results: |table: begin|made by `python -m ).*?<!-- (end of results|table: end|end of the table) -->",
    re.DOTALL,
)
"""Tables that a command writes, from figures that it keeps or from declared settings."""

FIGURE = re.compile(r"\d ?(?:s|ms|GB|dB|%|‰)(?!\w)|\d/255")
UNIT = re.compile(r"(?:^|\W)(?:s|ms|GB|dB|%|‰|1/255)(?:\W|$)")
"""A unit in a heading, whose column holds bare numbers."""

BY_HAND = {
    ("docs/nodes.md", "weights"): "memory that the plan computes from the weights' sizes",
    ("docs/nodes.md", "model, output"): "the same, by phase",
    ("docs/periodicity.md", "pitch"): "limits of the inspector, not measurements",
    ("docs/glossary.md", "word"): "what 0 dB means",
    ("docs/lab/speed.md", "change"): "what a card should take, written down before it is measured",
}
"""Tables with a unit that no results file holds, by page and first heading, and why."""


def tables_by_hand(text: str) -> dict[str, str]:
    """Tables with a figure and its unit that no command writes, by their first heading."""
    plain = FENCED.sub("", MADE.sub("", text))
    found = {}
    for block in re.findall(r"(?:^\|.*\n?)+", plain, re.MULTILINE):
        heading, _, *rows = block.splitlines()
        body = "\n".join(rows)
        if FIGURE.search(body) or (UNIT.search(heading) and re.search(r"\| *-?\d[\d.]* *\|", body)):
            found[heading.split("|")[1].strip()] = block
    return found


FIGURED = [
    page
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "op4ksr_core/assets/embedded/MODEL_CARD.md"]
    if page.name != "older-versions.md"
]


@pytest.mark.parametrize("page", FIGURED, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_in_tables_come_from_results(page):
    """Put them into docs/results and recipes/results_tables.py, or name the table in BY_HAND and say why."""
    name = str(page.relative_to(ROOT))
    unknown = {
        first: table for first, table in tables_by_hand(page.read_text()).items() if (name, first) not in BY_HAND
    }
    assert unknown == {}


def test_every_exception_is_still_there():
    gone = [(page, first) for page, first in BY_HAND if first not in tables_by_hand((ROOT / page).read_text())]
    assert gone == []


@pytest.mark.parametrize(
    "table", ["| run | s |\n|---|---|\n| a | 4.2 |\n", "| run | took |\n|---|---|\n| a | 4.2 GB |\n"]
)
def test_a_figure_written_by_hand_is_found(table):
    assert list(tables_by_hand(f"# Page\n\n{table}")) == ["run"]
    assert tables_by_hand(f"<!-- results: x -->\n{table}<!-- end of results -->\n") == {}

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

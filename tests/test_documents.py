"""The documents: links lead somewhere, pages stay short, and the site knows each page."""

import re
from pathlib import Path

import pytest
from places import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/gpu/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md")) + [ROOT / "op4ksr_core/assets/embedded/MODEL_CARD.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
LONGEST = 200


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return set(plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_images_are_there(page):
    for target in LINK.findall(page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target} in {page.name}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target} in {page.name}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_is_short_and_on_the_site(page):
    assert len(page.read_text().splitlines()) <= LONGEST
    assert str(page.relative_to(ROOT / "docs")) in (ROOT / "mkdocs.yml").read_text()


def test_the_readme_fits_a_first_visit():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110

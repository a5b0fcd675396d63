"""The documents' tables of results are what docs/results says."""

import json
import shutil

import pytest

from recipes import results_files
from recipes.ablation import document
from recipes.method_tables import UNKNOWN, origin
from recipes.results_files import RESULTS, ROOT
from recipes.results_tables import PAGES, PERFORMANCE, TABLES, TIMED, with_tables


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_tables_of_its_data(name):
    """`python -m recipes.results_tables` writes them."""
    page = (ROOT / name).read_text()
    assert "<!-- results: " in page and with_tables(page) == page


def test_a_number_changed_by_hand_is_put_right():
    page = (ROOT / "docs" / "results.md").read_text()
    table = TABLES["RealSR means"]()
    assert table in page
    assert with_tables(page.replace(table, "| method |\n|---|\n| made up |\n")) == page


def test_an_unknown_table_is_named():
    with pytest.raises(KeyError, match="no such"):
        with_tables("<!-- results: no such -->\n<!-- end of results -->")


SPEED = {
    "machine": "a processor",
    "torch": "2.0",
    "commit": "abc",
    "date": "2026-01-02",
    "threads": 2,
    "px": 4096,
    "commands": {
        "bfloat16": {"s": [41.4, 39.2], "peak_gb": 1.61},
        "realesr-general-x4v3 by ncnn": {"s": [27.1], "peak_gb": 3.1},
    },
    "start": {"import": 1.5},
    "inspector": {"512": {"alone": 0.1, "with the small picture": 0.2, "suppression": 0.3}},
    "passes": {
        "4096 strips": {
            "encode": 7.6,
            "transform": 16.0,
            "decode": 18.0,
            "finish": 3.0,
            "compensate": 12.1,
            "total": 56.7,
            "peak_gb": 2.56,
        }
    },
}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """docs/results with the seconds and gigabytes of SPEED."""
    shutil.copytree(RESULTS, tmp_path / "results")
    (tmp_path / "results" / PERFORMANCE).write_text(json.dumps(SPEED))
    monkeypatch.setattr(results_files, "RESULTS", tmp_path / "results")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("time and memory", "1024x1024 to 4096x4096 px"),
        ("command times", "| bfloat16 | 41.4 and 39.2 | 1.61 |"),
        ("VAE passes", "| 4096 | strips | 7.6 | 16.0 | 18.0 | 3.0 | 12.1 | 56.7 | 2.56 |"),
        ("start", "| import | 1.50 |"),
        ("inspector times", "| 512 | 0.10 | 0.20 | 0.30 |"),
        ("alternatives", "| **the bundled model** | 39 s, 1.6 GB |"),
    ],
)
def test_measured_times_are_put_in(measured, name, row):
    assert row in TABLES[name]()
    page = f"<!-- results: {name} -->\nold\n<!-- end of results -->"
    assert row in with_tables(page) and "old" not in with_tables(page)


@pytest.mark.parametrize("name", TIMED)
def test_times_that_are_not_measured_yet_stay(tmp_path, monkeypatch, name):
    monkeypatch.setattr(results_files, "RESULTS", tmp_path)
    page = f"<!-- results: {name} -->\nold\n<!-- end of results -->"
    assert with_tables(page) == page


def test_every_file_of_results_is_shown_or_linked():
    sources = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").glob("*_tables.py")]
    pages = " ".join(path.read_text() for path in sources)
    assert [file.name for file in RESULTS.glob("*.json") if file.name not in pages] == []


def test_the_ablation_s_table_is_what_its_figures_say():
    figures = json.loads((ROOT / "docs" / "ablation.json").read_text())
    assert document.table(figures["rows"]) in (ROOT / "docs" / "ablation.md").read_text()


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.name)
def test_results_say_where_they_come_from(file):
    """Measured in a clean checkout, or said to be not recorded."""
    figures = json.loads(file.read_text())
    assert figures.keys() >= {"machine", "torch", "commit", "command", "date"}
    assert not figures["commit"].endswith("-dirty")


def test_what_was_not_recorded_is_said():
    said = origin({"machine": "a card", "torch": "2.11", "commit": UNKNOWN, "date": UNKNOWN})
    assert said == "Measured on a card, torch 2.11; not recorded: commit, date."

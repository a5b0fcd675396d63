"""The documents' tables of results are what docs/results says."""

import pytest

from recipes.results_tables import PAGES, ROOT, TABLES, with_tables


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_tables_of_its_data(name):
    """`python -m recipes.results_tables` writes them."""
    page = (ROOT / name).read_text()
    assert "<!-- results: " in page and with_tables(page) == page


def test_a_number_changed_by_hand_is_put_right():
    page = (ROOT / "README.md").read_text()
    table = TABLES["RealSR means"]()
    assert table in page
    assert with_tables(page.replace(table, "| method |\n|---|\n| made up |\n")) == page


def test_an_unknown_table_is_named():
    with pytest.raises(KeyError, match="no such"):
        with_tables("<!-- results: no such -->\n<!-- end of results -->")

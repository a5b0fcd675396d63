"""The table of settings in the documents is as the settings are now."""

from recipes.settings_table import PAGE, table, with_table


def test_the_page_has_the_table_of_today():
    """`python -m recipes.settings_table` writes it."""
    page = PAGE.read_text()
    assert page == with_table(page)


def test_a_stale_table_is_replaced():
    page = PAGE.read_text()
    assert with_table(page.replace("| `--sigma` |", "| `--old` |")) == page
    assert "| `--sigma` |" in table()

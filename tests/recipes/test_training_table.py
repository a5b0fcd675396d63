"""The table of training settings in the documents is as the settings are now."""

from recipes.training_table import PAGE, with_table


def test_the_page_has_the_table_of_today():
    """`python -m recipes.training_table` writes it."""
    page = PAGE.read_text()
    assert "| `--learning-rate` |" in page and page == with_table(page)

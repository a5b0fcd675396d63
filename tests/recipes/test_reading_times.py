"""Answers to common questions are found within a minute."""

import pytest

from recipes.reading_times import LONGEST, PAGE, QUESTIONS, from_heading, seconds, with_tables, words, words_until


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.asked)
def test_an_answer_is_found_within_a_minute(question):
    assert seconds(question) <= LONGEST


def test_only_what_is_seen_is_counted():
    assert words("| a [link](far/away.md#there) |\n|---|\n<!-- a remark -->![a picture](x.png) **b**") == 3


def test_words_are_counted_down_to_the_answer_from_the_heading():
    page = "# Top\n\nlong way\n\n## A part\n\none two\nthree four"
    assert words_until(from_heading(page, "a-part"), "two three") == 5


def test_what_is_not_on_the_page_is_named():
    with pytest.raises(ValueError, match="gone"):
        from_heading("# Top", "gone")
    with pytest.raises(ValueError, match="gone"):
        words_until("# Top", "gone")


def test_the_tables_can_be_made_again():
    page = PAGE.read_text()
    assert with_tables(with_tables(page)) == with_tables(page)

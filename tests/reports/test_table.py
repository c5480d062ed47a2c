"""One table, rendered in three ways."""

import re

import pytest

from selfmod_hf.reports.table import Table, as_html, as_markdown, as_text

TABLE = Table("Two networks", ["name", "RLCT"], [["small", "1.50"], ["a larger one", "-"]])
TEXT = """\
Two networks

name          RLCT
small         1.50
a larger one  -"""
MARKDOWN = """\
Two networks

| name | RLCT |
|---|---|
| small | 1.50 |
| a larger one | - |"""


def test_text_is_aligned():
    assert as_text([TABLE]) == TEXT


def test_markdown():
    assert as_markdown([TABLE]) == MARKDOWN


def test_html_has_the_same_cells():
    page = as_html(TABLE)
    assert re.findall(r"<t[hd](?: scope=\"col\")?>(.*?)</t[hd]>", page) == [
        "name",
        "RLCT",
        "small",
        "1.50",
        "a larger one",
        "-",
    ]
    assert "<caption>Two networks</caption>" in page
    assert "data-network" not in page
    assert 'data-network="small"' in as_html(TABLE, links=True)


@pytest.mark.parametrize("render", [as_text, as_markdown, lambda tables: as_html(tables[0]).strip()])
def test_a_table_without_rows_is_a_sentence_or_nothing(render):
    assert render([Table("Two networks", ["name"], [])]) == ""
    assert "There are none." in render([Table("Two networks", ["name"], [], if_empty="There are none.")])


def test_texts_stay_texts():
    table = Table("<b>", ["a|b"], [["[x](javascript:y)\n# z"], ["<script>"]])
    assert as_markdown([table]).splitlines()[2:] == [
        "| a\\|b |", "|---|", "| [x] (javascript:y) # z |", "| &lt;script&gt; |",
    ]  # fmt: skip
    assert "<script>" not in as_html(table)
    assert "<b>" not in as_html(table)

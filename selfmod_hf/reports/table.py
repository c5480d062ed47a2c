"""Render a table as text, HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from ..hub.card import plain_text

UNFOLDED = 30  # lines of a table that is shown at once


@dataclass(frozen=True)
class Table:
    """Hold a table, built once for all forms of a report.

    Attributes:
        caption: the subject of the table.
        header: names of the columns.
        rows: one text per column.
        if_empty: a sentence in place of a table without rows. Without it nothing is shown.

    Example:
        >>> print(as_text([Table("Two networks", ["seed", "RLCT"], [["1", "33.0"], ["2", "32.5"]])]))
        Two networks
        <BLANKLINE>
        seed  RLCT
        1     33.0
        2     32.5
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    if_empty: str = ""


def as_text(tables: Sequence[Table]) -> str:
    """Return tables as plain text, each with its caption and aligned columns."""
    paragraphs = []
    for table in tables:
        if table.rows:
            paragraphs += [table.caption, _aligned([table.header, *table.rows])]
        elif table.if_empty:
            paragraphs += [table.caption, table.if_empty]
    return "\n\n".join(paragraphs)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    columns = []
    for column in zip(*lines, strict=True):
        width = max(map(len, column))
        columns.append([text.ljust(width) for text in column])
    padded = []
    for cells in zip(*columns, strict=True):
        line = "  ".join(cells)
        padded.append(line.rstrip())
    return "\n".join(padded)


def as_html(table: Table, links: bool = False) -> Markup:
    """Return a table as HTML. A long one is folded.

    Args:
        table: the table. Its texts are escaped.
        links: whether the first column names networks, as links to them.
    """
    template = environment().get_template("table.html.jinja")
    folded = len(table.rows) > UNFOLDED
    return Markup(template.render(table=table, links=links, folded=folded))


@cache
def environment() -> Environment:
    """Return the templates of the HTML report."""
    folder = files(__package__) / "html"
    loader = FileSystemLoader(str(folder))
    return Environment(loader=loader, autoescape=True)


def as_markdown(tables: Sequence[Table]) -> str:
    """Return tables as Markdown, each below its caption. Texts cannot become HTML, links or further cells."""
    paragraphs = []
    for table in tables:
        caption = plain_text(table.caption)
        if table.rows:
            lines = [_markdown_row(table.header), f"|{'---|' * len(table.header)}"]
            lines += map(_markdown_row, table.rows)
            paragraphs += [caption, "\n".join(lines)]
        elif table.if_empty:
            paragraphs += [caption, table.if_empty]
    return "\n\n".join(paragraphs)


def _markdown_row(cells: Sequence[str]) -> str:
    shown = [plain_text(cell) for cell in cells]
    return f"| {' | '.join(shown)} |"

"""The figures of a small package of two rooms, counted by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.code_metrics import (
    CHECKOUT,
    begins_with_verb,
    call_graph,
    count_relative_clauses,
    longest_chain,
    measure,
    measure_rooms,
    read_package,
)

FILES = {
    "__init__.py": "",
    "top.py": """from .deep.low import low


def high():
    return middle()


def middle():
    return low([1])
""",
    "deep/__init__.py": "",
    "deep/low.py": '''"""A file."""


def low(values):
    """Return twice the values; none is left out.

    >>> low([1])
    [2]
    """
    import math  # not at the top

    doubled = [2 * value for value in values]
    return doubled if math.pi else []


def unused(values):
    """A list which nobody needs."""
    return values
''',
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_each_room_is_measured_by_itself(package):
    rooms = measure_rooms(package)
    assert list(rooms) == ["(top)", "deep"]
    deep = rooms["deep"]
    assert (deep.files, deep.code_lines) == (2, 6)
    assert deep.comprehensions_per_1000_lines == deep.conditional_expressions_per_1000_lines == 166.7  # 1 in 6
    assert deep.local_imports_per_1000_lines == 166.7
    assert deep.verb_first_docstrings == deep.docstrings_with_example == 0.5
    assert deep.relative_clauses_per_1000_words == 62.5  # 1 in 16
    assert deep.semicolons_per_1000_words == 62.5
    assert deep.longest_function_lines == 5  # the docstring left out, the blank line not
    top = rooms["(top)"]
    assert (top.files, top.code_lines, top.comprehensions_per_1000_lines) == (2, 5, 0.0)


def test_the_package_is_its_rooms_and_the_chain_of_its_calls(package):
    metrics = measure(package, with_frames=False)
    assert (metrics.files, metrics.code_lines) == (4, 11)
    assert metrics.longest_call_chain == 3  # high, middle, low
    assert metrics.import_circles == 0


def test_a_method_of_a_file_is_not_taken_for_one_of_the_package(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    text = """class Record:
    def read(self):
        return self.fetch()

    def fetch(self):
        return 1


def digest(file):
    return file.read()
"""
    (folder / "records.py").write_text(text, encoding="utf-8")
    assert longest_chain(call_graph(read_package(folder))) == [
        "small.records.Record.read",
        "small.records.Record.fetch",
    ]


def test_a_method_of_a_distribution_is_not_taken_for_one_of_the_package(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    text = """from scipy import stats


class Result:
    def interval(self):
        return 0, 1


def bounds(mean, error):
    return stats.norm.interval(0.95, mean, error)
"""
    (folder / "results.py").write_text(text, encoding="utf-8")
    graph = call_graph(read_package(folder))
    assert graph["small.results.bounds"] == set()


def test_the_command_prints_a_line_for_each_room(package):
    script = str(CHECKOUT / "scripts" / "code_metrics.py")
    command = [sys.executable, script, "--package", str(package), "--rooms"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[-1].split()[:3] == ["deep", "2", "6"]


@pytest.mark.parametrize(
    ("text", "is_verb"),
    [("Return it.", True), ("Returns it.", True), ("Pushes it.", True), ("The result.", False), ("", False)],
)
def test_a_verb_in_either_form(text, is_verb):
    assert begins_with_verb(text) is is_verb


@pytest.mark.parametrize(
    ("text", "count"),
    [("the file that holds it, which is new", 2), ("check that it is so that it runs", 0), ("What it does", 1)],
)
def test_relative_clauses(text, count):
    assert count_relative_clauses(text) == count

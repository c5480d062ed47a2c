"""Each command and each snippet of the documentation is run by a test that exists, or says why not."""

import ast
import re
import shlex
from importlib import import_module

import pytest

from selfmod_hf.cli import COMMANDS
from selfmod_hf.cli.arguments import make_parser
from tests.docs_blocks import NOT_RUN, ROOT, RUN_BY, documents, is_run, pieces


@pytest.mark.parametrize("page", documents())
def test_each_piece_is_run_or_excused(page):
    run = [piece for piece in pieces(page) if is_run(page, piece)]
    assert not run or page in RUN_BY, f"no test runs {run}"
    assert run or page not in RUN_BY


@pytest.mark.parametrize("page", NOT_RUN)
def test_no_excuse_is_left_over(page):
    for start, reason in NOT_RUN[page].items():
        assert any(piece.startswith(start) for piece in pieces(page)), start
        if reason.startswith("tests/"):
            assert (ROOT / reason).is_file(), reason


def test_the_tests_that_run_the_pages_exist():
    for name in {name for names in RUN_BY.values() for name in names}:
        file, _, function = name.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], name


def options(command: str) -> set[str]:
    """The flags of a command."""
    classes = import_module(f"selfmod_hf.cli.{command}").flag_classes()
    return {option for action in make_parser(command, *classes)._actions for option in action.option_strings}


def test_each_flag_exists():
    """Of all commands, also of those that take too long to run."""
    found = 0
    known = {command: options(command) for command in COMMANDS}
    for page in [*documents(), *(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").iterdir())]:
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        for command, rest in re.findall(r"^(?:    |# +|\$ |)selfmod (\w+) ([^\n]*)$", text, flags=re.MULTILINE):
            if command in known:
                words = shlex.split(rest.partition("  #")[0].replace(" ...", ""))
                flags = {word.partition("=")[0] for word in words if word.startswith("--")}
                assert flags <= known[command], (page, command, flags - known[command])
                found += 1
    assert found > 70

"""The self-test's first models, estimated here with few draws, and its verdict."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from selfmod_hf.cli import main
from selfmod_hf.complexity.ground_truth.self_test import HEADER, SelfTest, self_test, verdict


@pytest.fixture(scope="module")
def rows() -> list[SelfTest]:
    return list(itertools.islice(self_test(num_draws=800), 2))


def _moved(row: SelfTest, factor: float) -> SelfTest:
    """The same estimate at a multiple of the truth."""
    return SelfTest(row.case, dataclasses.replace(row.found, llc=factor * row.truth, standard_error=0.1))


def test_estimates_stand_beside_the_truth(rows):
    assert [row.truth for row in rows] == [10.5, 12.0]
    for row in rows:
        assert abs(row.found.llc - row.truth) < 4 * row.found.standard_error
        assert row.relative_difference == row.found.llc / row.truth - 1
        assert row.line().endswith(" %")
        assert HEADER.index("difference") < len(row.line())


def test_an_estimate_that_has_not_converged_says_nothing_and_is_marked(rows):
    (short,) = itertools.islice(self_test(num_draws=4), 1)
    assert short.status != "ok"
    assert short.relative_difference is None
    assert short.line().endswith(short.status)
    right, text = verdict([*rows, _moved(short, 2.0)])
    assert right
    assert text == "RIGHT: 2 of 3 agree with the truth, 1 are marked as not ok"


def test_a_majority_without_an_estimate_is_no_success(rows):
    (short,) = itertools.islice(self_test(num_draws=4), 1)
    right, text = verdict([rows[0], short])
    assert not right
    assert text == "UNDECIDED: 1 of 2 agree with the truth, 1 are marked as not ok: take more draws"


def test_the_verdict_names_what_is_ok_and_wrong(rows):
    right, text = verdict([_moved(rows[0], 1.34), _moved(rows[1], 0.95)])
    assert not right
    assert text == f"WRONG: {rows[0].case.name}: ok and +34.0 %"
    assert verdict([_moved(rows[0], 0.95)])[0]
    assert not verdict([_moved(rows[0], 0.85)])[0]


def test_a_large_error_of_few_draws_is_not_wrong(rows):
    far = _moved(rows[0], 1.3)
    assert far.is_wrong
    uncertain = SelfTest(far.case, dataclasses.replace(far.found, standard_error=1.2))
    assert not uncertain.is_wrong
    wide = SelfTest(far.case, dataclasses.replace(far.found, interval=(10.0, 20.0)))
    assert wide.is_wrong


@pytest.mark.parametrize("count", [pytest.param(3, marks=pytest.mark.slow), pytest.param(9, marks=pytest.mark.weekly)])
def test_the_command_prints_the_table_and_exits_by_its_verdict(count, capsys, monkeypatch):
    """With the first three models, and with all of them."""
    first = lambda *given: itertools.islice(self_test(*given), count)  # noqa: E731
    monkeypatch.setattr("selfmod_hf.complexity.ground_truth.self_test.self_test", first)
    try:
        code = main(["rlct", "--self_test", "--num_draws=8"])
    except SystemExit as stop:
        code = stop.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == HEADER
    assert len(lines) == count + 2
    assert lines[-1].startswith(("WRONG", "UNDECIDED") if code else "RIGHT")

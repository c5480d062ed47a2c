"""The self-test's first models, estimated here with few draws."""

from __future__ import annotations

import itertools

from selfmod_hf.complexity.ground_truth.self_test import self_test


def test_estimates_stand_beside_the_truth():
    first, second = itertools.islice(self_test(num_draws=400), 2)
    assert [row.case.learning_coefficient for row in (first, second)] == [10.5, 12.0]
    for row in (first, second):
        assert abs(row.found.llc - row.case.learning_coefficient) < 4 * row.found.standard_error
        assert row.relative_difference == row.found.llc / row.case.learning_coefficient - 1


def test_an_estimate_that_has_not_converged_says_nothing():
    (row,) = itertools.islice(self_test(num_draws=20), 1)
    assert row.found.result.status != "ok"
    assert row.relative_difference is None

"""The list of cases: two halves of the same kinds, built on demand, always the same."""

from __future__ import annotations

import pytest
import torch

from selfmod_hf.complexity.ground_truth import KINDS, cases

from .independent import gradient_at_minimum


def test_halves_share_no_case_and_have_the_same_kinds():
    first, second = cases(0), cases(1)
    assert len(first) == len(second) == 3 * len(KINDS)
    assert {case.key for case in first}.isdisjoint(case.key for case in second)
    assert [case.kind for case in first] == [case.kind for case in second]
    assert len(cases(0, count=100)) == 100


def test_a_case_is_the_same_every_time_and_another_one_with_another_seed():
    (case,) = cases(1, kinds=["softmax"])[:1]
    first, again = case.build(), case.build()
    assert first.half == 1
    assert first.kind == "softmax"
    assert torch.equal(first.targets, again.targets)
    (other,) = cases(1, seed=16, kinds=["softmax"])[:1]
    assert other.build().name != first.name


@pytest.mark.parametrize("case", cases(0, count=len(KINDS)), ids=lambda case: case.kind)
def test_every_kind_is_at_a_minimum_of_its_loss(case):
    truth = case.build()
    assert truth.kind == case.kind
    assert 0 < truth.learning_coefficient <= truth.num_parameters / 2
    assert gradient_at_minimum(truth) < 2e-5


def test_unknown_halves_and_kinds_are_rejected():
    with pytest.raises(ValueError, match="half=2: must be 0 or 1"):
        cases(2)
    with pytest.raises(ValueError, match="kinds='softmaxx': must be among"):
        cases(0, kinds=["softmaxx"])

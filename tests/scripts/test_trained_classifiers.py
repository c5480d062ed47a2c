"""Classifiers of known training: only good ones are at a minimum of the loss."""

from __future__ import annotations

import pytest
import torch

from scripts.trained_classifiers import KINDS, make_data, trained_classifiers


@pytest.mark.parametrize("shape", ["softmax", pytest.param("mlp", marks=pytest.mark.slow)])
def test_only_good_ones_are_at_a_minimum(shape):
    inputs, labels = make_data(num_samples=600)
    found = {kind: trained_classifiers(kind, shape, [1, 2], inputs, labels) for kind in KINDS}
    for network in found["good"]:
        assert network.gradient < 5e-3
        for others in (found["one epoch"], found["weight decay"], found["collapsed"]):
            for other in others:
                assert other.loss > network.loss + 0.005
                assert other.gradient > 5 * network.gradient


def test_a_network_is_the_same_alone_and_in_company():
    inputs, labels = make_data(num_samples=300)
    first, second = trained_classifiers("one epoch", "mlp", [3, 4], inputs, labels)
    (alone,) = trained_classifiers("one epoch", "mlp", [4], inputs, labels)
    assert alone.loss == pytest.approx(second.loss, rel=1e-5)
    assert first.loss != second.loss
    for parameter, other in zip(alone.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(parameter, other, rtol=1e-3, atol=1e-4)

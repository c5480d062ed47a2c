"""The metric of a network with the same answer for each sample, computed by hand."""

import math

import pytest
import torch
from pandas import DataFrame

from selfmod_hf.data import BlockTensors, TextTensors
from selfmod_hf.experiments.chance import chance_of, is_at_chance, level_of_chance

OFFSETS = torch.tensor([0, 2, 5, 6])


def texts(labels: torch.Tensor, token_labels: torch.Tensor | None = None) -> TextTensors:
    return TextTensors(torch.arange(6), OFFSETS, labels, padded=True, token_labels=token_labels)


def test_of_tokens_it_is_the_share_of_the_most_frequent_class_of_tokens():
    """Not of the most frequent number of tokens, which the labels of such texts are."""
    words = texts(torch.tensor([1, 3, 1]), torch.tensor([0, -100, 2, 2, 2, 1]))
    assert chance_of("accuracy", words, 3) == pytest.approx(3 / 5)


def test_of_several_classes_it_is_the_f1_of_those_that_most_samples_have():
    several = texts(torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert chance_of("f1", several, 3) == pytest.approx(2 * 2 / (3 + 4))  # the first one: 2 right of 3, 4 labels


def test_of_next_tokens_it_is_the_perplexity_of_their_frequencies():
    blocks = BlockTensors(torch.tensor([[7, 1, 1, 2], [7, 1, 1, 2]]))
    shares = (2 / 3, 1 / 3)  # the first token is not predicted
    assert chance_of("perplexity", blocks, 0) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [("perplexity", [4.0, 3.0], [True, False]), ("pearson", [None, 0.3], [True, False])],
)
def test_networks_at_chance(metric, values, expected):
    level = level_of_chance(metric, {"perplexity": 4.0, "pearson": 0.0}[metric], 100)
    rows = DataFrame({"metric": [metric] * 2, metric: values})
    assert is_at_chance(rows, level).tolist() == expected

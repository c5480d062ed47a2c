"""Classes in the order of a model."""

import pytest
import torch

from selfmod_hf.data import TaskData, TextTensors
from selfmod_hf.data.class_order import in_order_of


def texts(labels, token_labels=None) -> TextTensors:
    count = len(labels)
    return TextTensors(torch.arange(count), torch.arange(count + 1), torch.tensor(labels), token_labels=token_labels)


def test_classes_and_labels_of_both_splits_get_the_models_order():
    data = TaskData(texts([0, 1, 1, -100]), texts([1, 0]), ["no", "yes"])
    found = in_order_of(data, {0: "Yes", 1: "NO"})
    assert found.label_names == ["yes", "no"]
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([1, 0, 0, -100], [0, 1])


def test_tokens_and_several_classes():
    tokens = torch.tensor([-100, 0, 1])
    words = texts([0, 1, 1], tokens)
    found = in_order_of(TaskData(words, words, ["no", "yes"]), {0: "yes", 1: "no"})
    assert found.train.token_labels.tolist() == [-100, 1, 0]
    several = texts([[1.0, 0.0], [1.0, 1.0]])
    found = in_order_of(TaskData(several, several, ["no", "yes"]), {0: "yes", 1: "no"})
    assert found.train.labels.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("names", [["yes"], ["yes", "perhaps"], ["yes", "Yes"], ["a", "yes", "no"]])
def test_other_classes_have_no_order(names):
    data = TaskData(texts([0, 1]), texts([1, 0]), ["no", "yes"])
    assert in_order_of(data, dict(enumerate(names))) is None

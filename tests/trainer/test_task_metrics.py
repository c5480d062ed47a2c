"""Metrics by the names of `evaluate`, against numbers computed by hand or by another library."""

import math

import numpy as np
import pytest
import torch
from torchmetrics import functional
from transformers import EvalPrediction

from selfmod_hf.errors import InputError
from selfmod_hf.trainer.task_metrics import BY_FORM, allowed_names, check_names, default_names, make_metrics

GENERATOR = np.random.default_rng(0)


def metrics_of(form: str, predictions, labels) -> dict[str, float]:
    names = [name for name in allowed_names(form) if name != "perplexity"]
    return make_metrics(form, names)(EvalPrediction(predictions=predictions, label_ids=labels))


def test_two_classes():
    logits, labels = GENERATOR.normal(size=(40, 2)), GENERATOR.integers(0, 2, 40)
    found = metrics_of("two classes", logits, labels)
    classes, truth = torch.tensor(logits.argmax(1)), torch.tensor(labels)
    assert found == {
        "accuracy": pytest.approx((classes == truth).double().mean().item()),
        "f1": pytest.approx(functional.f1_score(classes, truth, task="binary").item()),
        "matthews_correlation": pytest.approx(functional.matthews_corrcoef(classes, truth, task="binary").item()),
    }


def test_three_classes_without_those_that_have_no_label():
    logits, labels = GENERATOR.normal(size=(40, 3)), GENERATOR.integers(0, 3, 40)
    labels[:7] = -100
    found = metrics_of("classes", logits, labels)
    classes, truth = torch.tensor(logits[7:].argmax(1)), torch.tensor(labels[7:])
    expected = functional.f1_score(classes, truth, task="multiclass", num_classes=3, average="macro").item()
    assert found["f1"] == pytest.approx(expected)
    assert found["accuracy"] == pytest.approx((classes == truth).double().mean().item())


def test_several_labels_per_sample():
    logits, labels = GENERATOR.normal(size=(30, 4)), GENERATOR.integers(0, 2, (30, 4)).astype(np.float32)
    found = metrics_of("labels", logits, labels)
    chosen, truth = torch.tensor(logits), torch.tensor(labels).long()
    probabilities = chosen.sigmoid()
    expected = functional.f1_score(probabilities, truth, task="multilabel", num_labels=4, average="micro").item()
    assert found["f1"] == pytest.approx(expected)
    assert found["accuracy"] == pytest.approx(((chosen > 0) == truth.bool()).all(1).double().mean().item())


def test_one_label_per_sample_has_the_f1_of_its_marks():
    given = EvalPrediction(predictions=np.array([[1.0], [-1.0], [-1.0], [1.0]]), label_ids=np.eye(4)[:, :1])
    assert make_metrics("labels", ["f1"])(given)["f1"] == pytest.approx(2 / 3)


def test_four_choices_have_an_accuracy():
    given = EvalPrediction(predictions=np.eye(4), label_ids=np.array([0, 1, 2, 0]))
    assert make_metrics("choices", default_names("choices"))(given) == {"accuracy": 0.75}


def test_spans_without_answers_outside_of_their_text():
    first, last = np.eye(6)[[1, 2, 4, 0]], np.eye(6)[[2, 4, 3, 0]]  # the third ends before it begins
    labels = (np.array([1, 3, 4, 0]), np.array([2, 5, 4, 1_000_000]))
    found = make_metrics("spans", default_names("spans"))(EvalPrediction(predictions=(first, last), label_ids=labels))
    # of the second 2 tokens are common, 3 are predicted and 3 true
    assert found == {"exact_match": pytest.approx(1 / 3), "f1": pytest.approx((1 + 2 / 3 + 0) / 3)}


def test_scores_and_sets_without_those_that_are_missing():
    nan = np.nan
    labels = np.array([1.0, -100.0, nan])
    assert metrics_of("scores", np.array([[1.0], [-98.0], [5.0]]), labels)["mse"] == 2.0
    sets = np.array([[1.0, 0.0], [-100.0, -100.0], [nan, nan]])
    assert metrics_of("labels", np.array([[1.0, -1.0], [1.0, 1.0], [1.0, 1.0]]), sets) == {"f1": 1.0, "accuracy": 1.0}


def test_missing_whole_scores_are_left_out_as_from_the_loss():
    found = metrics_of("scores", np.array([[1.0], [2.0], [4.0]]), np.array([1, -100, 2]))
    assert found == {"pearson": pytest.approx(1.0), "spearmanr": pytest.approx(1.0), "mse": 2.0}


def test_several_scores_of_a_sample_are_correlated_one_by_one():
    """Together they would correlate by their different sizes alone."""
    labels = np.array([[1.0, 101.0], [2.0, 102.0], [3.0, 103.0], [np.nan, 105.0]])
    predictions = np.array([[1.0, 103.0], [2.0, 102.0], [3.0, 101.0], [9.0, 99.0]])
    found = metrics_of("scores", predictions, labels)
    assert found["pearson"] == pytest.approx(0.0)
    assert found["spearmanr"] == pytest.approx(0.0)
    assert found["mse"] == pytest.approx((4 + 4 + 36) / 7)


def test_scores():
    labels = GENERATOR.normal(size=50)
    predictions = labels[:, None] + GENERATOR.normal(size=(50, 1))
    found = metrics_of("scores", predictions, labels)
    given = torch.tensor(predictions[:, 0]), torch.tensor(labels)
    assert found == {
        "pearson": pytest.approx(functional.pearson_corrcoef(*given).item()),
        "spearmanr": pytest.approx(functional.spearman_corrcoef(*given).item()),
        "mse": pytest.approx(functional.mean_squared_error(*given).item()),
    }


@pytest.mark.parametrize("broken", [np.full((5, 1), 2.0), np.array([[1.0], [np.nan], [3.0], [4.0], [5.0]])])
def test_constant_and_infinite_predictions_have_no_correlation(broken):
    found = metrics_of("scores", broken, np.arange(5.0))
    assert math.isnan(found["pearson"])
    assert math.isnan(found["spearmanr"])


def test_tokens_without_those_that_have_no_label():
    classes = np.array([[0, 1, 2, 2], [1, 1, 0, 0]])
    labels = np.array([[0, 1, 1, -100], [1, 0, -100, -100]])
    found = metrics_of("tokens", classes, labels)
    # five tokens: 0 is found once of two (precision 1), 1 twice of three (precision 2/3), 2 is wrong once
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_the_next_token_is_predicted_one_place_before():
    classes = np.array([[5, 6, 7], [5, 0, 7]])
    labels = np.array([[4, 5, 6], [4, 5, -100]])
    assert metrics_of("next tokens", classes, labels) == {"accuracy": 1.0}


@pytest.mark.parametrize("form", BY_FORM)
def test_nothing_is_computed_without_labels(form):
    names = default_names(form)
    if form in ("next tokens", "masked tokens"):
        assert make_metrics(form, names) is None
        return
    if form == "spans":
        given = EvalPrediction(predictions=(np.zeros((0, 5)),) * 2, label_ids=(np.zeros(0),) * 2)
        assert make_metrics(form, names)(given) == {}
        return
    shape = {"labels": (0, 3), "tokens": (0, 5)}.get(form, (0,))
    given = EvalPrediction(predictions=np.zeros((*shape, 2))[..., 0], label_ids=np.zeros(shape))
    assert make_metrics(form, names)(given) == {}


def test_names_of_other_labels_and_unknown_names_are_rejected():
    with pytest.raises(InputError, match=r"^metrics='mse': allowed with these labels are accuracy, f1, matthews_corr"):
        make_metrics("classes", ["accuracy", "mse"])
    with pytest.raises(InputError, match=r"^metrics='bleu': allowed are accuracy, exact_match, f1, matthews_correlat"):
        check_names(["f1", "bleu"])

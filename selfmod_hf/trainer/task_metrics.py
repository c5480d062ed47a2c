"""Metrics of an evaluation, by the names of the modules of `evaluate`, computed without a download.

| form of the labels | metrics (default in bold) |
|---|---|
| two classes | **accuracy**, f1 (of the second class), matthews_correlation |
| classes | **accuracy**, f1 (the mean over classes), matthews_correlation |
| labels (several per sample) | **f1** (of all labels together), **accuracy** (of complete sets) |
| scores | **pearson**, **spearmanr**, **mse** |
| tokens | **accuracy**, **f1** (the mean over classes). Both are of single tokens, not of entities like seqeval's |
| next tokens, masked tokens | **perplexity**, accuracy |
| choices | **accuracy** |
| spans | **exact_match**, **f1** (the mean over samples). Both are of tokens, not of texts like squad's |

Networks that keep their task model's own head have f1 and matthews_correlation by default too, with two classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from transformers import EvalPrediction

from ..errors import InputError
from ..extras import need
from ..models.losses_self_modeling import IGNORED_LABEL
from ..models.tasks_self_modeling import label_form
from .terms import accuracy
from .wrapped_networks import is_wrapped

Array = np.ndarray
Metric = Callable[[Array, Array], float]  # (predictions, labels)
Metrics = Callable[[EvalPrediction], dict[str, float]]

LANGUAGE = ("next tokens", "masked tokens")  # forms of labels of language models
OF_TOKENS = ("tokens", *LANGUAGE)
PERPLEXITY = "perplexity"  # of the mean loss of an evaluation, so it needs no predictions
SMALLER_IS_BETTER = (PERPLEXITY, "mse")


def _accuracy(predictions: Array, labels: Array) -> float:
    return float((predictions == labels).mean())


def _accuracy_of_sets(predictions: Array, labels: Array) -> float:
    return float((predictions == labels).all(axis=-1).mean())


def _f1_of_two(predictions: Array, labels: Array) -> float:
    return _f1_score(labels, predictions, "binary")


def _f1(predictions: Array, labels: Array) -> float:
    return _f1_score(labels, predictions, "macro")


def _f1_of_sets(predictions: Array, labels: Array) -> float:
    # scikit-learn's micro average takes a single column as one of two classes
    return _f1_score(labels.ravel(), predictions.ravel(), "binary")


def _f1_score(labels: Array, predictions: Array, average: str) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average=average, zero_division=0.0))


def _matthews(predictions: Array, labels: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def _pearson(predictions: Array, labels: Array) -> float:
    return _correlation(stats.pearsonr, predictions, labels)


def _spearman(predictions: Array, labels: Array) -> float:
    return _correlation(stats.spearmanr, predictions, labels)


def _correlation(function: Callable[..., Any], predictions: Array, labels: Array) -> float:
    """Return a correlation, the mean over the scores of a sample.

    Args:
        function: of scipy.
        predictions: (N, L).
        labels: (N, L), NaN for a missing one.
    """
    found = []
    for own, true in zip(predictions.T, labels.T, strict=True):
        counted = ~np.isnan(true)
        if counted.any():
            found.append(_correlation_of_one(function, own[counted], true[counted]))
    return float(np.mean(found))


def _correlation_of_one(function: Callable[..., Any], predictions: Array, labels: Array) -> float:
    """Return a correlation, or NaN if either side is constant or not finite."""
    is_constant = np.ptp(predictions) == 0 or np.ptp(labels) == 0
    if is_constant or not np.isfinite(predictions).all():
        return math.nan
    return float(function(predictions, labels).statistic)


def _mean_square_error(predictions: Array, labels: Array) -> float:
    return float(np.nanmean(np.square(predictions - labels)))  # NaN is a missing label


def _exact_match(predictions: Array, labels: Array) -> float:
    return float((predictions == labels).all(axis=-1).mean())


def _f1_of_spans(predictions: Array, labels: Array) -> float:
    """Return the mean over samples of the F1 of tokens in two spans, each (N, 2): the first and the last token."""
    starts = np.maximum(predictions[:, 0], labels[:, 0])
    ends = np.minimum(predictions[:, 1], labels[:, 1])
    common = np.maximum(ends - starts + 1, 0)
    own = np.maximum(predictions[:, 1] - predictions[:, 0] + 1, 0)
    true = labels[:, 1] - labels[:, 0] + 1
    return float((2 * common / (own + true)).mean())


# form of the labels -> metrics by their names
BY_FORM: Mapping[str, Mapping[str, Metric]] = {
    "two classes": {"accuracy": _accuracy, "f1": _f1_of_two, "matthews_correlation": _matthews},
    "classes": {"accuracy": _accuracy, "f1": _f1, "matthews_correlation": _matthews},
    "labels": {"f1": _f1_of_sets, "accuracy": _accuracy_of_sets},
    "scores": {"pearson": _pearson, "spearmanr": _spearman, "mse": _mean_square_error},
    "tokens": {"accuracy": _accuracy, "f1": _f1},
    "next tokens": {"accuracy": _accuracy},
    "masked tokens": {"accuracy": _accuracy},
    "choices": {"accuracy": _accuracy},
    "spans": {"exact_match": _exact_match, "f1": _f1_of_spans},
}
OF_SKLEARN = (_f1, _f1_of_two, _f1_of_sets, _matthews)
NAMES = sorted({name for metrics in BY_FORM.values() for name in metrics} | {PERPLEXITY})


def check_names(names: Sequence[str]) -> None:
    """Raise an InputError for the first name of no metric."""
    for name in names:
        if name not in NAMES:
            raise InputError("metrics", name, f"allowed are {', '.join(NAMES)}")


def allowed_names(form: str) -> list[str]:
    """Return the names of the metrics of a form of labels.

    Example:
        >>> allowed_names("next tokens")
        ['accuracy', 'perplexity']
    """
    names = list(BY_FORM[form])
    if form in LANGUAGE:
        names.append(PERPLEXITY)
    return names


def default_names(form: str) -> list[str]:
    """Return the names of the metrics of a network that keeps its task model's own head.

    Example:
        >>> default_names("classes"), default_names("tokens")
        (['accuracy'], ['accuracy', 'f1'])
    """
    if form in LANGUAGE:
        return [PERPLEXITY]
    if form == "classes":
        return ["accuracy"]
    return allowed_names(form)


def evaluated_names(model: Any) -> list[str]:
    """Return the names of the metrics of a network's evaluation, unless it is asked for others."""
    if not is_wrapped(model):
        return ["accuracy"]
    return default_names(label_form(model.config))


def make_metrics(form: str, names: Sequence[str]) -> Metrics | None:
    """Return a function for `compute_metrics` of a Trainer.

    Args:
        form: of the labels.
        names: of metrics.

    Returns:
        The function from predictions and labels. Predictions are logits, or classes of the labels' shape. None: nothing
        is computed from predictions.

    Raises:
        InputError: a metric of other labels.

    Example:
        >>> metrics = make_metrics("scores", ["mse"])
        >>> metrics(EvalPrediction(predictions=np.array([[1.0], [2.0]]), label_ids=np.array([1.0, 4.0])))
        {'mse': 2.0}
    """
    allowed = allowed_names(form)
    for name in names:
        if name not in allowed:
            problem = "allowed is none with these labels"
            if allowed:
                problem = f"allowed with these labels are {', '.join(allowed)}"
            raise InputError("metrics", name, problem)
    functions = {name: BY_FORM[form][name] for name in names if name != PERPLEXITY}
    for name, function in functions.items():
        if function in OF_SKLEARN:
            need(f"the metric {name}", "metrics", "sklearn")
    if not functions:
        return None

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        predictions, labels = _counted(form, prediction)
        if not labels.size:
            return {}
        return {name: metric(predictions, labels) for name, metric in functions.items()}

    return compute


def _counted(form: str, prediction: EvalPrediction) -> tuple[Array, Array]:
    """Return predictions and labels in equal shapes, without samples or tokens that have no label."""
    predictions = prediction.predictions
    if form == "spans":
        return _counted_spans(predictions, prediction.label_ids)
    if isinstance(predictions, tuple):
        predictions = predictions[0]
    labels = np.asarray(prediction.label_ids)
    if form == "labels":
        counted = ~(np.isnan(labels) | (labels == IGNORED_LABEL)).any(axis=-1)  # (N,)
        return (predictions[counted] > 0).astype(int), labels[counted].astype(int)
    if form == "scores":
        if np.issubdtype(labels.dtype, np.integer):  # no NaN can mark a missing one
            labels = np.where(labels == IGNORED_LABEL, np.nan, labels)
        labels = labels.astype(np.float64)
        if labels.ndim == 1:
            labels = labels[:, None]  # (N, L)
        counted = ~np.isnan(labels).all(axis=1)
        predictions = predictions.reshape(labels.shape).astype(np.float64)
        return predictions[counted], labels[counted]
    if predictions.ndim > labels.ndim:
        predictions = predictions.argmax(axis=-1)
    if form == "next tokens":
        predictions = predictions[:, :-1]
        labels = labels[:, 1:]
    counted = labels != IGNORED_LABEL
    return predictions[counted], labels[counted]


def _counted_spans(logits: Any, labels: Any) -> tuple[Array, Array]:
    """Return the most probable and the true spans, each (N, 2), of the samples whose answer is in their text.

    Args:
        logits: (N, T) of the first token, the same of the last one, and further outputs.
        labels: (N,) of the first token, and of the last one.
    """
    first, last = logits[:2]
    predicted = np.stack([first.argmax(axis=-1), last.argmax(axis=-1)], axis=1)
    true = np.stack(labels, axis=1)
    within = (true >= 0) & (true < first.shape[1])
    counted = within.all(axis=1) & (true[:, 0] <= true[:, 1])
    return predicted[counted], true[counted]


def chosen_metrics(model: Any, names: Sequence[str] | None, given: Metrics | None) -> Metrics | None:
    """Return what computes the metrics of an evaluation.

    Args:
        model: the network.
        names: of metrics. None: the default ones.
        given: a `compute_metrics`. A function of the user's own goes before the default names.

    Raises:
        InputError: names beside a function of the user's own, or metrics of other labels.
    """
    if given is not accuracy:
        if names is not None:
            raise InputError("metrics", list(names), "allowed without `compute_metrics`")
        return given
    if names is None and not is_wrapped(model):
        return given
    form = label_form(model.config)
    if names is None:
        names = default_names(form)
    return make_metrics(form, names)

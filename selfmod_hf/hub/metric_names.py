"""Name the metrics of a card. A card's readers compare by these names, so they say what a figure is a mean of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..models.tasks_self_modeling import label_form

if TYPE_CHECKING:
    from ..models import SelfModelingConfig

WIDTH = "weight_width"
# by the names of the modules of `evaluate`
METRICS = {
    "accuracy": "Accuracy",
    "exact_match": "Exact match",
    "f1": "F1",
    "matthews_correlation": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearmanr": "Spearman correlation",
    "mse": "Mean square error",
    "perplexity": "Perplexity",
    WIDTH: "Weight width (SD of the last layer's weights)",
}
# form of the labels -> names that say more. The forms are those of `label_form`
_OF_FORM: Mapping[str, Mapping[str, str]] = {
    "two classes": {"f1": "F1 (of the second class)"},
    "classes": {"f1": "F1 (mean over classes)"},
    "labels": {"f1": "F1 (of all labels together)", "accuracy": "Accuracy (of complete sets)"},
    "tokens": {"f1": "F1 of tokens (mean over classes)", "accuracy": "Accuracy of tokens"},
    "masked tokens": {"accuracy": "Accuracy of tokens"},
    "next tokens": {"accuracy": "Accuracy of tokens"},
    "spans": {"f1": "F1 of an answer's tokens", "exact_match": "Exact match of an answer's tokens"},
}
# form of the labels -> argument `average` of scikit-learn's F1
_AVERAGES = {"two classes": "binary", "classes": "macro", "labels": "micro", "tokens": "macro"}


def metric_title(metric: str, config: SelfModelingConfig) -> str:
    """Return the name of a metric for people.

    Args:
        metric: a key of `METRICS`.
        config: of the network.
    """
    return _OF_FORM.get(label_form(config), {}).get(metric, METRICS[metric])


def metric_arguments(metric: str, config: SelfModelingConfig) -> dict[str, str]:
    """Return the arguments that the module of `evaluate` needs for the same figure.

    Args:
        metric: a key of `METRICS`.
        config: of the network.
    """
    average = _AVERAGES.get(label_form(config))
    if metric != "f1" or average is None:
        return {}
    return {"average": average}

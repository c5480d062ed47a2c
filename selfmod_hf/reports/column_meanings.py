"""Say the meaning of each column in the tables of a study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from ..complexity.result import STATUSES
from ..experiments.run_settings import GROUPS

KNOWN = {
    "task": "name of the task",
    "hidden_size": "width of the last hidden layer; null for networks without one",
    "aux_weight": "weight of the self-modeling loss (the paper's AW); 0 is the baseline",
    "seed": "of the initial weights and the order of the samples",
    "detach_targets": "whether the predicted activations are constants for the gradient",
    "arm": "name of the network's arm, the networks that differ by their seed only",
    "metric": "name of the metric that the study compares",
    "accuracy": "share of the test split's labels that are predicted correctly",
    "exact_match": "share of the test split's answers that are right to the token",
    "f1": "F1 score of the test split",
    "matthews_correlation": "Matthews correlation of the test split's classes",
    "pearson": "Pearson correlation of the test split's scores",
    "spearmanr": "Spearman correlation of the test split's scores",
    "mse": "mean square error of the test split's scores",
    "perplexity": "exp of the mean loss of a token of the test split",
    "weight_width": "standard deviation of the last layer's weights",
    "rlct": "local learning coefficient of the pruned network; null where a chain diverged",
    "rlct_standard_error": "its Monte Carlo standard error",
    "rlct_status": f"one of {', '.join(STATUSES)}",
    "rlct_status_reason": "why, in one line",
    "nbeta": "inverse temperature times number of samples used for the RLCT",
    "rlct_preset": "name of the sampler's settings",
    "rlct_rhat": "split R-hat of the kept draws",
    "rlct_ess": "their effective sample size",
    "train_loss": "mean loss over the training split at the trained weights, nats",
    "num_epochs": "epochs trained",
    "stopped_epoch": "epoch at which a stopping rule ended the training; null where it did not",
    "modelability_from_other_seed": "of the other network; null where there was none",
    "batch_size": "samples of a training step",
    "learning_rate": "of the optimizer",
    "weights_sha256": "SHA-256 of the network's model.safetensors, which the figures are of",
    "epoch": "epochs trained so far",
    "classification_loss": "mean task loss over the epoch's training steps, nats",
    "self_modeling_loss": "mean squared error of the predicted activations over the same steps",
    "loss": "their weighted sum",
}
# measures of selfmod_hf.measures. docs/measures.md defines them
FURTHER = {
    "activation_mean_square": "mean of the squared inputs of the last layer, test split",
    "dead_units": "share of the units with the same value for each test sample",
    "effective_rank": "exp of the entropy of the shares of the centered features' singular values, test split",
    "unit_free_width": "weight width after each hidden unit is rescaled to root mean square 1",
    "prunable_share": "largest share of the last layer's weights that can be set to 0 at 0.01 loss of accuracy",
    "calibration_error": "expected calibration error of the test split, 15 bins",
    "accuracy_under_noise": "accuracy with normal noise on each pixel, of one standard deviation of the pixels",
    "modelability": "held-out R² of a ridge regression from the input to the features, mean over the units",
    "modelability_of_variance": "the same, each unit weighed by its variance",
    "modelability_from_other": "modelability from the features of a network of another seed, not from the input",
}
OWN = "a measure of the study's author"


def column_meanings(columns: Iterable[str], axes: Sequence[str], measures: Sequence[str]) -> dict[str, str]:
    """Return the meaning of each column.

    Args:
        columns: of a table.
        axes: those in which arms differ.
        measures: those of further measures.

    Example:
        >>> column_meanings(["seed", "weight_decay"], ["weight_decay"], [])["weight_decay"]
        'setting of the arm: weight decay coefficient applied by the optimizer'
    """
    found = {}
    for column in columns:
        meaning = KNOWN.get(column, "")
        if column in measures and not meaning:
            meaning = FURTHER.get(column, OWN)
        elif column in axes and not meaning:
            meaning = f"setting of the arm: {_help(column)}"
        found[column] = meaning
    return found


def _help(name: str) -> str:
    """Return the first sentence of a setting's help text, or its name in words."""
    for group in GROUPS:
        for field in fields(group):
            text = str(field.metadata.get("help", ""))
            if field.name == name and text:
                first = text.partition(". ")[0].partition("; ")[0]
                return f"{first[0].lower()}{first[1:]}".rstrip(".")
    return name.replace("_", " ")

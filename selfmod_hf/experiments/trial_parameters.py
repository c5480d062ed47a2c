"""The parameters of a trial, as Optuna keeps them and as fields of a run."""

from __future__ import annotations

from typing import Any

from .setting import Values

MEMBER_PARAMETERS = ("aux_weight", "learning_rate")  # may differ within a population
LAYER_PARAMETERS = ("hidden_sizes", "target_layers")  # are shared by a population
JOINED = {"hidden_sizes": "-", "target_layers": "+"}  # between the layers of one choice


def as_run_fields(parameters: Values) -> dict[str, Any]:
    """Return a trial's parameters as fields of `RunSettings`.

    >>> as_run_fields({"aux_weight": 2.0, "hidden_sizes": "32-16"})
    {'aux_weight': 2.0, 'hidden_sizes': [32, 16]}
    """
    fields = dict(parameters)
    if "hidden_sizes" in fields:
        sizes = fields["hidden_sizes"].split(JOINED["hidden_sizes"])
        fields["hidden_sizes"] = [int(size) for size in sizes]
    if "target_layers" in fields:
        fields["target_layers"] = fields["target_layers"].split(JOINED["target_layers"])
    return fields

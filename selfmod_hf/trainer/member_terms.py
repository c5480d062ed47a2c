"""Targets and terms of the loss of a population's members, by the plain model's functions.

The members' networks are one batched computation, whatever their targets are. Only this last part, which is small, is
computed for the members of equal targets at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.func import vmap

from ..models import SelfModelingConfig
from ..models.fields_self_modeling import INSIDE
from ..models.losses_self_modeling import LossInputs, activation_mean_squares, loss_terms
from ..models.targets_self_modeling import choose_targets

Tensors = Mapping[str, Tensor]  # by name


def inputs_of(members: slice, config: SelfModelingConfig, given: LossInputs, shared: bool) -> LossInputs:
    """Return the arguments for the losses of some members.

    Args:
        members: neighbours with equal targets.
        config: of one of them.
        given: labels (K, B), or (B,) for all members. Divisors (K,). Targets from outside of the network (K, B, n).
        shared: whether there is one batch for all members.
    """
    labels, items, targets = given
    if labels is not None and not shared:
        labels = labels[members]
    if isinstance(items, Tensor):
        items = items[members]
    if targets is not None:
        targets = targets[members] if config.target_source not in INSIDE else None
    return LossInputs(labels, items, targets)


def targets_and_terms(
    config: SelfModelingConfig, outputs: Tensors, given: LossInputs, shared: bool, penalty: bool
) -> dict[str, Tensor]:
    """Return `self_model_targets` and the terms of the loss of members with equal targets.

    Args:
        config: of one of them.
        outputs: of the plain model for each member, with activations as targets.
        given: of `inputs_of`.
        shared: whether there is one batch for all members.
        penalty: whether any member of the population has an activation penalty. Then all have this term, and it has a
            gradient for those with a penalty.
    """
    dims: dict[str, Any] = {}
    for name, value in given._asdict().items():
        dims[name] = None if value is None else 0
    if shared:
        dims["labels"] = None
    mapped = vmap(partial(_of_one, config, penalty), in_dims=(0, LossInputs(**dims)))
    return mapped(outputs, given)


def _of_one(config: SelfModelingConfig, penalty: bool, outputs: Tensors, given: LossInputs) -> dict[str, Tensor]:
    parts = dict(outputs)
    own = parts.pop("self_model_targets", None)
    found = {}
    if own is not None:
        chosen = choose_targets(config, own, given.self_model_targets, given.labels is not None)
        if chosen is not None:
            found["self_model_targets"] = chosen
        if penalty:
            penalized = own if config.activation_penalty > 0 else own.detach()
            found["activation_mean_squares"] = activation_mean_squares(penalized)
    return {**found, **loss_terms(config, {**parts, **found}, given)}

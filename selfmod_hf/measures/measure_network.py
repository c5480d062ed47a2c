"""The further measures of trained networks, from their features and logits on a task's data."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

from ..data import ImageTensors, TaskData
from ..data.tensors import spread
from ..errors import InputError
from ..extras import need
from ..json_records import NetworkRow
from ..models import SelfModelingPreTrainedModel
from ..models.classifier_weights import classifier_bias, classifier_weight, last_layer
from .hidden import dead_units, effective_rank, mean_square
from .last_layer import prunable_share, unit_free_width
from .modelability import UnitScores, modelability, unit_scores
from .observed import Observed, as_matrix, has_finite_weights, observe
from .own_measures import OwnMeasure, own_measures
from .predictions import accuracy, calibration_error

MEASURES = (
    "activation_mean_square",
    "dead_units",
    "effective_rank",
    "unit_free_width",
    "prunable_share",
    "calibration_error",
    "accuracy_under_noise",
    "modelability",
    "modelability_of_variance",
)
# how the units of a network are weighed
MODELABILITIES = {"modelability": UnitScores.of_units, "modelability_of_variance": UnitScores.of_variance}
FROM_OTHER = "modelability_from_other"  # needs a second network
OF_EXTRA = {"calibration_error": "torchmetrics", **dict.fromkeys((*MODELABILITIES, FROM_OTHER), "sklearn")}

NOISE = 1.0  # of `accuracy_under_noise`, in standard deviations of the test split's inputs
FITTED = 5000  # samples at most that `modelability` is fitted to
UNITS_AT_ONCE = 4096  # features of networks that are held at once

Network = SelfModelingPreTrainedModel
Values = dict[str, float | None]


def measure_network(
    model: Network,
    data: TaskData[Any],
    measures: Sequence[str | OwnMeasure] = MEASURES,
    *,
    other: Network | None = None,
) -> Values:
    """Return measures of a trained network. docs/measures.md defines them, with their sources.

    All are computed on the test split, from the inputs of the last layer. `modelability` is fitted to at most
    5,000 samples of the training split.

    Args:
        model: the network.
        data: both splits of its task.
        measures: names of MEASURES, or `modelability_from_other`. Functions `(model, data) -> dict[str, float]` of the
            user add the columns that they return.
        other: a network of another seed. Its features predict this one's: the measure `modelability_from_other`.

    Returns:
        A number for each measure. None: it is not defined for these data (noise is not for texts), or the network has
        diverged. The user's functions are not called with a network that has diverged.

    Raises:
        InputError: an unknown measure, or a function that returns something else than numbers of new columns.

    Example:
        >>> from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, TaskSpec, load_images
        >>> data = load_images(TaskSpec(name="digits", dataset_name=None))
        >>> network = SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[16], image_size=8))
        >>> def number_of_classes(model, data):
        ...     return {"classes": len(data.label_names)}
        >>> found = measure_network(network, data, ["dead_units", number_of_classes])
        >>> sorted(found), found["classes"]
        (['classes', 'dead_units'], 10.0)
    """
    (found,) = measure_networks([model], data, measures, others=[other])
    return found


def measure_networks(
    models: Sequence[Network],
    data: TaskData[Any],
    measures: Sequence[str | OwnMeasure] = MEASURES,
    *,
    others: Sequence[Network | None] | None = None,
    columns: Collection[str] = (),
) -> list[Values]:
    """Return the measures of several networks of one task, such as a population's members.

    They are those of `measure_network`, up to rounding. The inputs are read and decomposed once for all networks.

    Args:
        models: the networks.
        data: both splits of their task.
        measures: as for `measure_network`.
        others: for each network one of another seed, or None.
        columns: further names that the user's functions may not use, beside those of the measures and of `NetworkRow`.

    Raises:
        InputError: as for `measure_network`, or another number of `others` than of networks.

    Example:
        >>> from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, TaskSpec, load_images
        >>> data = load_images(TaskSpec(name="digits", dataset_name=None))
        >>> config = SelfModelingConfig(hidden_sizes=[16], image_size=8)
        >>> networks = [SelfModelingForImageClassification(config) for _ in range(2)]
        >>> [sorted(found) for found in measure_networks(networks, data, ["dead_units"], others=networks[::-1])]
        [['dead_units', 'modelability_from_other'], ['dead_units', 'modelability_from_other']]
    """
    names, functions = divide_measures(measures)
    if others is None:
        others = [None] * len(models)
    if len(others) != len(models):
        raise InputError("others", len(others), f"allowed is one for each of {len(models)} networks, or None")
    results: list[Values] = []
    for part in _groups(models):
        networks = [_Network(models[k], others[k], data) for k in part]
        found = _measure_group(networks, names)
        if any(name in MODELABILITIES for name in names):
            _add_modelability(networks, found, data)
        for network, values in zip(networks, found, strict=True):
            if network.is_finite:
                taken = {*MEASURES, FROM_OTHER, *NetworkRow.model_fields, *columns}
                values |= own_measures(functions, network.model, data, taken)
            results.append(values)
    return results


def divide_measures(measures: Sequence[str | OwnMeasure]) -> tuple[list[str], list[OwnMeasure]]:
    """Return the names and the functions among measures, each once.

    Raises:
        InputError: an unknown name.
        MissingExtraError: a measure needs a package of the extra `metrics`.

    Example:
        >>> divide_measures(["dead_units", "dead_units"])
        (['dead_units'], [])
    """
    names: list[str] = []
    functions: list[Callable[..., Any]] = []
    for measure in measures:
        if callable(measure):
            functions.append(measure)
        elif measure in MEASURES or measure == FROM_OTHER:
            if measure in OF_EXTRA:
                need(f"the measure {measure}", "metrics", OF_EXTRA[measure])
            names.append(measure)
        else:
            allowed = ", ".join((*MEASURES, FROM_OTHER))
            raise InputError("measures", measure, f"allowed are {allowed}, and in Python functions (model, data)")
    return list(dict.fromkeys(names)), list(dict.fromkeys(functions))


def _groups(models: Sequence[Network]) -> Iterator[list[int]]:
    """Yield the numbers of networks whose features are held at once."""
    group: list[int] = []
    units = 0
    for k, model in enumerate(models):
        _, layer = last_layer(model)
        own = layer.in_features
        if group and units + own > UNITS_AT_ONCE:
            yield group
            group, units = [], 0
        group.append(k)
        units += own
    if group:
        yield group


def _measure_group(networks: Sequence[_Network], names: Sequence[str]) -> list[Values]:
    """Return the measures of each network by their names. Modelabilities are None."""
    results: list[Values] = []
    for network in networks:
        found: Values = dict.fromkeys(names)
        if network.other is not None:
            found[FROM_OTHER] = None
        for name in found:
            if network.is_finite and name not in MODELABILITIES:
                found[name] = _finite(getattr(network, name)())
        results.append(found)
    return results


def _add_modelability(networks: Sequence[_Network], results: Sequence[Values], data: TaskData[Any]) -> None:
    """Add the wanted modelabilities of each network to its results."""
    readable = [k for k, network in enumerate(networks) if network.is_finite and network.fitted.is_finite]
    if not readable:
        return
    found = unit_scores(
        as_matrix(data.train, spread(len(data.train), FITTED)),
        [networks[k].fitted.features for k in readable],
        as_matrix(data.test, range(len(data.test))),
        [networks[k].test.features for k in readable],
    )
    for k, scores in zip(readable, found, strict=True):
        for name in results[k].keys() & MODELABILITIES.keys():
            results[k][name] = _finite(MODELABILITIES[name](scores))


def _finite(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return value


class _Network:
    """Compute each of MEASURES by the method of its name, from one pass over the test split."""

    def __init__(self, model: Network, other: Network | None, data: TaskData[Any]) -> None:
        self.model = model
        self.other = other
        self.data = data
        self.weight = classifier_weight(model).float().cpu()  # (C, F)
        self.bias = classifier_bias(model).float().cpu()  # (C,)

    @cached_property
    def test(self) -> Observed:
        return observe(self.model, self.data.test)

    @cached_property
    def labelled(self) -> Observed | None:
        """The test samples with a class. None: there is none."""
        found = self.test.labelled()
        if len(found.labels) == 0:
            return None
        return found

    @cached_property
    def fitted(self) -> Observed:
        return observe(self.model, self.data.train, spread(len(self.data.train), FITTED))

    @cached_property
    def is_finite(self) -> bool:
        """Whether the network has not diverged."""
        return has_finite_weights(self.model) and self.test.is_finite

    def activation_mean_square(self) -> float:
        return mean_square(self.test.features)

    def dead_units(self) -> float:
        return dead_units(self.test.features)

    def effective_rank(self) -> float:
        return effective_rank(self.test.features)

    def unit_free_width(self) -> float:
        return unit_free_width(self.weight, self.test.features)

    def prunable_share(self) -> float | None:
        if self.labelled is None or self.test.are_means:
            return None
        return prunable_share(self.weight, self.bias, self.labelled.features, self.labelled.labels)

    def calibration_error(self) -> float | None:
        if self.labelled is None:
            return None
        return calibration_error(self.labelled.logits, self.labelled.labels)

    def accuracy_under_noise(self) -> float | None:
        if not isinstance(self.data.test, ImageTensors) or self.labelled is None:
            return None
        some = self.data.test.batch(spread(len(self.data.test), FITTED))
        size = float(some["pixel_values"].std())
        noisy = observe(self.model, self.data.test, noise=NOISE * size)
        if not noisy.is_finite:
            return None
        noisy = noisy.labelled()
        return accuracy(noisy.logits, noisy.labels)

    def modelability_from_other(self) -> float | None:
        if self.other is None or not has_finite_weights(self.other):
            return None
        other = _Network(self.other, None, self.data)
        read = (other.fitted, other.test, self.fitted)
        if not all(observed.is_finite for observed in read):
            return None
        inputs, held_out = other.fitted.features.numpy(), other.test.features.numpy()
        return modelability(inputs, self.fitted.features, held_out, self.test.features)

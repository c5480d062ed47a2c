"""A list of ground truth for tables: models of many kinds in two halves, one to develop on and one to test with once.

Sizes and data of case k of a kind come from (seed, kind, k) alone. Even k are in half 0, odd k in half 1. Rules and
thresholds may be chosen by looking at half 0. Half 1 is for one run at the end.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .deep_linear import deep_linear
from .generic_linear import generic_deep_linear, reduced_rank, with_noise
from .known import GroundTruth
from .powers import products_of_powers, sum_of_powers
from .regular import linear_regression, regular
from .relu import relu_teacher
from .softmax import factored_softmax, softmax_regression
from .tanh import tanh_network, tanh_units
from .transforms import inputs_scaled, permuted, repeated, with_unused

Build = Callable[[random.Random, int], GroundTruth]  # (choices, seed of the data)

OF_EACH_KIND = 3  # cases in a half, if no count is given


@dataclass(frozen=True)
class Case:
    """Hold a model that is built when it is asked for.

    Attributes:
        kind: a key of `KINDS`.
        number: k, among those of its kind.
        half: 0 for development, 1 for the final test.
        seed: of the list.
    """

    kind: str
    number: int
    half: int
    seed: int = field(repr=False)

    @property
    def key(self) -> str:
        """Return a name that no other case of the list has."""
        return f"{self.kind} {self.number}"

    def build(self) -> GroundTruth:
        """Return the model and its data. The same case gives the same model."""
        digest = hashlib.sha256(f"{self.seed}/{self.kind}/{self.number}".encode()).digest()
        choices = random.Random(digest)
        truth = KINDS[self.kind](choices, choices.randrange(2**31))
        return dataclasses.replace(truth, kind=self.kind, half=self.half)


def cases(
    half: int,
    count: int | None = None,
    seed: int = 15,
    kinds: Sequence[str] | None = None,
) -> list[Case]:
    """Return cases of one half, one of each kind in turn.

    Args:
        half: 0 or 1.
        count: number of cases. None: three of each kind.
        seed: of sizes and data.
        kinds: some keys of `KINDS`. None: all.

    Raises:
        ValueError: an unknown half or kind.

    Example:
        >>> [case.key for case in cases(0, count=2)]
        ['linear regression 0', 'linear regression, noise 0']
        >>> cases(1, kinds=["sum of powers"])[0].build().half
        1
    """
    if half not in (0, 1):
        raise ValueError(f"half={half!r}: must be 0 or 1")
    chosen = list(KINDS)
    if kinds is not None:
        chosen = list(kinds)
    for kind in chosen:
        if kind not in KINDS:
            raise ValueError(f"kinds={kind!r}: must be among {', '.join(KINDS)}")
    if count is None:
        count = OF_EACH_KIND * len(chosen)
    found = []
    for place in range(count):
        number = 2 * (place // len(chosen)) + half
        kind = chosen[place % len(chosen)]
        found.append(Case(kind, number, half, seed))
    return found


# ---- one function a kind: sizes at random, within what a laptop estimates in a minute or two ----


def _regular(choices: random.Random, seed: int) -> GroundTruth:
    return regular(choices.randint(5, 30), choices.randint(1, 5), seed=seed)


def _noisy_regression(choices: random.Random, seed: int) -> GroundTruth:
    num_inputs = choices.randint(5, 40)
    noise = choices.choice([0.5, 1.0, 2.0])
    num_samples = choices.choice([5000, 20_000, 60_000])
    return linear_regression(num_inputs, noise=noise, num_samples=num_samples, seed=seed)


def _correlated_regression(choices: random.Random, seed: int) -> GroundTruth:
    condition = choices.choice([10.0, 100.0, 1000.0, 10_000.0])
    return linear_regression(choices.randint(5, 40), condition=condition, seed=seed)


def _softmax(choices: random.Random, seed: int) -> GroundTruth:
    return softmax_regression(choices.randint(3, 20), choices.randint(2, 10), seed=seed)


def _redundant_softmax(choices: random.Random, seed: int) -> GroundTruth:
    return softmax_regression(choices.randint(3, 20), choices.randint(2, 10), redundant=True, seed=seed)


def _factored_softmax(choices: random.Random, seed: int) -> GroundTruth:
    num_classes = choices.randint(3, 8)
    num_hidden = num_classes + choices.randint(-1, 8)
    return factored_softmax(choices.randint(4, 16), num_hidden, num_classes, seed=seed)


def _widths(choices: random.Random, least_layers: int, most_layers: int, largest: int) -> list[int]:
    layers = choices.randint(least_layers, most_layers)
    return [choices.randint(3, largest) for _ in range(layers + 1)]


def _aligned(choices: random.Random, seed: int) -> GroundTruth:
    widths = _widths(choices, 2, 4, 14)
    return deep_linear(widths, choices.randint(1, min(widths)), seed=seed)


def _generic(choices: random.Random, seed: int) -> GroundTruth:
    widths = _widths(choices, 2, 3, 16)
    return generic_deep_linear(widths, choices.randint(1, min(widths)), seed=seed)


def _noisy_generic(choices: random.Random, seed: int) -> GroundTruth:
    widths = _widths(choices, 2, 3, 12)
    quiet = generic_deep_linear(widths, choices.randint(1, min(widths)), seed=seed)
    return with_noise(quiet, 1.0, seed=seed)


def _ill_conditioned(choices: random.Random, seed: int) -> GroundTruth:
    widths = _widths(choices, 2, 3, 12)
    rank = choices.randint(2, min(widths))
    return generic_deep_linear(widths, rank, condition=choices.choice([3.0, 10.0]), seed=seed)


def _low_rank(choices: random.Random, seed: int) -> GroundTruth:
    widths = _widths(choices, 2, 5, 12)
    return generic_deep_linear(widths, choices.choice([0, 1]), seed=seed)


def _reduced_rank(choices: random.Random, seed: int) -> GroundTruth:
    hidden = choices.randint(2, 10)
    outside = hidden + choices.randint(0, 8)
    other = choices.randint(2, 12)
    rank = choices.randint(0, min(hidden, other) - 1)
    full = choices.choice(["first", "last"])
    widths = [outside, hidden, other]
    if full == "last":
        widths.reverse()
    quiet = reduced_rank(widths, rank, full=full, seed=seed)
    if choices.random() < 0.5:
        return quiet
    return with_noise(quiet, 1.0, seed=seed)


def _sum_of_powers(choices: random.Random, seed: int) -> GroundTruth:
    blocks = choices.randint(4, 30)
    return sum_of_powers([choices.randint(1, 4) for _ in range(blocks)], num_samples=20_000, seed=seed)


def _products_of_powers(choices: random.Random, seed: int) -> GroundTruth:
    pairs = []
    for _ in range(choices.randint(2, 12)):
        pairs.append((choices.randint(1, 2), choices.randint(1, 3)))
    return products_of_powers(pairs, num_samples=20_000, seed=seed)


def _tanh_units(choices: random.Random, seed: int) -> GroundTruth:
    return tanh_units(choices.randint(2, 20), num_samples=20_000, seed=seed)


def _tanh_network(choices: random.Random, seed: int) -> GroundTruth:
    return tanh_network(choices.randint(1, 2), num_samples=20_000, seed=seed)


def _relu_sizes(choices: random.Random) -> tuple[int, int, int]:
    return (choices.randint(3, 8), choices.randint(2, 6), choices.randint(2, 5))


def _dead_relu(choices: random.Random, seed: int) -> GroundTruth:
    return relu_teacher(_relu_sizes(choices), dead=choices.randint(1, 20), seed=seed)


def _idle_relu(choices: random.Random, seed: int) -> GroundTruth:
    num_outputs = choices.randint(2, 3)
    widths = (num_outputs + choices.randint(2, 5), choices.randint(2, 6), num_outputs)
    return relu_teacher(widths, idle=choices.randint(1, 3), seed=seed)


def _unused(choices: random.Random, seed: int) -> GroundTruth:
    base = choices.choice([_noisy_regression, _softmax, _generic])
    return with_unused(base(choices, seed), choices.randint(5, 100), seed=seed)


def _permuted(choices: random.Random, seed: int) -> GroundTruth:
    base = choices.choice([_softmax, _generic, _dead_relu])
    return permuted(base(choices, seed), seed=seed)


def _scaled(choices: random.Random, seed: int) -> GroundTruth:
    base = choices.choice([_noisy_regression, _softmax, _dead_relu])
    return inputs_scaled(base(choices, seed), 10.0)


def _repeated(choices: random.Random, seed: int) -> GroundTruth:
    num_inputs = choices.randint(5, 20)
    if choices.random() < 0.5:
        few = linear_regression(num_inputs, num_samples=4000, seed=seed)
    else:
        few = softmax_regression(num_inputs, 4, num_samples=4000, seed=seed)
    return repeated(few, 5)


KINDS: dict[str, Build] = {
    "linear regression": _regular,
    "linear regression, noise": _noisy_regression,
    "linear regression, correlated inputs": _correlated_regression,
    "softmax": _softmax,
    "softmax, redundant": _redundant_softmax,
    "softmax, factored": _factored_softmax,
    "deep linear, aligned": _aligned,
    "deep linear, generic": _generic,
    "deep linear, generic, noise": _noisy_generic,
    "deep linear, ill conditioned": _ill_conditioned,
    "deep linear, rank 0 or 1": _low_rank,
    "reduced rank, one full layer": _reduced_rank,
    "sum of powers": _sum_of_powers,
    "products of powers": _products_of_powers,
    "tanh at zero, own outputs": _tanh_units,
    "tanh at zero, one output": _tanh_network,
    "relu, dead units": _dead_relu,
    "relu, idle units": _idle_relu,
    "unused parameters": _unused,
    "permuted": _permuted,
    "inputs scaled": _scaled,
    "data repeated": _repeated,
}

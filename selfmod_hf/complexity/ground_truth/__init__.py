"""Models of known learning coefficient, so that a wrong estimate can be recognized.

Each function returns a `GroundTruth`: a model at w*, data, the loss, and λ. w* is always a minimum of the loss on the
data themselves. Without noise the targets are the model's own outputs. With noise w* is fitted to the targets, or the
noise is orthogonal to the inputs. With noisy targets and the *true* w* an estimate would be low by a factor of about
1 - 1/log n, because the noise moves the minimum away from w*.
"""

from .case_list import KINDS, Case, cases
from .deep_linear import deep_linear, deep_linear_cases, deep_linear_coefficient, deep_linear_multiplicity
from .exact_linear import DeepLinearMean
from .generic_linear import generic_deep_linear, reduced_rank, with_noise
from .known import REFERENCE_LOCALIZATION, GroundTruth
from .normal_crossing import normal_crossing
from .powers import products_of_powers, sum_of_powers
from .regular import linear_regression, regular
from .relu import relu_teacher
from .softmax import factored_softmax, softmax_regression
from .tanh import tanh_network, tanh_units
from .transforms import inputs_scaled, permuted, repeated, with_unused

__all__ = [
    "KINDS",
    "REFERENCE_LOCALIZATION",
    "Case",
    "DeepLinearMean",
    "GroundTruth",
    "cases",
    "deep_linear",
    "deep_linear_cases",
    "deep_linear_coefficient",
    "deep_linear_multiplicity",
    "factored_softmax",
    "generic_deep_linear",
    "inputs_scaled",
    "linear_regression",
    "normal_crossing",
    "permuted",
    "products_of_powers",
    "reduced_rank",
    "regular",
    "relu_teacher",
    "repeated",
    "softmax_regression",
    "sum_of_powers",
    "tanh_network",
    "tanh_units",
    "with_noise",
    "with_unused",
]

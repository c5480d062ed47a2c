"""Models of known learning coefficient, so that a wrong estimate can be recognized.

Each function returns a `GroundTruth`: a model at w*, data, the loss, and λ. w* is always a minimum of the loss on the
data themselves. Without noise the targets are the model's own outputs. With noise w* is fitted to the targets, or the
noise is orthogonal to the inputs. With noisy targets and the *true* w* an estimate would be low by a factor of about
1 - 1/log n, because the noise moves the minimum away from w*.
"""

from .deep_linear import deep_linear, deep_linear_cases, deep_linear_coefficient
from .known import REFERENCE_LOCALIZATION, GroundTruth
from .normal_crossing import normal_crossing
from .regular import linear_regression, regular
from .softmax import factored_softmax, softmax_regression

__all__ = [
    "REFERENCE_LOCALIZATION",
    "GroundTruth",
    "deep_linear",
    "deep_linear_cases",
    "deep_linear_coefficient",
    "factored_softmax",
    "linear_regression",
    "normal_crossing",
    "regular",
    "softmax_regression",
]

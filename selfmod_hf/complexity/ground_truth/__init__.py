"""Models of known learning coefficient, so that a wrong estimate can be recognized.

Each function returns a `GroundTruth`: a model at its true parameters w*, data, the loss, and λ. The targets are the
model's own outputs, so that w* is a minimum of the empirical loss too. With noisy targets and the true w* an estimate
is low by a factor of about 1 - 1/log n, because the noise moves the minimum away from w*.
"""

from .deep_linear import deep_linear, deep_linear_cases, deep_linear_coefficient
from .known import GroundTruth
from .normal_crossing import normal_crossing
from .regular import regular

__all__ = [
    "GroundTruth",
    "deep_linear",
    "deep_linear_cases",
    "deep_linear_coefficient",
    "normal_crossing",
    "regular",
]

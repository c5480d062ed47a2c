"""Models whose learning coefficient is known, so that an estimator can be wrong and be seen to be.

Each function gives a `GroundTruth`: a model at its true parameters w*, data whose targets are the model's own
outputs (so that w* is a minimum of the empirical loss too), the loss, and λ. With noisy targets and the true
w* an estimate is low by a factor of about 1 - 1/log n: the noise moves the minimum away from w*.
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

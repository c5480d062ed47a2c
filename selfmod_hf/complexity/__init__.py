"""Complexity of trained networks: the local learning coefficient (RLCT) and the width of the weights.

Plain torch: any `nn.Module`, any loss, and nothing of Hugging Face. Start at `estimate_llc` (llc.py).

* `samplers/` holds the dynamics, `chains.py` runs them stacked, and `pieces.py` cuts a run to fit into memory.
* `diagnostics.py` measures how far they can be trusted.
* `calibration.py` chooses a step size and a localization.
* `probes.py` computes the singular fluctuation, WAIC and Bayesian influence functions of the losses of single samples.
* `ground_truth/` has models of known answer.
"""

from importlib import import_module
from typing import Any

# at once: a lazy name equal to its module's would be shadowed by the module
from .weight_width import WeightWidth, weight_width

# public name -> its module, imported on first use, so that weight_width alone loads no sampler
_EXPORTS: dict[str, str] = {
    "Biases": ".biases",
    "LLCCalibration": ".calibration",
    "LLCResult": ".result",
    "PRESETS": ".presets",
    "calibrate_llc": ".calibration",
    "cross_entropy": ".sample_losses",
    "estimate_llc": ".llc",
    "estimate_llc_many": ".llc",
    "half_squared_error": ".sample_losses",
    "influences": ".probes",
    "llc_preset": ".presets",
    "singular_fluctuation": ".probes",
    "waic": ".probes",
}

__all__ = ["WeightWidth", "weight_width", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name], __name__), name)

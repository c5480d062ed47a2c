"""Further measures of a trained network, beside accuracy, weight width and RLCT. docs/measures.md defines each.

The functions of arrays are pure. `measure_network` runs a network over its data and calls them.
"""

from .hidden import dead_units, effective_rank, mean_square
from .last_layer import prunable_share, unit_free_width
from .measure_network import FROM_OTHER, MEASURES, divide_measures, measure_network, measure_networks
from .modelability import UnitScores, modelability, unit_scores
from .predictions import calibration_error

__all__ = [
    "FROM_OTHER",
    "MEASURES",
    "UnitScores",
    "calibration_error",
    "dead_units",
    "divide_measures",
    "effective_rank",
    "mean_square",
    "measure_network",
    "measure_networks",
    "modelability",
    "prunable_share",
    "unit_free_width",
    "unit_scores",
]

"""The Hugging Face face of training: arguments, Trainer, callbacks."""

from .callbacks import RLCTCallback, WeightWidthCallback
from .freezing import freeze_parameters
from .population_trainer import PopulationTrainer
from .rlct import calibrate_rlct, estimate_rlct
from .trainer import SelfModelingTrainer
from .training_args import SelfModelingTrainingArguments

__all__ = [
    "PopulationTrainer",
    "RLCTCallback",
    "SelfModelingTrainer",
    "SelfModelingTrainingArguments",
    "WeightWidthCallback",
    "calibrate_rlct",
    "estimate_rlct",
    "freeze_parameters",
]

"""The Hugging Face face of training: arguments, Trainer, callbacks."""

from .callbacks import WeightWidthCallback
from .trainer import SelfModelingTrainer
from .training_args import SelfModelingTrainingArguments

__all__ = ["SelfModelingTrainer", "SelfModelingTrainingArguments", "WeightWidthCallback"]

"""Arguments of `SelfModelingTrainer`: those of transformers, and what self-modeling adds."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class SelfModelingTrainingArguments(TrainingArguments):
    """As `transformers.TrainingArguments`, with these differences.

    Attributes:
        log_weight_width: log the standard deviation of the last layer's weights after each epoch.
        logging_nan_inf_filter: False here: a loss that is NaN or infinite is logged as it is.
        ddp_find_unused_parameters: False here: every parameter of these models gets a gradient.

    Several GPUs are used under `accelerate launch`, one process each; a single process uses one (torch's
    DataParallel would run one model's hooks in several threads).
    """

    log_weight_width: bool = field(
        default=True, metadata={"help": "Log the standard deviation of the last layer's weights after each epoch."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "DDP looks for parameters without a gradient, at some cost a step."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Replace NaN and infinite losses by an average when logging."}
    )

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)

"""Arguments of `SelfModelingTrainer`: those of transformers, and what self-modeling adds."""

import math
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments


@dataclass
class SelfModelingTrainingArguments(TrainingArguments):
    """As `transformers.TrainingArguments`, with these differences.

    Attributes:
        log_weight_width: log the standard deviation of the last layer's weights after each epoch.
        rlct_every_n_epochs: estimate and log the RLCT after every n-th epoch; 0: never.
        rlct_preset: its settings, a name that `selfmod_hf.complexity.llc_preset` knows.
        logging_nan_inf_filter: False here: a loss that is NaN or infinite is logged as it is.
        ddp_find_unused_parameters: False here: every parameter of these models gets a gradient.

    Several GPUs are used under `accelerate launch`, one process each; a single process uses one (torch's
    DataParallel would run one model's hooks in several threads).

    Raises:
        ValueError: a batch size, an accumulation, a number of epochs or a learning rate that is not positive; fp16 on a
            CPU, where Accelerate (1.15) would train in float32 without a word.
    """

    log_weight_width: bool = field(
        default=True, metadata={"help": "Log the standard deviation of the last layer's weights after each epoch."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "DDP looks for parameters without a gradient, at some cost a step."}
    )
    rlct_every_n_epochs: int = field(
        default=0, metadata={"help": "Estimate and log the RLCT on the training set after every n-th epoch; 0: never."}
    )
    rlct_preset: str = field(default="paper", metadata={"help": "Its settings: paper, paper-text or theory."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Replace NaN and infinite losses by an average when logging."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed are integers of at least 1")
        if self.rlct_every_n_epochs < 0:
            raise ValueError(f"rlct_every_n_epochs={self.rlct_every_n_epochs!r}: allowed are integers of at least 0")
        for name in ("num_train_epochs", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed are finite numbers above 0")
        if self.fp16 and (self.use_cpu or not torch.accelerator.is_available()):
            raise ValueError("fp16=True: allowed on accelerators; on a CPU take bf16")

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)

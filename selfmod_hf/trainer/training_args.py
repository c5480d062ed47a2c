"""Arguments of `SelfModelingTrainer`: those of transformers, and what self-modeling adds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ..complexity import PRESETS
from ..hub.license import check_license

_COMPILE_MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
# arguments of transformers that these models or torch would refuse in the middle of the work: what can be used
_USABLE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bf16_full_eval": (lambda value: not value, "is False; mixed_precision is for evaluation too"),
    "fp16_full_eval": (lambda value: not value, "is False; mixed_precision is for evaluation too"),
    # its name up to transformers 5.23 was gradient_checkpointing, which later versions keep as an alias
    "activation_checkpointing": (lambda value: not value, "is False, and so for gradient_checkpointing"),
    "gradient_checkpointing": (lambda value: not value, "is False: targets are taken in the one forward pass"),
    "label_smoothing_factor": (lambda value: value == 0, "is 0: the loss of both terms is the model's own"),
    "train_sampling_strategy": (lambda value: value == "random", "is random: the order follows from the seed alone"),
    "neftune_noise_alpha": (lambda value: value is None, "is None: no noise is added to embeddings"),
    "use_liger_kernel": (lambda value: not value, "is False: Liger has no kernels for self-modeling networks"),
    "batch_eval_metrics": (lambda value: not value, "is False: metrics are taken over the whole split"),
    "eval_do_concat_batches": (lambda value: value, "is True: metrics are taken over the whole split"),
    "eval_accumulation_steps": (lambda value: value is None or value >= 1, "are None and integers of at least 1"),
    "seed": (lambda value: 0 <= value < 2**32, "are integers from 0 to 2**32 - 1"),
    "data_seed": (lambda value: value is None or 0 <= value < 2**32, "are integers from 0 to 2**32 - 1"),
    "optim_args": (
        lambda value: not value or all(entry.count("=") == 1 for entry in value.split(",")),
        "are NAME=VALUE, joined by commas",
    ),
    "rlct_preset": (lambda value: value in PRESETS, f"are {', '.join(PRESETS)}"),
    "torch_compile_mode": (lambda value: value in _COMPILE_MODES, f"are {', '.join(map(str, _COMPILE_MODES))}"),
}


@dataclass
class SelfModelingTrainingArguments(TrainingArguments):
    """As `transformers.TrainingArguments`, with these differences.

    Attributes:
        log_weight_width: log the standard deviation of the last layer's weights after each epoch.
        tensorboard_figures_every_n_epochs: where `report_to` has TensorBoard, wandb or trackio, log the histogram of
            the last layer's weights and a picture of predicted against actual activations after every n-th epoch; 0:
            never.
        run_name: of the trackers' run; default: the output folder's name.
        project: of the trackers; default: the task's name, where the Trainer has one.
        rlct_every_n_epochs: estimate and log the RLCT after every n-th epoch; 0: never.
        rlct_preset: its settings, a name that `selfmod_hf.complexity.llc_preset` knows.
        use_cpu: True on a machine without an accelerator.
        license: of the network in its card, an identifier of the Hub such as ``apache-2.0``; None: that of the card on
            the Hub, else that of the pretrained backbone, else none.
        logging_nan_inf_filter: False here: a loss that is NaN or infinite is logged as it is.
        ddp_find_unused_parameters: None: of transformers' encoders and timm's models, some of which have parameters
            that nothing uses; the package's own networks have none.

    Several GPUs are used under `accelerate launch`, one process each; a single process uses one (torch's
    DataParallel would run one model's hooks in several threads).

    Raises:
        ValueError: a batch size, an accumulation, a number of epochs or a learning rate that is not positive; an
            interval of RLCTs or figures below 0; an unknown `rlct_preset`; a seed outside 0 to 2**32 - 1; fp16 on a
            CPU, where Accelerate (1.15) would train in float32 without a word; what these models or torch cannot use
            (half precision for evaluation alone, label smoothing, another order of samples, NEFTune's noise, metrics by
            batch, an evaluation's batches kept apart, fewer than one of them accumulated, an unknown mode of
            torch.compile); a wrong entry within transformers' own dicts (`accelerator_config`, `fsdp_config`).
    """

    log_weight_width: bool = field(
        default=True, metadata={"help": "Log the standard deviation of the last layer's weights after each epoch."}
    )
    tensorboard_figures_every_n_epochs: int = field(
        default=1,
        metadata={
            "help": "With --report_to tensorboard, wandb or trackio: a histogram of the last layer's weights and a "
            "picture of predicted against actual activations after every n-th epoch; 0: never."
        },
    )
    ddp_find_unused_parameters: bool | None = field(
        default=None,
        metadata={
            "help": "DDP looks for parameters without a gradient, at some cost a step; default: with transformers' "
            "encoders and timm's models, which may have some."
        },
    )
    rlct_every_n_epochs: int = field(
        default=0, metadata={"help": "Estimate and log the RLCT on the training set after every n-th epoch; 0: never."}
    )
    rlct_preset: str = field(default="paper", metadata={"help": "Its settings: paper, paper-text or theory."})
    license: str | None = field(
        default=None,
        metadata={
            "help": "License in the card of what is pushed, by the Hub's identifier (apache-2.0, mit, ...); default: "
            "that of the card on the Hub, else that of the pretrained backbone, else none."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Replace NaN and infinite losses by an average when logging."}
    )

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            # else transformers rejects bf16, and Accelerate takes a launcher of several for a single process
            self.use_cpu = True
        try:
            super().__post_init__()
        except (TypeError, AttributeError, KeyError) as error:  # of an entry within accelerator_config, fsdp, ...
            raise ValueError(f"training arguments: {error}") from error
        for name, (usable, allowed) in _USABLE.items():
            value = getattr(self, name, False)  # older versions of transformers have one name of two
            if not usable(value):
                raise ValueError(f"{name}={value!r}: allowed {allowed}")
        self._check_numbers()
        check_license(self.license)
        for name in self.report_to:
            _check_tracker(name)
        if self.fp16 and (self.use_cpu or not torch.accelerator.is_available()):
            raise ValueError("fp16=True: allowed on accelerators; on a CPU take bf16")

    def _check_numbers(self) -> None:
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed are integers of at least 1")
        for name in ("rlct_every_n_epochs", "tensorboard_figures_every_n_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed are integers of at least 0")
        for name in ("num_train_epochs", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r}: allowed are finite numbers above 0")

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)


def _check_tracker(name: str) -> None:
    try:
        get_reporting_integration_callbacks([name])
    except ValueError as error:
        raise ValueError(f"report_to={name!r}: {error}") from error

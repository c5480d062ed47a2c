"""Arguments of `SelfModelingTrainer`: those of transformers, and those of self-modeling."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from ..complexity import PRESETS
from ..errors import InputError
from ..extras import is_installed, need
from ..hub.license import check_license
from .member import Member, check_rules
from .task_metrics import SMALLER_IS_BETTER, check_names

_COMPILE_MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def _is_off(value: Any) -> bool:
    return not value


def _is_seed(value: Any) -> bool:
    return 0 <= value < 2**32


def _is_assignments(value: Any) -> bool:
    if not value:
        return True
    return all(entry.count("=") == 1 for entry in value.split(","))


# Arguments with values that would fail later, in these models or in torch: a test of the value, and the allowed ones.
_USABLE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bf16_full_eval": (_is_off, "is False; mixed_precision is for evaluation too"),
    "fp16_full_eval": (_is_off, "is False; mixed_precision is for evaluation too"),
    "label_smoothing_factor": (lambda value: value == 0, "is 0: the loss of both terms is the model's own"),
    "train_sampling_strategy": (lambda value: value == "random", "is random: the order follows from the seed alone"),
    "neftune_noise_alpha": (lambda value: value is None, "is None: no noise is added to embeddings"),
    "use_liger_kernel": (_is_off, "is False: Liger has no kernels for self-modeling networks"),
    "batch_eval_metrics": (_is_off, "is False: metrics are taken over the whole split"),
    "eval_do_concat_batches": (bool, "is True: metrics are taken over the whole split"),
    "eval_accumulation_steps": (lambda value: value is None or value >= 1, "are None and integers of at least 1"),
    "seed": (_is_seed, "are integers from 0 to 2**32 - 1"),
    "data_seed": (lambda value: value is None or _is_seed(value), "are integers from 0 to 2**32 - 1"),
    "optim_args": (_is_assignments, "are NAME=VALUE, joined by commas"),
    "rlct_preset": (PRESETS.__contains__, f"are {', '.join(PRESETS)}"),
    "torch_compile_mode": (_COMPILE_MODES.__contains__, f"are {', '.join(map(str, _COMPILE_MODES))}"),
}

# These update each number from its own gradient alone, so members do not influence each other.
ELEMENTWISE_OPTIMIZERS = ("sgd", "adamw_torch", "adamw_torch_fused", "rmsprop", "adagrad")
LOSS_DEPENDENT_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
# polynomial decay ends at a rate of its own, 1e-7. It is not proportional to the first one.
_ABSOLUTE_SCHEDULES = ("polynomial",)
_ABSOLUTE_ENTRY = "min_lr"


@dataclass
class SelfModelingTrainingArguments(TrainingArguments):
    """Hold the arguments of `transformers.TrainingArguments`, with these differences.

    With several GPUs, use `accelerate launch`, one process each. A single process uses one GPU, because torch's
    DataParallel would run one model's hooks in several threads.

    Attributes:
        log_weight_width: log the standard deviation of the last layer's weights after each epoch.
        tensorboard_figures_every_n_epochs: log the histogram of the last layer's weights and a picture of predicted
            against actual activations after every n-th epoch. They go to the trackers in `report_to`. 0: never.
        run_name: of the trackers' run. Default: the output folder's name.
        project: of the trackers. Default: the task's name, if the Trainer has a task.
        rlct_every_n_epochs: estimate and log the RLCT after every n-th epoch. 0: never.
        rlct_preset: its settings, a name for `selfmod_hf.complexity.llc_preset`.
        use_cpu: True on a machine without an accelerator.
        weight_decay_parameters: names of the parameters that decay, with wildcards (``classifier.*``). None: all except
            biases and norms, like transformers.
        stop_at_train_loss: end the training after the first epoch with at most this mean classification loss. It is
            the logged `classification_loss` of that epoch. None: no such rule.
        early_stopping_patience: end the training after so many evaluations in a row that do not improve the evaluated
            classification loss, or `metric_for_best_model` if it is given. None: no such rule.
        metrics: names of the metrics of an evaluation, see `selfmod_hf.trainer.task_metrics`. None: accuracy, and for a
            network that keeps its task model's own head the metrics of its task.
        license: of the network in its card, an identifier of the Hub such as ``apache-2.0``. None: the license of the
            card on the Hub, else that of the pretrained backbone, else none.
        logging_nan_inf_filter: False here, so a loss of NaN or infinity is logged unchanged.
        ddp_find_unused_parameters: None: True for transformers' encoders and timm's models, because some of them have
            unused parameters. The package's own networks have none.

    Raises:
        ValueError: a batch size, an accumulation, a number of epochs, a learning rate, a patience or a loss to stop at
            of 0 or less. Early stopping without evaluations. An
            interval of RLCTs or figures below 0. An unknown `rlct_preset`. A seed outside 0 to 2**32 - 1. fp16 on a
            CPU, because Accelerate (1.15) would train in float32 without a message. Features that these models or
            torch cannot use: half precision for evaluation alone, label smoothing, another order of samples, NEFTune's
            noise, metrics by batch, separate or less than one accumulated batch of an evaluation. An unknown mode of
            torch.compile. A wrong entry in transformers' own dicts (`accelerator_config`, `fsdp_config`).

    Example:
        >>> SelfModelingTrainingArguments("runs/mine", rlct_every_n_epochs=5).rlct_preset
        'paper'
    """

    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "A checkpoint to go on from, or last: the newest complete one of the output folder."},
    )
    log_weight_width: bool = field(
        default=True,
        metadata={"help": "Log the standard deviation of the last layer's weights after each epoch."},
    )
    tensorboard_figures_every_n_epochs: int = field(
        default=1,
        metadata={
            "help": "With a tracker (tensorboard, wandb, trackio): a histogram of the last layer's weights and a "
            "picture of predicted against actual activations after every n-th epoch. 0: never."
        },
    )
    ddp_find_unused_parameters: bool | None = field(
        default=None,
        metadata={
            "help": "DDP looks for parameters without a gradient, at some cost a step. Default: with transformers' "
            "encoders and timm's models, because they may have some."
        },
    )
    rlct_every_n_epochs: int = field(
        default=0,
        metadata={"help": "Estimate and log the RLCT on the training set after every n-th epoch. 0: never."},
    )
    rlct_preset: str = field(
        default="paper",
        metadata={"help": "Settings of the RLCTs of a training: paper, paper-text or theory."},
    )
    weight_decay_parameters: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the parameters with weight decay, with wildcards, such as classifier.*. "
            "Default: all except biases and norms, as transformers has it."
        },
    )
    stop_at_train_loss: float | None = field(
        default=None,
        metadata={
            "help": "Stop after the first epoch with at most this mean classification loss on the training batches. "
            "Default: train all epochs."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations in a row that do not improve the evaluated classification loss "
            "(or metric_for_best_model, if given). Default: train all epochs."
        },
    )
    metrics: list[str] | None = field(
        default=None,
        metadata={
            "help": "Metrics of an evaluation, by their names in evaluate: accuracy, f1, matthews_correlation, "
            "pearson, spearmanr, mse, perplexity. Default: accuracy, or those of the task with its own head."
        },
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": "License in the card of a pushed network, by the Hub's identifier (apache-2.0, mit, ...). Default: "
            "that of the card on the Hub, else that of the pretrained backbone, else none."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Replace NaN and infinite losses by an average when logging."},
    )

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            # else transformers rejects bf16, and Accelerate takes a launcher of several for a single process
            self.use_cpu = True
        best = (self.metric_for_best_model or "").removeprefix("eval_")
        is_open = getattr(self, "greater_is_better", None) is None
        if is_open and best in SMALLER_IS_BETTER:
            self.greater_is_better = False
        try:
            super().__post_init__()
        except (TypeError, AttributeError, KeyError) as error:  # of an entry within accelerator_config, fsdp, ...
            raise ValueError(f"training arguments: {error}") from error
        for name, (usable, allowed) in _USABLE.items():
            if not hasattr(self, name):  # older versions of transformers have one name of two
                continue
            value = getattr(self, name)
            if not usable(value):
                raise ValueError(f"{name}={value!r}: allowed {allowed}")
        self._check_numbers()
        check_names(self.metrics or [])
        check_license(self.license)
        for name in self.report_to:
            _check_tracker(name)
        if self.report_to and self.tensorboard_figures_every_n_epochs > 0:
            need(f"report_to={self.report_to[0]!r}", "tensorboard", "matplotlib")
        if self.fp16 and (self.use_cpu or not torch.accelerator.is_available()):
            raise ValueError("fp16=True: allowed on accelerators; on a CPU take bf16")

    def _check_numbers(self) -> None:
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name}={value!r}: allowed are integers of at least 1")
        for name in ("rlct_every_n_epochs", "tensorboard_figures_every_n_epochs"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name}={value!r}: allowed are integers of at least 0")
        for name in ("num_train_epochs", "learning_rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r}: allowed are finite numbers above 0")
        check_rules(self.stop_at_train_loss, self.early_stopping_patience)
        if self.early_stopping_patience is not None:
            check_evaluates(self, self.early_stopping_patience)

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)


def _check_tracker(name: str) -> None:
    if name == "tensorboard" and not is_installed("tensorboardX"):
        need("report_to='tensorboard'", "tensorboard", "tensorboard")
    try:
        get_reporting_integration_callbacks([name])
    except ValueError as error:
        raise ValueError(f"report_to={name!r}: {error}") from error


def check_evaluates(args: TrainingArguments, patience: int) -> None:
    """Raise an InputError for early stopping in a training without evaluations."""
    if name_of(args.eval_strategy) == "no":
        problem = "allowed with evaluations, that is eval_strategy='epoch' or 'steps', not 'no'"
        raise InputError("early_stopping_patience", patience, problem)


def name_of(choice: Any) -> str:
    """Return the text of an optimizer or a schedule, from the text itself or from an entry of transformers' lists.

    Example:
        >>> from transformers.training_args import OptimizerNames
        >>> name_of(OptimizerNames.SGD), name_of("sgd")
        ('sgd', 'sgd')
    """
    return str(getattr(choice, "value", choice))


def check_for_population(args: SelfModelingTrainingArguments, members: Sequence[Member]) -> None:
    """Reject arguments that would let members influence each other, or that a population cannot use.

    Args:
        args: of the training.
        members: of the population.

    Raises:
        ValueError: names the argument.
    """

    def reject(name: str, value: object, allowed: str) -> None:
        raise ValueError(f"{name}={value!r}: with a population {allowed}")

    optimizer = name_of(args.optim)
    schedule = name_of(args.lr_scheduler_type)
    if optimizer not in ELEMENTWISE_OPTIMIZERS:
        reject("optim", optimizer, f"allowed are {', '.join(ELEMENTWISE_OPTIMIZERS)}, which treat each number alone")
    if schedule in LOSS_DEPENDENT_SCHEDULES:
        reject("lr_scheduler_type", schedule, "allowed are schedules that do not depend on the loss")
    if args.load_best_model_at_end:
        reject("load_best_model_at_end", True, "allowed is False: members have their best epochs at different times")
    if args.fp16:
        reject("fp16", True, "allowed are no or bf16: fp16 skips a step of all where one member overflows")
    if args.data_seed is not None:
        reject("data_seed", args.data_seed, "allowed is none: each member's order comes from its own seed")
    if args.gradient_checkpointing:
        reject("gradient_checkpointing", True, "allowed is False: torch cannot map recomputed layers over members")
    if args.push_to_hub:
        reject("push_to_hub", True, "allowed is False: push population.member(k)")
    _check_own_rules(args, members)
    _check_own_numbers(members, optimizer, schedule, args.lr_scheduler_kwargs or {})


def _check_own_rules(args: SelfModelingTrainingArguments, members: Sequence[Member]) -> None:
    for member in members:
        if member.early_stopping_patience is not None:
            check_evaluates(args, member.early_stopping_patience)


def _check_own_numbers(members: Sequence[Member], optimizer: str, schedule: str, settings: dict[str, Any]) -> None:
    """Raise an InputError for a momentum of an optimizer without one, and for rates that a schedule ignores."""
    for member in members:
        if member.momentum is not None and optimizer != "sgd":
            raise InputError("momentum", member.momentum, f"allowed with optim='sgd', not with {optimizer!r}")
    absolute = schedule in _ABSOLUTE_SCHEDULES or _ABSOLUTE_ENTRY in settings
    if absolute and any(member.has_optimizer_numbers for member in members):
        problem = "members have numbers of their own; allowed are schedules that end at a share of the first rate"
        raise InputError("lr_scheduler_type", schedule, problem)

"""The Trainer of self-modeling networks."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import EvalPrediction, Trainer
from transformers.trainer_utils import TrainOutput

from ..complexity import llc_preset
from ..data import EpochBatchSampler, TaskData, TaskSpec, TensorData, TensorDataLoader
from ..data.batches import WholeBatches, whole_batch
from ..errors import InputError
from ..models import SelfModelingConfig
from ..models.embedding_bag_self_modeling import MeanEmbeddingBag
from .adapters import check_with_adapter, has_adapter
from .callbacks import FlushTinyMoments, RLCTCallback, WeightWidthCallback
from .checkpoints import check_not_pickled, is_whole, load_adapters, load_weights, newest_whole_checkpoint
from .collated import is_data_of_rows
from .population import SelfModelingPopulation
from .processes import forget_evaluation, is_sharded, share_batches, share_state
from .recipe_network import check_preprocessing
from .sample_checks import check_before_training
from .saving import default_processor
from .terms import accuracy
from .tracker_figures import TrackerFigures
from .tracker_runs import TrackerRuns
from .tracking import TrackingTrainer
from .training_args import SelfModelingTrainingArguments


class SelfModelingTrainer(TrackingTrainer):
    """transformers' Trainer for self-modeling networks.

    The model's forward returns the named terms of its loss; this class sums nothing anew, it tracks them: each log
    holds `classification_loss` and `self_modeling_loss`, raw, and the same with the prefix `weighted_`, as they
    enter `loss`. Evaluation logs them with the prefix `eval_`. What a subclass's `compute_loss` adds is in `loss` and
    in `eval_loss`, but in no term.

    `train_dataset` and `eval_dataset` may be `TensorData`, images or texts in memory (batches are then made on the
    device, in an order that depends on the seed and the epoch alone), or anything that transformers' Trainer takes.

    Accumulating micro-batches and splitting batches over processes leave the gradient what it is with one large
    batch: the model divides its sums by the number of samples in the whole of it.

    Args:
        model: a self-modeling network.
        args: defaults to `SelfModelingTrainingArguments()`.
        compute_metrics: from logits and labels, as transformers has it; default: accuracy over the samples that have
            a label.
        task: what the data is, for the model card; default: the task that `train_dataset` was read for.
        kwargs: further arguments of `transformers.Trainer`.

    Raises:
        ValueError: a model of another kind, plain `TrainingArguments`, a `TaskData` in place of one of its splits, a
            loss of one's own, or `rlct_every_n_epochs` where it cannot be: sharded weights, data of another kind.
    """

    args: SelfModelingTrainingArguments
    for_populations: type[SelfModelingTrainer]  # `PopulationTrainer`, which says so itself

    def __new__(cls, model: Any = None, *args: Any, **kwargs: Any) -> SelfModelingTrainer:
        if not isinstance(model, SelfModelingPopulation) or issubclass(cls, cls.for_populations):
            return super().__new__(cls)
        if cls is not SelfModelingTrainer:
            raise TypeError(f"{cls.__name__}: a Trainer of populations derives from PopulationTrainer")
        return super().__new__(cls.for_populations)  # the same loop, with one figure per member

    def __init__(
        self,
        model: Any = None,
        args: SelfModelingTrainingArguments | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = accuracy,
        task: TaskSpec | None = None,
        **kwargs: Any,
    ) -> None:
        _check_given(args, kwargs)
        args = copy.copy(args or SelfModelingTrainingArguments())
        backbone = getattr(getattr(model, "config", None), "backbone", None)
        if args.ddp_find_unused_parameters is None and backbone in ("mlp", "embedding_bag"):  # they use all of theirs
            args.ddp_find_unused_parameters = False  # before Accelerate is told
        if has_adapter(model):
            check_with_adapter(args)
        data = [kwargs.get(name) for name in ("train_dataset", "eval_dataset")]
        if kwargs.get("processing_class") is None:
            kwargs["processing_class"] = default_processor(*data)
        super().__init__(model=model, args=args, compute_metrics=compute_metrics, **kwargs)
        kind = getattr(getattr(self.model, "config", None), "model_type", None)
        if kind != SelfModelingConfig.model_type:
            raise ValueError(
                f"model={type(self.model).__name__}: allowed are self-modeling networks, such as "
                "SelfModelingForImageClassification or, of a pretrained encoder, its from_backbone_pretrained(...)"
            )
        check_preprocessing(self.model.config, self.train_dataset)
        self.task = task or next((found for split in data if (found := getattr(split, "task", None))), None)
        self._tell_model("")  # nothing was measured yet
        if self.args.device.type == "cpu":
            self.add_callback(FlushTinyMoments)
        if self.args.log_weight_width:
            self.add_callback(WeightWidthCallback(self))
        self._tracker_runs = TrackerRuns(self, self.task)
        self.add_callback(TrackerFigures(self, self.args.tensorboard_figures_every_n_epochs))
        if self.args.rlct_every_n_epochs:
            self.add_callback(self._rlct_callback())
        self._num_parameters: int | None = None

    def _rlct_callback(self) -> RLCTCallback:
        if not isinstance(self.train_dataset, TensorData) and not is_data_of_rows(self.train_dataset):
            kind = type(self.train_dataset).__name__
            raise ValueError(f"rlct_every_n_epochs: allowed with a train_dataset that has a length, not with {kind}")
        if is_sharded(self):
            raise ValueError(
                "rlct_every_n_epochs: allowed without FSDP or DeepSpeed; estimate that of the checkpoints afterwards"
            )
        settings = llc_preset(self.args.rlct_preset, self.task.name if self.task else "mnist")
        if self.task is not None:
            settings["data"] = self.task.train_data
        collator = self._get_collator_with_removed_columns(self.data_collator)
        given = (self.train_dataset, self.args.rlct_every_n_epochs, settings)
        return RLCTCallback(self, *given, data_collator=collator)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the schedule like `Trainer.create_scheduler`.

        Raises:
            InputError: an argument that the schedule needs is missing.
        """
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except TypeError as error:
            problem = f"with lr_scheduler_kwargs={self.args.lr_scheduler_kwargs!r}: {error}"
            raise InputError("lr_scheduler_type", self.args.lr_scheduler_type.value, problem) from error

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Like `Trainer.create_optimizer`.

        Raises:
            InputError: an optimizer that is not installed, or arguments that it does not take.
        """
        try:
            return super().create_optimizer(model)
        except (ValueError, TypeError, ImportError) as error:
            problem = f"with optim_args={self.args.optim_args!r}: {error}"
            raise InputError("optim", str(getattr(self.args.optim, "value", self.args.optim)), problem) from error

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, TensorData):
            return share_batches(super().get_train_dataloader(), self)
        sampler = EpochBatchSampler(
            len(self.train_dataset),
            self._train_batch_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            num_processes=self.args.world_size,
            process_index=self.args.process_index,
            drop_last=self.args.dataloader_drop_last,
        )
        return TensorDataLoader(self.train_dataset.to(self.args.device), sampler)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        if not isinstance(dataset, TensorData):
            return super().get_eval_dataloader(eval_dataset)
        return self._in_order(dataset)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        if not isinstance(test_dataset, TensorData):
            return super().get_test_dataloader(test_dataset)
        return self._in_order(test_dataset)

    def _in_order(self, dataset: TensorData) -> DataLoader:
        batches = WholeBatches(dataset.to(self.args.device))
        loader = DataLoader(batches, batch_size=self.args.eval_batch_size, collate_fn=whole_batch)
        return self.accelerator.prepare(loader)

    # ---- what transformers' step spends beside the network: half a millisecond on a small one ----

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return the optimizer of `Trainer.get_optimizer_cls_and_kwargs`, with SGD as one fused kernel.

        With fp16's loss scaling SGD is torch's default. Plain SGD on an embedding bag takes sparse gradients instead,
        so it moves only the rows that a batch contains. Momentum, decay, clipping and averaging over processes move or
        read the other rows, so they keep gradients dense. So do populations in blocks, because torch cannot cut a
        sparse gradient into members.
        """
        optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
        plain = optimizer is torch.optim.SGD and args.mixed_precision != "fp16"
        modules = [] if model is None else model.modules()
        bags = [module for module in modules if isinstance(module, MeanEmbeddingBag)]
        moving = settings.get("momentum") or args.weight_decay or args.max_grad_norm or args.world_size > 1
        for bag in bags:
            bag.sparse = plain and not moving and getattr(model, "num_blocks", 1) == 1
        if plain:
            settings["fused"] = not any(bag.sparse for bag in bags)  # the fused kernel has no sparse form
        return optimizer, settings

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train like `Trainer.train`.

        Resuming with True takes the newest complete checkpoint of the output folder. If there is none, training starts
        from the beginning, so a killed job is simply started again.

        Raises:
            ValueError: a checkpoint that is named and was not written to its end.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_whole_checkpoint(self.args.output_dir)
        elif resume_from_checkpoint and not is_whole(resume_from_checkpoint):
            problem = "no checkpoint that was written to its end (its trainer_state.json cannot be read)"
            raise InputError("resume_from_checkpoint", resume_from_checkpoint, problem)
        if self.model is not None and self.train_dataset is not None:  # a search builds a network for each trial
            check_before_training(self)
        self._num_parameters = None  # in a search each trial has its own network
        if trial is None:
            self._tracker_runs.begin(resumed=bool(resume_from_checkpoint))
        with _known_to_be_absent("lomo_optim"):
            forget_evaluation(self)
            result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        share_state(self)
        return result

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """Return the estimate of `Trainer.floating_point_ops`, with parameters counted only once."""
        if self._num_parameters is None:
            self._num_parameters = self.model.num_parameters(exclude_embeddings=True)
        if self.model.main_input_name in inputs:
            items = inputs[self.model.main_input_name].numel()
        else:
            items = inputs["inputs_embeds"][..., 0].numel()  # tokens
        return 6 * items * self._num_parameters

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor | None:
        # transformers takes the norm for the log alone where nothing is clipped; max_grad_norm=inf asks for that
        return super()._get_grad_norm(model, grad_norm) if self.args.max_grad_norm > 0 else None

    # ---- files: see also saving.py ----

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        try:
            check_not_pickled(resume_from_checkpoint)
            loaded = self._load_by_name(resume_from_checkpoint, model)
        except ValueError as error:
            raise InputError("resume_from_checkpoint", str(resume_from_checkpoint), str(error)) from error
        if not loaded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        try:
            loaded = self._load_by_name(best)
        except ValueError as error:
            raise ValueError(f"load_best_model_at_end: the best checkpoint, {best!r}: {error}") from error
        if not loaded:
            super()._load_best_model()

    def _load_by_name(self, checkpoint: Any, model: torch.nn.Module | None = None) -> bool:
        """Load every weight. Return False for sharded networks: they are left to torch, which loads strictly."""
        if is_sharded(self):
            return False
        # a compiled network has other names than its checkpoint
        plain = self.accelerator.unwrap_model(self.model if model is None else model, keep_torch_compile=False)
        if hasattr(plain, "get_base_model"):  # PEFT's wrapper
            load_adapters(plain, checkpoint)
        else:
            load_weights(plain, checkpoint)
        return True


def _check_given(args: Any, kwargs: dict[str, Any]) -> None:
    """Raise a ValueError for arguments of a Trainer that this one cannot use."""
    if kwargs.get("compute_loss_func") is not None:
        raise ValueError("compute_loss_func: allowed is None: the loss of both terms is the model's own")
    if not isinstance(args, (SelfModelingTrainingArguments, type(None))):
        raise ValueError(f"args={type(args).__name__}: allowed are SelfModelingTrainingArguments")
    for name, split in (("train_dataset", "train"), ("eval_dataset", "test")):
        if isinstance(kwargs.get(name), TaskData):
            raise ValueError(f"{name}=TaskData: allowed is one of its splits, such as `data.{split}`")


@contextmanager
def _known_to_be_absent(module: str) -> Iterator[None]:
    """Mark a module that is not installed, so that looking for it takes no time.

    Python's own mark is None in `sys.modules`. Accelerate's optimizer looks for lomo_optim through the whole path twice
    in each step, which takes a tenth of our step.
    """
    if module in sys.modules or importlib.util.find_spec(module) is not None:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(module, None)

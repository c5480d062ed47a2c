"""The Trainer of self-modeling networks."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from ..complexity import llc_preset
from ..data import EpochBatchSampler, TaskData, TaskSpec, TensorData, TensorDataLoader
from ..data.batches import WholeBatches, whole_batch
from ..errors import InputError
from ..models import SelfModelingConfig
from ..models.embedding_bag_self_modeling import MeanEmbeddingBag
from .adapters import check_adapter_arguments, check_not_sharded
from .callbacks import FlushTinyMoments, RLCTCallback, WeightWidthCallback
from .checkpoints import check_not_pickled, is_complete, load_adapters, load_weights, newest_complete_checkpoint
from .collated import is_data_of_rows
from .member_optimizer import decayed_names
from .population import SelfModelingPopulation
from .processes import forget_evaluation, is_sharded, may_leave_parameters_unused, share_batches, share_state
from .recipe_network import check_preprocessing
from .same_training import check_adapter, check_config
from .sample_checks import check_before_training, check_targets
from .saving import default_processor
from .task_metrics import OF_TOKENS, Metrics, chosen_metrics
from .terms import accuracy
from .terms_trainer import TermsTrainer
from .tracker_runs import TrackerRuns
from .trackers import TrackerFigures
from .training_args import SelfModelingTrainingArguments, name_of
from .wrapped_networks import is_wrapped, largest_logits


class SelfModelingTrainer(TermsTrainer):
    """Train self-modeling networks with transformers' Trainer.

    The model's forward returns the named terms of its loss, and this class logs them. Each log holds
    `classification_loss` and `self_modeling_loss`, and the same with the prefix `weighted_`, times their weights in
    `loss`. Evaluation logs them with the prefix `eval_`. The part of a subclass's `compute_loss` is in `loss` and in
    `eval_loss`, but in no term.

    `train_dataset` and `eval_dataset` may be `TensorData`, images or texts in memory. Batches are then made on the
    device, in an order that depends on the seed and the epoch alone. They may also be any data for transformers'
    Trainer.

    Accumulating micro-batches and splitting batches over processes give the same gradient as one large batch. The
    reason: the model divides its sums by the number of samples in the complete batch.

    Args:
        model: a self-modeling network, or a population of them.
        args: None: `SelfModelingTrainingArguments()`.
        compute_metrics: from logits and labels, as for transformers. Default: those of `metrics` in `args`, else
            accuracy over the samples with a label, and for task models with their own head the metrics of their labels.
            With the default, predictions of tokens are the most probable classes, because all logits need much memory.
        task: the task of the data, for the model card. None: the task of `train_dataset`.
        kwargs: further arguments of `transformers.Trainer`.

    Raises:
        ValueError: a model of another kind, plain `TrainingArguments`, a `TaskData` in place of one of its splits, or a
            custom loss. Or `rlct_every_n_epochs` with sharded weights or with data of another kind.

    Example:
        >>> from selfmod_hf import SelfModelingForImageClassification, get_task, load_images
        >>> digits = load_images(get_task("digits"))
        >>> network = SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[4], image_size=8))
        >>> args = SelfModelingTrainingArguments(report_to="none", per_device_train_batch_size=64)
        >>> trainer = SelfModelingTrainer(network, args, train_dataset=digits.train, eval_dataset=digits.test)
        >>> trainer.task.name
        'digits'
    """

    args: SelfModelingTrainingArguments
    preprocess_logits_for_metrics: Any
    for_populations: type[SelfModelingTrainer]  # `PopulationTrainer`, set in its own file

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
        compute_metrics: Metrics | None = accuracy,
        task: TaskSpec | None = None,
        **kwargs: Any,
    ) -> None:
        _check_given(args, kwargs)
        args = copy.copy(args or SelfModelingTrainingArguments())
        check_adapter_arguments(model, args)
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = may_leave_parameters_unused(model, args)  # transformers reads it at once
        train_data = kwargs.get("train_dataset")
        eval_data = kwargs.get("eval_dataset")
        if kwargs.get("processing_class") is None:
            kwargs["processing_class"] = default_processor(train_data, eval_data)
        super().__init__(model=model, args=args, compute_metrics=compute_metrics, **kwargs)
        config = getattr(self.model, "config", None)
        if getattr(config, "model_type", None) != SelfModelingConfig.model_type:
            raise ValueError(
                f"model={type(self.model).__name__}: allowed are self-modeling networks, such as "
                "SelfModelingForImageClassification or, of a pretrained encoder, its from_backbone_pretrained(...)"
            )
        check_not_sharded(self)
        self._follow_labels(compute_metrics)  # of the network, which `model_init` may have built
        check_preprocessing(self.model.config, self.train_dataset)
        self.task = task or getattr(train_data, "task", None) or getattr(eval_data, "task", None)
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

    def call_model_init(self, trial: Any = None) -> torch.nn.Module:
        model = super().call_model_init(trial)
        check_adapter_arguments(model, self.args)  # before a repository is made
        return model

    def _follow_labels(self, compute_metrics: Metrics | None) -> None:
        """Choose what follows from the labels of the network: their names, the metrics, and the kept predictions."""
        args = self.args
        metrics = chosen_metrics(self.model, args.metrics, compute_metrics)
        self.compute_metrics = None if metrics is None else self._for_networks(metrics)
        if not is_wrapped(self.model):
            return
        if args.label_names is None:
            args.label_names = list(self.model.kind.label_names)
        self.label_names = args.label_names
        has_default = compute_metrics is accuracy and self.preprocess_logits_for_metrics is None
        if has_default and self.model.kind.labels_are in OF_TOKENS:
            self.preprocess_logits_for_metrics = largest_logits

    def _for_networks(self, compute_metrics: Metrics) -> Metrics:
        """Return a `compute_metrics` from the one for a single network. A population's computes each member's."""
        return compute_metrics

    def _rlct_callback(self) -> RLCTCallback:
        """Return the callback for `rlct_every_n_epochs`."""
        if not isinstance(self.train_dataset, TensorData) and not is_data_of_rows(self.train_dataset):
            kind = type(self.train_dataset).__name__
            raise ValueError(f"rlct_every_n_epochs: allowed with a train_dataset that has a length, not with {kind}")
        if is_sharded(self):
            raise ValueError(
                "rlct_every_n_epochs: allowed without FSDP or DeepSpeed; estimate that of the checkpoints afterwards"
            )
        if self.task is None:
            settings = llc_preset(self.args.rlct_preset, "mnist")
        else:
            settings = llc_preset(self.args.rlct_preset, self.task.name)
            settings["data"] = self.task.train_data
        return RLCTCallback(
            self,
            self.train_dataset,
            self.args.rlct_every_n_epochs,
            settings,
            data_collator=self._get_collator_with_removed_columns(self.data_collator),
        )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the schedule like `Trainer.create_scheduler`.

        Raises:
            InputError: an argument of the schedule is missing.
        """
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except TypeError as error:
            problem = f"with lr_scheduler_kwargs={self.args.lr_scheduler_kwargs!r}: {error}"
            raise InputError("lr_scheduler_type", self.args.lr_scheduler_type.value, problem) from error

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimizer like `Trainer.create_optimizer`.

        Raises:
            InputError: the optimizer is not installed, or it has no such arguments.
        """
        try:
            return self._make_optimizer(model)
        except InputError:
            raise
        except (ValueError, TypeError, ImportError) as error:
            problem = f"with optim_args={self.args.optim_args!r}: {error}"
            raise InputError("optim", name_of(self.args.optim), problem) from error

    def _make_optimizer(self, model: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if is_sharded(self) and isinstance(optimizer, torch.optim.SGD):
            for group in optimizer.param_groups:
                group["fused"] = False  # torch (2.14) has no fused SGD for weights in parts
        return optimizer

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Return the names of the parameters that decay: those of `weight_decay_parameters`, or transformers' choice.

        Raises:
            InputError: a pattern without any parameter.
        """
        patterns = self.args.weight_decay_parameters
        if not patterns:
            return super().get_decay_parameter_names(model)
        return decayed_names(model, patterns)

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, TensorData):
            return share_batches(super().get_train_dataloader(), self)
        seed = self.args.data_seed
        if seed is None:
            seed = self.args.seed
        sampler = EpochBatchSampler(
            len(self.train_dataset),
            self._train_batch_size,
            seed=seed,
            num_processes=self.args.world_size,
            process_index=self.args.process_index,
            drop_last=self.args.dataloader_drop_last,
        )
        return TensorDataLoader(self.train_dataset.to(self.args.device), sampler)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        dataset = eval_dataset
        if dataset is None:
            dataset = self.eval_dataset
        elif isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if not isinstance(dataset, TensorData):
            return super().get_eval_dataloader(eval_dataset)
        return self._in_order(dataset)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        if not isinstance(test_dataset, TensorData):
            return super().get_test_dataloader(test_dataset)
        return self._in_order(test_dataset)

    def _in_order(self, dataset: TensorData) -> DataLoader:
        """Return a loader for evaluation."""
        batches = WholeBatches(dataset.to(self.args.device))
        loader = DataLoader(batches, batch_size=self.args.eval_batch_size, collate_fn=whole_batch)
        return self.accelerator.prepare(loader)

    # ---- time of transformers' step besides the network: half a millisecond on a small one ----

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return the optimizer of `Trainer.get_optimizer_cls_and_kwargs`, with SGD as one fused kernel.

        With fp16's loss scaling SGD is torch's default. Plain SGD on an embedding bag takes sparse gradients instead,
        so it moves only the rows of a batch. Momentum, decay, clipping and averaging over processes move or read the
        other rows, so they keep gradients dense. So do populations in blocks, because torch cannot cut a sparse
        gradient into members.
        """
        optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
        plain = optimizer is torch.optim.SGD and args.mixed_precision != "fp16"
        moving = settings.get("momentum") or args.weight_decay or args.max_grad_norm or args.world_size > 1
        sparse = plain and not moving and getattr(model, "takes_sparse_gradients", True)
        has_bag = False
        if model is not None:
            for module in model.modules():
                if isinstance(module, MeanEmbeddingBag):
                    module.sparse = sparse
                    has_bag = True
        if plain:
            settings["fused"] = not (sparse and has_bag)  # the fused kernel has no sparse form
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
            ValueError: a named checkpoint is not complete.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_complete_checkpoint(self.args.output_dir)
        elif resume_from_checkpoint and not is_complete(resume_from_checkpoint):
            problem = "no checkpoint that was written to its end (its trainer_state.json cannot be read)"
            raise InputError("resume_from_checkpoint", resume_from_checkpoint, problem)
        if self.model is not None and self.train_dataset is not None:  # a search builds a network for each trial
            check_before_training(self)
            check_targets(self)
            self.stopping.check()
        self._num_parameters = None  # in a search each trial has its own network
        if trial is None:
            self._tracker_runs.begin(resumed=bool(resume_from_checkpoint))
        with _known_to_be_absent("lomo_optim"):
            forget_evaluation(self)
            try:
                result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
            finally:
                self.stopping.is_training = False
        share_state(self)
        return result

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """Return the estimate of `Trainer.floating_point_ops`, with parameters counted only once."""
        if self._num_parameters is None:
            self._num_parameters = self.model.num_parameters(exclude_embeddings=True)
        given = inputs.get(self.model.main_input_name)
        if given is None:
            given = inputs["inputs_embeds"][..., 0]  # one number per token
        items = given.numel()
        return 6 * items * self._num_parameters

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor | None:
        # without clipping, transformers takes the norm for the log alone: only max_grad_norm=inf asks for it
        if self.args.max_grad_norm > 0:
            return super()._get_grad_norm(model, grad_norm)
        return None

    # ---- files: see also saving.py ----

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        check_config(resume_from_checkpoint, self.model.config)
        check_adapter(resume_from_checkpoint, self.model)
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
        """Load every weight. Return False for sharded networks, because torch itself loads them strictly."""
        if is_sharded(self):
            return False
        if model is None:
            model = self.model
        # a compiled network has other names than its checkpoint
        plain = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        if hasattr(plain, "get_base_model"):  # PEFT's wrapper
            load_adapters(plain, checkpoint)
        elif getattr(plain.config, "adapter", False):
            plain.load_adapted_parts(checkpoint)
        else:
            load_weights(plain, checkpoint)
        return True


def _check_given(args: Any, kwargs: dict[str, Any]) -> None:
    """Raise a ValueError for arguments of a Trainer that this class cannot use."""
    if kwargs.get("compute_loss_func") is not None:
        raise ValueError("compute_loss_func: allowed is None: the loss of both terms is the model's own")
    if not isinstance(args, (SelfModelingTrainingArguments, type(None))):
        raise ValueError(f"args={type(args).__name__}: allowed are SelfModelingTrainingArguments")
    splits = {"train_dataset": "train", "eval_dataset": "test"}
    for name, split in splits.items():
        if isinstance(kwargs.get(name), TaskData):
            raise ValueError(f"{name}=TaskData: allowed is one of its splits, such as `data.{split}`")


@contextmanager
def _known_to_be_absent(module: str) -> Iterator[None]:
    """Mark a missing module, so that looking for it takes no time.

    Python's own mark is None in `sys.modules`. Accelerate's optimizer looks for lomo_optim through the whole path twice
    in each step. This would take a tenth of our step.
    """
    if module in sys.modules or importlib.util.find_spec(module) is not None:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(module, None)

"""The Trainer of populations: `SelfModelingTrainer`, with one figure per member where it has one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import PredictionOutput

from ..data import TensorData
from ..data.batches import EpochBatchSampler, MemberBatchSampler, TensorDataLoader, WholeBatches, whole_batch
from ..errors import InputError
from ..models import SelfModelingPreTrainedModel
from ..models.losses_self_modeling import IGNORED_LABEL, classification_losses, self_modeling_losses
from ..stacking import chunk_ranges
from .callbacks import RLCTCallback, WeightWidthCallback, log_aside, rlct_logs
from .member_rates import check_schedule, rates_of, scale_steps
from .population import SelfModelingPopulation
from .processes import is_sharded
from .rlct import estimate_rlct
from .shares import MemberShares
from .terms import TERMS, accuracy, means_over_labels
from .tracking import TrainedNetwork
from .trainer import SelfModelingTrainer
from .training_args import SelfModelingTrainingArguments

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

# these update each number from its own gradient alone, so that members do not meet
ELEMENTWISE_OPTIMIZERS = ("sgd", "adamw_torch", "adamw_torch_fused", "rmsprop", "adagrad")
LOSS_DEPENDENT_SCHEDULES = ("reduce_lr_on_plateau", "greedy")


class PopulationTrainer(SelfModelingTrainer):
    """What `SelfModelingTrainer(model=population, ...)` makes.

    Each member has its own order of samples, from its own seed, as a run alone has it. In logs and metrics,
    `accuracy/aw10-seed1` is one member's figure, and `accuracy` the mean over members; so it is for each loss and for
    `weight_width`. Gradient clipping is done per member (`max_grad_norm` is each member's own).

    Under `accelerate launch` or `torchrun` each process trains its share of the members, with the whole batch size;
    the numbers are those of one process. Logs, checkpoints and, after `train`, `population` hold all members.

    Attributes:
        population: all members; where there are several processes, brought up to date at the end of `train`, with
            each checkpoint, and by `gather_weights`.
        model: the members of this process.

    Raises:
        ValueError: an argument by which members would influence each other, data that are no `TensorData`.
    """

    model: SelfModelingPopulation
    _forward_arguments: ClassVar[dict[str, Any]] = {}  # a population gives a dict in any case

    def __init__(
        self,
        model: Any = None,
        args: SelfModelingTrainingArguments | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = accuracy,
        **kwargs: Any,
    ) -> None:
        args = args or SelfModelingTrainingArguments()
        _check(args, kwargs.get("train_dataset"), kwargs.get("optimizers"), kwargs.get("optimizer_cls_and_kwargs"))
        rates = rates_of(model.members, args.learning_rate)
        check_schedule(args, rates)
        self._rates = dict(zip(model.members, rates, strict=True))
        if max(rates) != args.learning_rate:
            args = copy.copy(args)
            args.learning_rate = max(rates)  # the optimizer's, of which each member takes its share
        self.population = model
        self.shares = MemberShares(len(model), args.world_size, args.process_index)
        if self.shares.split:
            model = model.part(self.shares.own)
            args = copy.copy(args)
            args.average_tokens_across_devices = False  # a member's batch is in one process
        if (preprocess := kwargs.get("preprocess_logits_for_metrics")) is not None:
            kwargs["preprocess_logits_for_metrics"] = self._each_member(preprocess)
        super().__init__(model, args, compute_metrics and self._of_members(compute_metrics), **kwargs)
        if is_sharded(self):
            raise ValueError("FSDP, DeepSpeed: with a population allowed is neither; processes split its members")
        if self.pop_callback(WeightWidthCallback) is not None:
            self.add_callback(WeightWidthsCallback(self))

    def _of_members(
        self, compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    ) -> Callable[[EvalPrediction], dict[str, float]]:
        def compute(prediction: EvalPrediction) -> dict[str, float]:
            rows = [compute_metrics(self._of_member(prediction, k)) for k in range(len(self.model))]
            return self.by_member({name: np.array([row[name] for row in rows]) for name in rows[0]})

        return compute

    def _of_member(self, prediction: EvalPrediction, k: int) -> EvalPrediction:
        """Return member k's part of what was evaluated, as a run alone has it."""
        predictions = prediction.predictions  # (N, K, num_labels), or a tuple of such
        if isinstance(predictions, tuple):
            own: Any = tuple(part[:, k] for part in predictions)
        else:
            own = predictions[:, k]
        losses = None if prediction.losses is None else self._batch_losses()[:, k]
        return EvalPrediction(own, prediction.label_ids, inputs=prediction.inputs, losses=losses)

    def _batch_losses(self) -> np.ndarray:
        """Return the loss of each evaluated sample's batch, (N, members of this process)."""
        assert self._evaluated is not None  # metrics are computed at the end of an evaluation
        rows = []
        for terms, labels in self._evaluated.batches():
            means = means_over_labels(terms, labels)
            loss = np.zeros(len(self.model)) if means is None else self._total(means)  # (members,)
            rows.append(np.tile(loss, (len(labels), 1)))
        return np.concatenate(rows)

    def _each_member(self, preprocess: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return a `preprocess_logits_for_metrics` that gives each member's logits (B, num_labels) to another one."""

        def preprocess_members(logits: torch.Tensor, labels: torch.Tensor) -> Any:
            results = [preprocess(logits[:, k], labels) for k in range(len(self.model))]
            if isinstance(results[0], (tuple, list)):
                return tuple(torch.stack(parts, dim=1) for parts in zip(*results, strict=True))
            return torch.stack(results, dim=1)  # (B, K, ...)

        return preprocess_members

    def by_member(self, figures: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return figures by name, of this process's members, as means and values of all members.

        Args:
            figures: name -> (members of this process,).

        Returns:
            name -> mean, name/member -> value.
        """
        parts = self.shares.gather(dict(figures))
        figures = {name: np.concatenate([part[name] for part in parts]) for name in figures}  # (K,) each
        means = {name: float(values.mean()) for name, values in figures.items()}
        return means | {
            f"{name}/{member.name}": float(value)
            for name, values in figures.items()
            for member, value in zip(self.population.members, values, strict=True)
        }

    def networks(self) -> list[TrainedNetwork]:
        members = self.population.members
        return [TrainedNetwork(partial(self._network, k), self.figures_of(member)) for k, member in enumerate(members)]

    def _network(self, k: int) -> SelfModelingPreTrainedModel:
        return self.population.cpu().eval().member(k)

    def _rlct_callback(self) -> RLCTCallback:
        plain = super()._rlct_callback()
        return RLCTsCallback(self, plain.data, plain.every_n_epochs, plain.settings)

    # ---- processes ----

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        accelerator = self.accelerator
        # Every process evaluates its members on all samples, so nothing is gathered. Accelerate would also cut the
        # figures to what was left of a loader that another Trainer in this process has not read to its end.
        accelerator.gather_for_metrics = accelerator.pad_across_processes = _as_it_is
        self.gather_function = _as_it_is
        if self.shares.split:  # members live in one process each: no DistributedDataParallel
            accelerator.prepare_model = partial(accelerator.prepare_model, evaluation_mode=True)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        kept = self.optimizer is not None  # a second training goes on with the first one's
        optimizer = super().create_optimizer(model)
        if kept:
            return optimizer
        scale_steps(optimizer, [self._rates[member] / self.args.learning_rate for member in self.model.members])
        if self.shares.split:
            optimizer.register_load_state_dict_pre_hook(lambda _, state: self.shares.take_optimizer(state))
        return optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        output = super().train(*args, **kwargs)
        self.gather_weights()
        return output

    def gather_weights(self) -> None:
        """Bring `population` up to date; all processes together."""
        if self.shares.split:
            self.population.load_state_dict(self.shares.gather_tensors(self.model.state_dict()))

    # ---- data ----

    def _in_order(self, dataset: TensorData) -> DataLoader:
        # every process evaluates its members on all samples
        batches = WholeBatches(dataset.to(self.args.device))
        return DataLoader(batches, batch_size=self.args.eval_batch_size, collate_fn=whole_batch)

    def get_train_dataloader(self) -> DataLoader:
        count = len(self.train_dataset)
        samplers = [
            EpochBatchSampler(count, self._train_batch_size, member.seed, drop_last=self.args.dataloader_drop_last)
            for member in self.model.members
        ]
        return TensorDataLoader(
            self.train_dataset.to(self.args.device),
            MemberBatchSampler(samplers),
            in_use=self.args.gradient_accumulation_steps,  # the Trainer collects a step's batches first
            bfloat16=self.args.bf16,
        )

    # ---- the terms of the loss, (K,) each ----

    def _mean_terms(self) -> dict[str, Any]:
        sums, steps = self._term_sums.drain(self.state.global_step)
        return {name: total.double().cpu().numpy() / steps for name, total in sums.items()}

    def _term_weights(self) -> dict[str, Any]:
        aux_weights = np.array([member.aux_weight for member in self.model.members])
        return dict(zip(TERMS, (self.population.config.classification_weight, aux_weights), strict=True))

    def _figures(self, means: dict[str, Any], added: float = 0.0, prefix: str = "") -> dict[str, Any]:
        """Return terms, weighted terms and the loss of each member, and their means over the members.

        `added` belongs to the sum over members, so each gets an equal share of it.
        """
        return self.by_member(super()._figures(means, added / len(self.model), prefix))

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        """Return the labels that count in each member's batches of a step, (K,).

        A batch that all members share has one count.
        """
        labels = [batch["labels"] for batch in batch_samples if "labels" in batch]
        if not labels or labels[0].dim() == 1:
            return super()._get_num_items_in_batch(batch_samples, device)
        return torch.stack([own.ne(IGNORED_LABEL).sum(dim=1) for own in labels]).sum(dim=0).to(device)

    # ---- a step ----

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # what is returned is for the log alone, which takes the mean over processes: here the mean over members
        return super().training_step(*args, **kwargs) * self.shares.weight_of_sum

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        self._grad_norms = self.model.clip_grad_norms(self.args.max_grad_norm)  # (members,)
        return self._grad_norms.mean()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "grad_norm" in logs:
            logs.update(self.by_member({"grad_norm": self._grad_norms.cpu().numpy()}))
        super().log(logs, start_time)

    # ---- evaluation ----

    def _predictions(self, outputs: Any, ignore_keys: list[str] | None) -> torch.Tensor:
        """Return the logits, samples first: transformers concatenates batches there."""
        return outputs["logits"].transpose(0, 1)  # (B, K, num_labels)

    def _sample_terms(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """Return the terms of each sample, (B, terms, K)."""
        logits = outputs["logits"]  # (K, B, num_labels)
        terms = [classification_losses(logits.flatten(0, 1), labels.repeat(len(logits)))]  # each (K * B,)
        if "self_model_predictions" in outputs:
            predictions, targets = (outputs[f"self_model_{name}"].flatten(0, 1) for name in ("predictions", "targets"))
            terms.append(self_modeling_losses(predictions, targets))
        losses = torch.stack([term.view(logits.shape[:2]) for term in terms])  # (terms, K, B)
        return losses.permute(2, 0, 1)

    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Like `Trainer.predict`, for all members: predictions (N, K, num_labels)."""
        output = super().predict(*args, **kwargs)
        return output._replace(predictions=np.concatenate(self.shares.gather(output.predictions), axis=1))

    # ---- files ----

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Raise a ValueError, because each member belongs in a repository of its own."""
        problem = "each network has a repository of its own; allowed is population.member(k).push_to_hub(repo_id)"
        raise InputError("push_to_hub", f"{len(self.population)} members", problem)

    def _tell_model(self, token: str) -> None:
        super()._tell_model(token)
        self.population.companions = self.model.companions

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.gather_weights()
        super()._save_checkpoint(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.shares.split:
            return super()._save_optimizer_and_scheduler(output_dir)
        whole = self.shares.gather_optimizer(self.optimizer.state_dict())
        hook = self.optimizer.optimizer.register_state_dict_post_hook(lambda *_: whole)
        super()._save_optimizer_and_scheduler(output_dir)
        hook.remove()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        super()._save(output_dir, self.population.state_dict())

    def _save_settings(self, folder: Path, token: str) -> None:
        super()._save_settings(folder, token)
        self.population.save_members(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self.population.check_members_file(resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, self.population)
        if self.shares.split:
            self.model.load_state_dict(self.shares.take(self.population.state_dict()))


def _as_it_is(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    return tensor


class WeightWidthsCallback(TrainerCallback):
    """Logs `weight_width` of each member after each epoch."""

    def __init__(self, trainer: PopulationTrainer) -> None:
        self.trainer = trainer

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        widths = self.trainer.model.weight_widths().cpu().numpy()
        log_aside(self.trainer, control, self.trainer.by_member({"weight_width": widths}))


class RLCTsCallback(RLCTCallback):
    """Log what `RLCTCallback` logs for each member, all members x chains stacked.

    Members of one seed share their chains' noise, so that arms are compared under common random numbers.

    Args:
        at_once: members whose chains are stacked; default: all.
    """

    trainer: PopulationTrainer

    def __init__(self, *args: Any, at_once: int | None = None) -> None:
        super().__init__(*args)
        self.at_once = at_once

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.is_due(state):
            return
        self.trainer.gather_weights()  # every process runs some chains of every member
        members = self.trainer.population.members
        results = []
        for part in chunk_ranges(len(members), self.at_once or len(members)):
            models = [self.trainer.population.member(k) for k in part]
            seeds = [members[k].seed for k in part]
            results += estimate_rlct(models, self.data, members=seeds, device=args.device, **self.settings)
        logs = [rlct_logs(results[k]) for k in self.trainer.shares.own]
        figures = {name: np.array([entry[name] for entry in logs]) for name in logs[0]}
        statuses = {f"rlct_status/{member.name}": r.status for member, r in zip(members, results, strict=True)}
        log_aside(self.trainer, control, {**self.trainer.by_member(figures), **statuses})


def _check(args: SelfModelingTrainingArguments, data: Any, optimizers: Any, optimizer_class: Any) -> None:
    """Reject what would let members influence each other, or what a population cannot do."""

    def refuse(name: str, value: object, allowed: str) -> None:
        raise ValueError(f"{name}={value!r}: with a population {allowed}")

    optimizer = str(getattr(args.optim, "value", args.optim))
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    if optimizer not in ELEMENTWISE_OPTIMIZERS:
        refuse("optim", optimizer, f"allowed are {', '.join(ELEMENTWISE_OPTIMIZERS)}, which treat each number alone")
    if schedule in LOSS_DEPENDENT_SCHEDULES:
        refuse("lr_scheduler_type", schedule, "allowed are schedules that do not depend on the loss")
    if args.load_best_model_at_end:
        refuse("load_best_model_at_end", True, "allowed is False: members have their best epochs at different times")
    if args.fp16:
        refuse("fp16", True, "allowed are no or bf16: fp16 skips a step of all where one member overflows")
    if args.data_seed is not None:
        refuse("data_seed", args.data_seed, "allowed is none: each member's order comes from its own seed")
    if args.push_to_hub:
        refuse("push_to_hub", True, "allowed is False: push population.member(k)")
    if any(given is not None for given in (*(optimizers or ()), optimizer_class)):
        refuse("optimizers", "given", "allowed are those that `optim` names")
    if data is not None and not isinstance(data, TensorData):
        refuse("train_dataset", type(data).__name__, "allowed are ImageTensors or TextTensors")


SelfModelingTrainer.for_populations = PopulationTrainer

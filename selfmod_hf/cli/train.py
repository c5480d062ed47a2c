"""`selfmod train`: one network on one data set, from flags to a saved (and pushed) model."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .arguments import as_flags, check_output_dir, make_parser, parse, print_note, quieten, read_config_file
from .data_flags import DataArguments, flag, load_data, note_unseen_classes, task_spec
from .folder_names import default_folder
from .usage_errors import UsageError, hub_in_one_line, one_line

if TYPE_CHECKING:
    from transformers import HfArgumentParser

    from ..data import ImagePreprocessing, TaskData, TaskSpec
    from ..models import SelfModelingPreTrainedModel
    from ..trainer import SelfModelingTrainer, SelfModelingTrainingArguments


@dataclass
class ModelArguments:
    """Which network; see SelfModelingConfig."""

    backbone: str | None = flag("mlp (default), timm/<name>: any timm model; of texts embedding_bag (default).")
    backbone_kwargs: str = flag("Further arguments of the timm model or the embedding bag, as JSON.", default="{}")
    backbone_name: str | None = flag("Pretrained backbone: Hub id or folder of a transformers encoder, or timm/<name>.")
    backbone_config: str | None = flag("An encoder with random weights: its configuration as JSON, with model_type.")
    small_image_stem: bool = flag("A timm ResNet for 32x32: first convolution 3x3, stride 1, no max-pool.", False)
    feature_pooling: str = flag("What the heads read of an encoder's tokens: mean or first.", default="mean")
    hidden_sizes: list[int] | None = flag(
        "Widths of the linear + ReLU layers between backbone and heads; default: the task's; of a data set of your own "
        "128, with a backbone of your own none."
    )
    target_layers: list[str] | None = flag(
        "Modules whose activations are predicted, e.g. hidden.relu1, or encoder.layer.*.output; default: the task's; "
        "of a data set of your own the last hidden layer, with a backbone of your own none."
    )
    target_pooling: str = flag("What of token-wise activations is predicted: mean, first, flatten.", default="mean")
    aux_weight: float = flag(
        "Weight of the self-modeling loss; 0 is the baseline, a plain classifier; default: the task's; of a data set "
        "of your own 1, with a backbone of your own 0.",
        default=0.0,
    )
    classification_weight: float = flag("Weight of the classification loss.", default=1.0)
    detach_targets: bool = flag("No gradient flows into the predicted activations (published recipe).", default=True)


@dataclass
class RunArguments:
    """How the command itself runs."""

    config: str | None = flag("YAML or JSON file of flags; typed flags win over it, it wins over the recipe.")
    train_batch_size: int | None = flag("Batch of one step over all processes; sets per_device_train_batch_size.")
    mixed_precision: str | None = flag(
        "no, bf16 or fp16 (as accelerate launch --mixed_precision); the losses stay in float32."
    )
    quiet: bool = flag("No progress bars, no log lines: the final table only.", default=False)


DEFAULTS = {
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "report_to": "none",
    "hub_strategy": "end",  # one push of the finished model, by `train` below
    "per_device_eval_batch_size": 1000,
}


# what evaluation reports
METRICS = ("loss", "accuracy", "classification_loss", "self_modeling_loss")


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    from ..trainer import SelfModelingTrainingArguments

    return (DataArguments, ModelArguments, RunArguments, SelfModelingTrainingArguments)


def run(argv: Sequence[str]) -> None:
    """Train, evaluate, save; print a table.

    Raises:
        UsageError: input that cannot be used, before any training.
    """
    from transformers import set_seed

    spec, data_args, model_args, run_args, training_args = parse_flags(argv)
    quieten(run_args.quiet)
    with one_line():
        check_output_dir(training_args.output_dir)
        with training_args.main_process_first(desc="loading data"):
            data = load_run_data(spec, data_args, model_args)
        note_unseen_classes(data)
        set_seed(training_args.seed)
        model = build_model(model_args, data)
        if model.self_model_head is not None and model.config.aux_weight == 0:
            print_note("--aux_weight is 0: nothing trains the self-model of --target_layers")
        if model.self_model_head is None and not any(flag.startswith("--aux_weight") for flag in argv):
            kind = "linear baseline" if _is_linear(model) else "baseline"
            print_note(f"trains a {kind} that does not model itself, because --target_layers is not given")
        with one_line(hub="--push_to_hub, --hub_model_id"):
            trainer = _build_trainer(data.task or spec, model, training_args, data, run_args.quiet)
    train(trainer)


def _is_linear(model: SelfModelingPreTrainedModel) -> bool:
    return model.config.backbone == "mlp" and not model.config.hidden_sizes


def _parser() -> HfArgumentParser:
    from ..data import TASKS, default_recipe

    recipes = "; ".join(f"{name}: {' '.join(as_flags(spec.recipe))}" for name, spec in TASKS.items())
    own = " ".join(as_flags(default_recipe()))
    return make_parser(
        "train",
        *flag_classes(),
        defaults=DEFAULTS,
        epilog=f"A built-in task's own flags come before the defaults above. {recipes}. With --dataset_name alone, and "
        f"without a backbone of your own: {own}",
    )


def typed_flags(argv: Sequence[str]) -> dict[str, Any]:
    """The flags that decide what comes out, by name, in whatever order and spelling they were typed; no tokens."""
    parser = _parser()
    defaults = vars(parser.parse_known_args([])[0])
    typed = vars(parser.parse_known_args(list(argv))[0])
    apart = ("quiet", "disable_tqdm", "hub_token")
    return {name: value for name, value in typed.items() if value != defaults[name] and name not in apart}


def parse_flags(
    argv: Sequence[str],
) -> tuple[TaskSpec, DataArguments, ModelArguments, RunArguments, SelfModelingTrainingArguments]:
    """Recipe, `--config` file and typed flags, joined."""
    from ..trainer.recipe_network import NETWORK_FIELDS

    parser = _parser()
    typed, _ = parser.parse_known_args(list(argv))
    given = [*(as_flags(read_config_file(typed.config, parser)) if typed.config else []), *argv]
    first, _ = parser.parse_known_args(given)
    with one_line():
        spec = task_spec(first)
    base = dict(_recipe(spec, first))
    if first.backbone_name or first.backbone_config:
        base["per_device_eval_batch_size"] = 64  # an encoder keeps each layer's tokens
        for name in NETWORK_FIELDS:
            base.pop(name, None)  # of the task's own network
    elif first.backbone is not None and first.backbone != base.get("backbone"):
        base.pop("backbone_kwargs", None)  # of the task's own backbone
        if not first.backbone.startswith("timm/resnet"):
            base.pop("small_image_stem", None)
    if first.aux_weight == 0 and "--aux_weight" in " ".join(given):
        base.pop("target_layers", None)  # the baseline of a task predicts nothing
    flags = [*as_flags(base), *given]
    joined, _ = parser.parse_known_args(flags)
    if joined.output_dir is None:
        flags.append(f"--output_dir={default_folder(joined)}")
    metric = joined.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in METRICS:
        raise UsageError(f"--metric_for_best_model {metric}: allowed are {', '.join(METRICS)}")
    return (spec, *parse(parser, [*flags, *_derived(joined, given)]))


def _recipe(spec: TaskSpec, typed: Any) -> Mapping[str, Any]:
    """Return the flags of the task's recipe, or those for a data set of one's own.

    A backbone of one's own has no default: what it predicts is for the user to say.
    """
    from ..data import default_recipe

    own_backbone = typed.backbone or typed.backbone_name or typed.backbone_config
    if typed.task is not None or typed.dataset_name is None or own_backbone or typed.hidden_sizes == []:
        return spec.recipe
    return default_recipe() if typed.hidden_sizes is None else default_recipe(typed.hidden_sizes)


def _derived(args: Any, given: Sequence[str]) -> list[str]:
    """Return flags that follow from others and from the launcher: the batch of each process, the precision."""
    flags = []
    if args.train_batch_size is not None and not any("per_device_train_batch_size" in flag for flag in given):
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if args.train_batch_size < 1 or args.train_batch_size % processes:
            raise UsageError(
                f"--train_batch_size {args.train_batch_size}: allowed are multiples of {processes} processes"
            )
        flags.append(f"--per_device_train_batch_size={args.train_batch_size // processes}")
    if args.mixed_precision is not None:
        if args.mixed_precision not in ("no", "bf16", "fp16"):
            raise UsageError(f"--mixed_precision {args.mixed_precision}: allowed are no, bf16, fp16")
        flags += [f"--{name}={args.mixed_precision == name}" for name in ("bf16", "fp16")]
    return flags


def load_run_data(spec: TaskSpec, data_args: DataArguments, model_args: ModelArguments) -> TaskData[Any]:
    """Load the data of a run, with the preprocessing or the tokenizer that its backbone needs.

    Raises:
        UsageError: flags that exclude each other.
    """
    from ..data import resolve_task

    if model_args.backbone_name and (model_args.backbone or model_args.backbone_config):
        raise UsageError("--backbone_name: names the whole backbone; allowed without --backbone, --backbone_config")
    pretrained = model_args.backbone_name or "timm/"
    if not pretrained.startswith("timm/") and model_args.backbone_kwargs != "{}":
        raise UsageError(f"--backbone_kwargs {model_args.backbone_kwargs}: allowed with timm models and embedding bags")
    encoder = model_args.backbone_name or model_args.backbone_config
    spec = resolve_task(spec)
    if spec.text_column is not None and model_args.backbone_config and not data_args.tokenizer_name:
        raise UsageError("--backbone_config: an encoder with random weights needs a --tokenizer_name with texts")
    if spec.text_column is not None:
        return load_data(spec, data_args, tokenizer=model_args.backbone_name, padded=encoder is not None)
    return load_data(spec, data_args, preprocessing=_preprocessing_of_backbone(data_args, model_args))


def _preprocessing_of_backbone(data_args: DataArguments, model_args: ModelArguments) -> ImagePreprocessing | None:
    """Return a pretrained backbone's preprocessing. None: there is none, or flags give all of it."""
    from ..data import backbone_preprocessing
    from ..data.preprocessing import FIELDS

    name = model_args.backbone_name
    if name is None or all(getattr(data_args, field) is not None for field in FIELDS):
        return None
    with one_line(hub=f"--backbone_name {name}"):
        return backbone_preprocessing(name)


def build_model(args: ModelArguments, data: TaskData[Any]) -> SelfModelingPreTrainedModel:
    """The network that these flags describe, for samples and classes of this data."""
    from ..data import TextTensors
    from ..models import (
        SelfModelingConfig,
        SelfModelingForImageClassification,
        SelfModelingForSequenceClassification,
        check_config,
    )
    from ..trainer.recipe_network import check_forward, check_length, network_fields

    texts = isinstance(data.train, TextTensors)
    model_class: type[SelfModelingPreTrainedModel] = (
        SelfModelingForSequenceClassification if texts else SelfModelingForImageClassification
    )
    fields: dict[str, Any] = {
        "backbone_kwargs": _json_object("--backbone_kwargs", args.backbone_kwargs),
        "feature_pooling": args.feature_pooling,
        "hidden_sizes": args.hidden_sizes or (),
        "target_layers": args.target_layers or (),
        "target_pooling": args.target_pooling,
        "aux_weight": args.aux_weight,
        "classification_weight": args.classification_weight,
        "detach_targets": args.detach_targets,
    }
    if args.backbone is not None:
        fields["backbone"] = args.backbone
    if not texts:
        fields["small_image_stem"] = args.small_image_stem
    if args.backbone_config is not None:
        fields["backbone_config"] = _json_object("--backbone_config", args.backbone_config)
        fields.setdefault("backbone", "transformers")
    fields = network_fields(data, fields)
    if args.backbone_name is not None:
        own = ("backbone",) if args.backbone_name.startswith("timm/") else ("backbone", "backbone_kwargs")
        fields = {name: value for name, value in fields.items() if name not in own}
        with one_line(hub=f"--backbone_name {args.backbone_name}"):
            model = model_class.from_backbone_pretrained(args.backbone_name, **fields)
    else:
        config = SelfModelingConfig(**fields)
        check_config(config)
        model = model_class(config)
    check_length(model, data.train, data.test)
    check_forward(model, data.train)
    return model


def _json_object(flag: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{flag} {text}: allowed is a JSON object")
    return value


def _build_trainer(
    spec: TaskSpec,
    model: SelfModelingPreTrainedModel,
    args: SelfModelingTrainingArguments,
    data: TaskData[Any],
    quiet: bool,
) -> SelfModelingTrainer:
    from transformers import PrinterCallback, ProgressCallback

    from ..trainer import SelfModelingTrainer
    from .progress import EpochLines, SilentProgressBar

    try:
        trainer = SelfModelingTrainer(
            model=model,
            args=args,
            train_dataset=data.train,
            eval_dataset=data.test,
            processing_class=data.train.processor(),
            task=spec,
        )
    except RuntimeError as error:  # a tracker that is not installed
        raise UsageError(f"--report_to {' '.join(args.report_to)}: {error}") from error
    # in place of transformers' lines, which repeat every entry of every log
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if not quiet:
        trainer.add_callback(EpochLines)
        if not args.disable_tqdm and sys.stderr.isatty():
            trainer.add_callback(SilentProgressBar)
    return trainer


def train(trainer: SelfModelingTrainer) -> None:
    """Train, evaluate, save, push if asked for, and print a table."""
    resume = trainer.args.resume_from_checkpoint
    if resume is not None and resume.lower() in ("true", "last"):
        resume = True
    result = trainer.train(resume_from_checkpoint=resume)
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", result.metrics)
    trainer.save_metrics("eval", metrics)
    where = trainer.args.output_dir
    if trainer.args.push_to_hub:
        with hub_in_one_line(f"--hub_model_id {trainer.hub_model_id}"):
            trainer.push_to_hub()
        where += f", {trainer.hub_model_id} on the Hub"
    if trainer.is_world_process_zero():
        print(summary(trainer, metrics, where))


def summary(trainer: SelfModelingTrainer, metrics: dict[str, float], where: str) -> str:
    """The table at the end of a run."""
    from .progress import newest_rlct, rlct_text

    rows = {"loss": f"{metrics['eval_loss']:.4f}"} if "eval_accuracy" not in metrics else {}  # --prediction_loss_only
    for title, name in (("accuracy", "eval_accuracy"), ("classification loss", "eval_classification_loss")):
        if name in metrics:
            rows[title] = f"{metrics[name]:.4f}"
    if "eval_self_modeling_loss" in metrics:
        weight = trainer.model.config.aux_weight
        rows["self-modeling loss"] = f"{metrics['eval_self_modeling_loss']:.5f} (weight {weight:g})"
    widths = [entry["weight_width"] for entry in trainer.state.log_history if "weight_width" in entry]
    if widths:
        rows["weight width"] = f"{widths[-1]:.4f}"
    estimate = newest_rlct(trainer.state.log_history)
    if estimate is not None:
        rows["RLCT"] = f"{rlct_text(estimate)}, estimated after epoch {estimate['epoch']:g}"
    if not math.isfinite(metrics["eval_loss"]):
        rows["diverged"] = "the loss is not finite; try a smaller --learning_rate or --aux_weight"
    rows["model"] = where
    return "\n".join(f"{name:22}{value}" for name, value in rows.items())

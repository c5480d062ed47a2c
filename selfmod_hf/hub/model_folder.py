"""Read the files in a trained model's folder, and write its card from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open

from .. import __version__
from ..complexity import LLCResult
from ..complexity.weight_width import weight_width_of
from ..data import ImageTensors, TaskSpec
from ..errors import InputError
from ..extras import is_installed
from ..files import entries_of, plain, read_json, write_figure, write_file
from ..json_records import OF_KIND, NetworkRun, PreprocessingFields, TaskFields
from ..models import load_config
from ..weights import ADAPTER_SETTINGS, KEY, belongs, files_with_weights, weights_sha256
from .card import CardFacts, merged_notes, model_card
from .license import chosen_license, license_fields, license_in
from .metric_names import METRICS
from .records import RESULT_FILES, RUN_FILE, STATE_FILE, recorded_weights

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ..models import SelfModelingConfig

PACKAGES = ("torch", "transformers")
UNNAMED = TaskFields(name="an unnamed data set", dataset_name=None)
# title of a panel -> entry of the log -> label
CURVES = {
    "loss, nats": {"classification_loss": "training", "eval_classification_loss": "test"},
    "self-modeling loss": {"self_modeling_loss": "training", "eval_self_modeling_loss": "test"},
    "accuracy": {"eval_accuracy": "test"},
    "weight width": {"weight_width": "SD of the last layer's weights"},
}


# ---- run.json ----


def run_facts(task: TaskSpec | None, train_data: Any, test_data: Any, batch_size: int) -> NetworkRun:
    """Return the content of `run.json`, without the fields about one state of the weights.

    Args:
        task: the network's task, if any.
        train_data: the training set, of any type.
        test_data: the test set, of any type, or None.
        batch_size: samples of a training step.
    """
    preprocessing = None
    if isinstance(train_data, ImageTensors):
        preprocessing = PreprocessingFields.model_validate(plain(train_data.preprocessing().facts()))
    return NetworkRun(
        task=_task_fields(task),
        train_samples=_size_of(train_data),
        test_samples=_size_of(test_data),
        batch_size=batch_size,
        preprocessing=preprocessing,
        versions={name: version(name) for name in PACKAGES} | {"selfmod_hf": __version__},
    )


def _task_fields(task: TaskSpec | None) -> TaskFields | None:
    if task is None:
        return None
    fields = {name: getattr(task, name) for name in TaskFields.model_fields}
    if isinstance(task.text_column, tuple):
        fields["text_column"] = list(task.text_column)
    for name in OF_KIND:
        if fields[name] is None:
            del fields[name]
    if task.is_local:  # a folder of this machine means nothing elsewhere
        fields["dataset_name"] = None
    return TaskFields.model_validate(fields)


def _size_of(data: Any) -> int | None:
    if not hasattr(data, "__len__"):
        return None
    return len(data)


def _run_of(folder: Path) -> NetworkRun:
    """Return the content of a folder's run.json. An empty one stands for a missing file."""
    path = folder / RUN_FILE
    if not path.is_file():
        return NetworkRun(task=None)
    return NetworkRun.read(path)


# ---- the card ----


def write_model_card(  # noqa: PLR0913 - the last three are options, by keyword only
    folder: str | Path,
    repo_id: str,
    remote_card: str = "",
    *,
    license: str | None = None,
    tags: Sequence[str] = (),
    api: HfApi | None = None,
) -> Path:
    """Write README.md, `training.png` and `rlct.png` from the folder's files, and return the card's path.

    Without matplotlib the pictures are left out.

    Args:
        folder: a model, saved by `SelfModelingTrainer`.
        repo_id: the model's repository.
        remote_card: the present card in the repository.
        license: identifier of the Hub, as in `chosen_license`.
        tags: more tags of the card's metadata.
        api: for asking the Hub for the data set and for the license of the backbone.

    Raises:
        InputError: the folder holds no model, or the user's text in one of the cards would be lost.
    """
    folder = Path(folder)
    card = folder / "README.md"
    local_card = ""
    if card.is_file():
        local_card = card.read_text(encoding="utf-8")
    notes = merged_notes(local_card, remote_card)
    state_file = folder / STATE_FILE
    history = _json(state_file).get("log_history", [])
    draws = is_installed("matplotlib")
    if draws and history and _describes(state_file, weights_sha256(folder)) is not False:
        with entries_of(state_file):
            plot_training(history, folder / "training.png")
    rlct = read_rlct(folder)
    if draws and rlct is not None:
        rlct.plot(folder / "rlct.png")
    facts = facts_of(folder, repo_id)
    if facts.dataset and api is not None and not is_data_set(api, facts.dataset):
        facts = replace(facts, dataset=None)
    run = _run_of(folder)
    if license is None:
        license = run.license
    fields = chosen_license(license, license_in(remote_card), facts.config.base_model, api)
    if not fields:
        fields = license_fields(run.base_license)
    facts = replace(facts, license=fields, tags=tags)
    # complete or not at all, because the next push reads the user's text in it
    return write_file(card, str(model_card(facts, notes)))


def is_data_set(api: HfApi, name: str) -> bool:
    """Return whether the Hub has a data set of this name. A card's metadata name no other data set."""
    try:
        return bool(api.repo_exists(name, repo_type="dataset"))
    except HFValidationError:
        return False


def facts_of(folder: Path, repo_id: str) -> CardFacts:
    """Return the records in a model's folder about its weights.

    Raises:
        InputError: no model of this package, or a broken file.
    """
    if not (folder / "config.json").is_file():
        raise InputError("folder", str(folder), "holds no config.json")
    config, rlct = load_config(folder), read_rlct(folder)
    with entries_of(folder):
        return _facts(folder, repo_id, config, rlct)


def _facts(folder: Path, repo_id: str, config: SelfModelingConfig, rlct: LLCResult | None) -> CardFacts:
    weights = weights_sha256(folder)
    run = _run_of(folder)
    arguments = _json(folder / "training_args.json")
    if _describes(folder / RUN_FILE, weights) is False:  # of another training, perhaps on other data
        run, arguments = NetworkRun(task=None), {}
    state = _json(folder / STATE_FILE)
    own_log = _describes(folder / STATE_FILE, weights)
    of_other_weights = own_log is False
    epochs = run.epoch
    if epochs is None and not of_other_weights:
        epochs = state.get("epoch")
    results = [_json(folder / name) for name in RESULT_FILES]
    results.insert(0, {**(run.results or {}), KEY: run.weights_sha256})
    evaluation, checked = _evaluation(results, state, own_log, weights)
    metrics = {name: evaluation[name] for name in METRICS if name in evaluation}
    width = _weight_width(folder)
    if width is None:  # of a network with its task model's own head, measured with its evaluation
        width = (run.results or {}).get("weight_width")
    if width is not None:
        metrics["weight_width"] = width
    task = run.task or UNNAMED
    train_split = task.train_split or "train"
    test_split = task.test_split or "test"
    if task.test_fraction is not None:
        test_split = f"{train_split} (held-out share {task.test_fraction})"
    return CardFacts(
        repo_id=repo_id,
        config=config,
        dataset=task.dataset_name,
        dataset_title=task.name,
        dataset_config=task.dataset_config,
        split=test_split,
        train_split=train_split,
        epochs=epochs,
        metrics=metrics,
        recipe=_adapter(folder, config) | _recipe(config, arguments, run),
        rlct=rlct,
        curves=(folder / "training.png").is_file() and not of_other_weights,
        trace=rlct is not None and (folder / "rlct.png").is_file(),
        weights=weights,
        metrics_checked=checked,
        has_processor=_has_processor(folder),
    )


def _has_processor(folder: Path) -> bool:
    files = folder / "preprocessor_config.json", folder / "tokenizer_config.json"
    return any(map(Path.is_file, files))


def _evaluation(
    results: list[dict[str, Any]], state: dict[str, Any], own_log: bool | None, weights: str | None
) -> tuple[dict[str, Any], bool]:
    """Return the newest figures of an evaluation of these weights, and whether they are known to belong to them.

    A folder of version 0.1.0 records no weights. The newest figures of its log are taken.

    Args:
        results: contents of the files with results, with their checksums if recorded.
        state: content of trainer_state.json.
        own_log: whether the log belongs to these weights. None: unknown.
        weights: their checksum.
    """
    is_recorded = own_log is not None
    for figures in results:
        recorded = figures.get(KEY)
        if recorded:
            is_recorded = True
        if _has_metric(figures) and belongs(recorded, weights):
            return _without_prefix(figures), True
    if is_recorded:
        return {}, True
    newest: dict[str, Any] = {}
    for entry in state.get("log_history", []):
        newest |= entry
    return _without_prefix(newest), not _has_metric(newest)


def _has_metric(figures: dict[str, Any]) -> bool:
    """Return whether figures are of an evaluation."""
    return any(f"eval_{name}" in figures for name in METRICS)


def _without_prefix(figures: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("eval_"): value for name, value in figures.items()}


def _describes(path: Path, weights: str | None) -> bool | None:
    """Return whether a file describes these weights. None: it is missing, or does not record its weights."""
    if not path.is_file():
        return None
    return belongs(recorded_weights(path), weights)


def _weight_width(folder: Path) -> float | None:
    """Return the standard deviation of the last layer's weights in a folder. None: they cannot be read."""
    for name in files_with_weights(folder):
        try:
            with safe_open(folder / name, "pt") as file:
                if "classifier.weight" in file.keys():  # noqa: SIM118, a safetensors file is no mapping
                    return weight_width_of(file.get_tensor("classifier.weight")).sd
        except ValueError:  # they are not finite, because the run has diverged
            return math.nan
        except (OSError, SafetensorError):
            return None
    return None


def _adapter(folder: Path, config: SelfModelingConfig) -> dict[str, Any]:
    """Return the settings of a network's adapter, label to value."""
    if not config.adapter:
        return {}
    settings = _json(folder / ADAPTER_SETTINGS)
    text = str(settings.get("peft_type"))
    if "lora_alpha" in settings:
        text += f", rank {settings['r']}, alpha {settings['lora_alpha']}, dropout {settings['lora_dropout']}"
    targets = settings.get("target_modules")
    if isinstance(targets, list):
        text += f", at {', '.join(sorted(targets))}"
    return {"adapter": text}


def _recipe(config: SelfModelingConfig, args: dict[str, Any], run: NetworkRun) -> dict[str, Any]:
    """Return the settings of the training, label to value."""
    recipe: dict[str, Any] = {}
    if config.wrapped_config is not None:
        inner: Any = config.wrapped_config
        recipe["task model"] = f"{inner.model_type}, {config.task_type}"
    else:
        recipe["backbone"] = config.backbone
        recipe["hidden sizes"] = ", ".join(map(str, config.hidden_sizes)) or "none"
        if config.hidden_activation != "relu":
            recipe["hidden activation"] = config.hidden_activation
    if not args:
        return recipe | {"training": "not recorded"}
    recipe |= {"training samples": run.train_samples, "test samples": run.test_samples}
    if run.preprocessing is not None:  # version 0.1.0 did not record it
        recipe["images"] = _images_line(run.preprocessing)
    optimizer = args["optim"]
    if args.get("optim_args"):
        optimizer = f"{optimizer} ({args['optim_args']})"
    precision = args.get("mixed_precision", "no")
    if precision == "no":
        precision = "float32"
    versions = [f"{name} {number}" for name, number in run.versions.items()]
    return recipe | {
        "optimizer": optimizer,
        "learning rate": f"{args['learning_rate']:g} ({args['lr_scheduler_type']})",
        "batch size": run.batch_size,
        "epochs": f"{args['num_train_epochs']:g}",
        "weight decay": f"{args['weight_decay']:g}",
        "precision": precision,
        "seed": args["seed"],
        "versions": ", ".join(versions),
    }


def _images_line(preprocessing: PreprocessingFields) -> str:
    """Return how images became inputs, for people."""
    height, width = preprocessing.image_size or (None, None)
    edge = preprocessing.shortest_edge
    cut = "without a crop" if edge is None else f"shorter side to {edge}, then cropped"
    size = f"{height}x{width} (others are resized, {preprocessing.interpolation}, {cut})"
    mean, std = _numbers(preprocessing.image_mean), _numbers(preprocessing.image_std)
    return f"{size}, mean {mean}, deviation {std}; from: {preprocessing.source}"


def _numbers(values: float | list[float]) -> str:
    if not isinstance(values, list):
        values = [values]
    return ", ".join(map("{:g}".format, values))


def read_rlct(folder: Path) -> LLCResult | None:
    """Return the estimate in a folder's rlct.json. None: the file is missing, or the estimate is of other weights."""
    path = folder / "rlct.json"
    if not path.is_file():
        return None
    result = LLCResult.load(path)
    if belongs(result.weights_sha256, weights_sha256(folder)) is False:
        return None
    return result


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_json(path)


def plot_training(history: list[dict[str, float]], path: Path) -> None:
    """Plot losses, accuracy and weight width over epochs, from the Trainer's log, as a PNG."""
    from matplotlib.figure import Figure

    logged = set[str]().union(*history)
    panels = []
    for title, labels in CURVES.items():
        present = {name: label for name, label in labels.items() if name in logged}
        if present:
            panels.append((title, present))
    rows, columns = max(1, (len(panels) + 1) // 2), 2  # two in a row can be read on a phone
    figure = Figure(figsize=(3.2 * columns, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns).flat
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, (title, labels) in zip(axes, panels, strict=False):
        for name, label in labels.items():
            epochs, values = [], []
            for entry in history:
                if name in entry:
                    epochs.append(entry["epoch"])
                    values.append(entry[name])
            axis.plot(epochs, values, marker=".", label=label)
        axis.set(xlabel="epoch", title=title)
        axis.legend(fontsize="small")
    write_figure(figure, path, dpi=120)

"""A trained model's folder: what its files say, and the card made from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import ImageTensors
from ..errors import InputError
from ..files import entries_of, plain, read_json, write_figure, write_file
from ..json_records import NetworkRun, PreprocessingFields, TaskFields
from ..weights import KEY, belongs, files_with_weights, weights_sha256
from .card import METRICS, CardFacts, merged_notes, model_card
from .license import chosen_license, license_fields, license_in
from .records import RESULT_FILES, RUN_FILE, STATE_FILE, recorded_weights

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ..complexity import LLCResult
    from ..data import TaskSpec
    from ..models import SelfModelingConfig

PACKAGES = ("torch", "transformers", "selfmod_hf")
UNNAMED = TaskFields(name="an unnamed data set", dataset_name=None)
CURVES = {
    "loss, nats": {"classification_loss": "training", "eval_classification_loss": "test"},
    "self-modeling loss": {"self_modeling_loss": "training", "eval_self_modeling_loss": "test"},
    "accuracy": {"eval_accuracy": "test"},
    "weight width": {"weight_width": "SD of the last layer's weights"},
}


def run_facts(task: TaskSpec | None, train_data: Any, test_data: Any, batch_size: int) -> NetworkRun:
    """Return the content of `run.json`, without the fields that describe one state of the weights.

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
        task=None if task is None else _task_fields(task),
        train_samples=_size_of(train_data),
        test_samples=_size_of(test_data),
        batch_size=batch_size,
        preprocessing=preprocessing,
        versions={name: version(name) for name in PACKAGES},
    )


def _task_fields(task: TaskSpec) -> TaskFields:
    fields = {name: getattr(task, name) for name in TaskFields.model_fields}
    if task.is_local:  # a folder of this machine means nothing elsewhere
        fields["dataset_name"] = None
    return TaskFields.model_validate(fields)


def _size_of(data: Any) -> int | None:
    return len(data) if hasattr(data, "__len__") else None


def write_model_card(
    folder: str | Path,
    repo_id: str,
    remote_card: str = "",
    *,
    license: str | None = None,
    tags: Sequence[str] = (),
    api: HfApi | None = None,
) -> Path:
    """Write README.md, `training.png` and `rlct.png` from the folder's files, and return the card's path.

    Args:
        folder: a model that `SelfModelingTrainer` saved.
        repo_id: where it goes to.
        remote_card: the card that is there already.
        license: identifier of the Hub; see `chosen_license`.
        tags: more tags of the card's metadata.
        api: where the Hub may be asked for the data set and for the license of the backbone.

    Raises:
        InputError: the folder holds no model, or a person's text that would be lost.
    """
    folder = Path(folder)
    card = folder / "README.md"
    notes = merged_notes(card.read_text(encoding="utf-8") if card.is_file() else "", remote_card)
    weights = weights_sha256(folder)
    history = _json(folder / STATE_FILE).get("log_history", [])
    if history and _describes(folder / STATE_FILE, weights) is not False:
        with entries_of(folder / STATE_FILE):
            plot_training(history, folder / "training.png")
    rlct = read_rlct(folder)
    if rlct is not None:
        rlct.plot(folder / "rlct.png")
    facts = facts_of(folder, repo_id)
    dataset = facts.dataset if facts.dataset and (api is None or is_data_set(api, facts.dataset)) else None
    run = _run_of(folder)
    given = license if license is not None else run.license
    own = chosen_license(given, license_in(remote_card), facts.config.base_model, api)
    own = own or license_fields(run.base_license)
    facts = replace(facts, dataset=dataset, license=own, tags=tags)
    # whole or not at all: a person's text in it is read again by the next push
    return write_file(card, str(model_card(facts, notes)))


def is_data_set(api: HfApi, name: str) -> bool:
    """Return whether the Hub has a data set of this name. What a Hub does not know stays out of a card's metadata."""
    from huggingface_hub.errors import HFValidationError

    try:
        return bool(api.repo_exists(name, repo_type="dataset"))
    except HFValidationError:
        return False


def facts_of(folder: Path, repo_id: str) -> CardFacts:
    """Return what the files of a model's folder say of the weights in it.

    Raises:
        InputError: no model of this package.
    """
    from ..models import load_config

    if not (folder / "config.json").is_file():
        raise InputError("folder", str(folder), "holds no config.json")
    config, rlct = load_config(folder), read_rlct(folder)
    with entries_of(folder):
        return _facts(folder, repo_id, config, rlct)


def _facts(folder: Path, repo_id: str, config: SelfModelingConfig, rlct: LLCResult | None) -> CardFacts:
    weights = weights_sha256(folder)
    run, state = _run_of(folder), _json(folder / STATE_FILE)
    arguments = _json(folder / "training_args.json")
    if _describes(folder / RUN_FILE, weights) is False:  # of another training, perhaps on other data
        run, arguments = NetworkRun(task=None), {}
    task = run.task or UNNAMED
    evaluation, checked = _evaluation(folder, run, state, weights)
    metrics = {name: evaluation[name] for name in METRICS if name in evaluation}
    if (width := _weight_width(folder)) is not None:
        metrics["weight_width"] = width
    curves = (folder / "training.png").is_file() and _describes(folder / STATE_FILE, weights) is not False
    return CardFacts(
        repo_id=repo_id,
        config=config,
        dataset=task.dataset_name,
        dataset_title=task.name,
        dataset_config=task.dataset_config,
        split=_test_split(task),
        train_split=task.train_split or "train",
        epochs=_epochs(folder, run, state, weights),
        metrics=metrics,
        recipe=_recipe(config, arguments, run),
        rlct=rlct,
        curves=curves,
        trace=rlct is not None and (folder / "rlct.png").is_file(),
        weights=weights,
        metrics_checked=checked,
        has_processor=_has_processor(folder),
    )


def _epochs(folder: Path, run: NetworkRun, state: dict[str, Any], weights: str | None) -> float | None:
    """Return how many epochs these weights were trained for. None: it is not recorded."""
    if run.epoch is not None:
        return run.epoch
    return state.get("epoch") if _describes(folder / STATE_FILE, weights) is not False else None


def _test_split(task: TaskFields) -> str:
    """Return what the test samples are: a split, or a share of the training split."""
    if task.test_fraction is None:
        return task.test_split or "test"
    return f"{task.train_split or 'train'} (held-out share {task.test_fraction})"


def _evaluation(
    folder: Path, run: NetworkRun, state: dict[str, Any], weights: str | None
) -> tuple[dict[str, Any], bool]:
    """Return the newest figures of an evaluation of these weights, and whether they are known to be theirs.

    A folder of version 0.1.0 records no weights. Of such a folder the log's newest figures are taken.
    """
    results = [_json(folder / name) for name in RESULT_FILES]
    found = [{**(run.results or {}), KEY: run.weights_sha256}, *results]
    for figures in found:
        if "eval_accuracy" in figures and belongs(figures.get(KEY), weights):
            return _without_prefix(figures), True
    if any(figures.get(KEY) for figures in found) or _describes(folder / STATE_FILE, weights) is not None:
        return {}, True
    newest = {name: value for entry in state.get("log_history", []) for name, value in entry.items()}
    return _without_prefix(newest), "eval_accuracy" not in newest


def _without_prefix(figures: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("eval_"): value for name, value in figures.items()}


def _describes(path: Path, weights: str | None) -> bool | None:
    """Return whether a file describes these weights. None: it is missing or says of which weights it is nowhere."""
    return belongs(recorded_weights(path), weights) if path.is_file() else None


def _weight_width(folder: Path) -> float | None:
    """Return the standard deviation of the last layer's weights in a folder. None: they cannot be read."""
    from safetensors import SafetensorError, safe_open

    from ..complexity.weight_width import weight_width_of

    for name in files_with_weights(folder):
        try:
            with safe_open(folder / name, "pt") as file:
                if "classifier.weight" in file.keys():  # noqa: SIM118, a safetensors file is no mapping
                    return weight_width_of(file.get_tensor("classifier.weight")).sd
        except ValueError:  # they are not finite: the run has diverged
            return math.nan
        except (OSError, SafetensorError):
            return None
    return None


def _has_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("preprocessor_config.json", "tokenizer_config.json"))


def _recipe(config: Any, args: dict[str, Any], run: NetworkRun) -> dict[str, Any]:
    recipe = {"backbone": config.backbone, "hidden sizes": ", ".join(map(str, config.hidden_sizes)) or "none"}
    if not args:
        return recipe | {"training": "not recorded"}
    precision = args.get("mixed_precision", "no")
    return recipe | {
        "training samples": run.train_samples,
        "test samples": run.test_samples,
        **_images_line(run.preprocessing),
        "optimizer": f"{args['optim']} ({args['optim_args']})" if args.get("optim_args") else args["optim"],
        "learning rate": f"{args['learning_rate']:g} ({args['lr_scheduler_type']})",
        "batch size": run.batch_size,
        "epochs": f"{args['num_train_epochs']:g}",
        "weight decay": f"{args['weight_decay']:g}",
        "precision": precision if precision != "no" else "float32",
        "seed": args["seed"],
        "versions": ", ".join(f"{name} {number}" for name, number in run.versions.items()),
    }


def _images_line(preprocessing: PreprocessingFields | None) -> dict[str, str]:
    """Return how pictures become inputs, as a row of the recipe. Runs of version 0.1.0 do not say."""
    if preprocessing is None:
        return {}
    height, width = preprocessing.image_size or (None, None)
    size = f"{height}x{width} (others are resized, {preprocessing.interpolation}, without a crop)"
    mean, std = _numbers(preprocessing.image_mean), _numbers(preprocessing.image_std)
    return {"images": f"{size}, mean {mean}, deviation {std}; from: {preprocessing.source}"}


def _numbers(values: float | list[float]) -> str:
    numbers = values if isinstance(values, list) else [values]
    return ", ".join(f"{number:g}" for number in numbers)


def read_rlct(folder: Path) -> LLCResult | None:
    """Return the estimate in a folder's rlct.json. None: the file is missing, or the estimate is of other weights."""
    from ..complexity import LLCResult

    if not (folder / "rlct.json").is_file():
        return None
    result = LLCResult.load(folder / "rlct.json")
    return None if belongs(result.weights_sha256, weights_sha256(folder)) is False else result


def _run_of(folder: Path) -> NetworkRun:
    """Return the content of a folder's run.json. An empty one stands for a missing file."""
    path = folder / RUN_FILE
    return NetworkRun.read(path) if path.is_file() else NetworkRun(task=None)


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def plot_training(history: list[dict[str, float]], path: Path) -> None:
    """Losses, accuracy and weight width over epochs, from the Trainer's log, as a PNG."""
    from matplotlib.figure import Figure

    panels = {
        title: {name: label for name, label in names.items() if any(name in entry for entry in history)}
        for title, names in CURVES.items()
    }
    panels = {title: names for title, names in panels.items() if names}
    figure = Figure(figsize=(3.2 * max(1, len(panels)), 2.8), layout="constrained")
    axes = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    for axis, (title, names) in zip(axes, panels.items(), strict=False):
        for name, label in names.items():
            points = [(entry["epoch"], entry[name]) for entry in history if name in entry]
            axis.plot(*zip(*points, strict=True), marker=".", label=label)
        axis.set(xlabel="epoch", title=title)
        axis.legend(fontsize="small")
    write_figure(figure, path, dpi=120)

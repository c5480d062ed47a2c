"""A trained model's folder: what its files say, and the card made from them."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import entries_of, read_json
from .card import METRICS, CardFacts, merged_notes, model_card

if TYPE_CHECKING:
    from ..complexity import LLCResult
    from ..data import TaskSpec
    from ..models import SelfModelingConfig

RUN_FILE = "run.json"  # task, samples, batch size, versions
CURVES = {
    "loss, nats": {"classification_loss": "training", "eval_classification_loss": "test"},
    "self-modeling loss": {"self_modeling_loss": "training", "eval_self_modeling_loss": "test"},
    "accuracy": {"eval_accuracy": "test"},
    "weight width": {"weight_width": "SD of the last layer's weights"},
}


def run_facts(task: TaskSpec | None, train_data: Any, test_data: Any, batch_size: int) -> dict[str, Any]:
    """The content of `run.json`: what neither the configuration nor the Trainer's files say."""
    from ..data import ImageTensors

    columns = ("image_column", "text_column", "label_column")
    splits = ("train_split", "test_split", "test_fraction", "split_seed", "skip_missing")
    names = ("name", "dataset_name", "dataset_config", *columns, *splits, "source")
    about = None if task is None else {name: getattr(task, name) for name in names}
    if task is not None and about is not None and task.is_local:
        about["dataset_name"] = None  # a folder of this machine means nothing elsewhere
    return {
        "task": about,
        "train_samples": len(train_data) if hasattr(train_data, "__len__") else None,
        "test_samples": len(test_data) if hasattr(test_data, "__len__") else None,
        "batch_size": batch_size,
        "preprocessing": train_data.preprocessing().facts() if isinstance(train_data, ImageTensors) else None,
        "versions": {name: version(name) for name in ("torch", "transformers", "selfmod_hf")},
    }


def write_model_card(folder: str | Path, repo_id: str, remote_card: str = "") -> Path:
    """Write README.md, `training.png` and `rlct.png` from the folder's files; returns the card's path.

    Args:
        folder: a model that `SelfModelingTrainer` saved.
        repo_id: where it goes to.
        remote_card: the card that is there already.

    Raises:
        InputError: the folder holds no model, or a person's text that would be lost.
    """
    from ..complexity.result import write_file

    folder = Path(folder)
    card = folder / "README.md"
    notes = merged_notes(card.read_text(encoding="utf-8") if card.is_file() else "", remote_card)
    history = _json(folder / "trainer_state.json").get("log_history", [])
    if history:
        with entries_of(folder / "trainer_state.json"):
            plot_training(history, folder / "training.png")
    rlct = read_rlct(folder)
    if rlct is not None:
        rlct.plot(folder / "rlct.png")
    # whole or not at all: a person's text in it is read again by the next push
    return write_file(card, str(model_card(facts_of(folder, repo_id), notes)))


def facts_of(folder: Path, repo_id: str) -> CardFacts:
    """What the files of a model's folder say of it.

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
    run, state = _json(folder / RUN_FILE), _json(folder / "trainer_state.json")
    task = run.get("task") or {"name": "an unnamed data set"}
    log = state.get("log_history", [])
    newest = {name.removeprefix("eval_"): value for entry in log for name, value in entry.items()}
    return CardFacts(
        repo_id=repo_id,
        config=config,
        dataset=task.get("dataset_name"),
        dataset_title=task["name"],
        dataset_config=task.get("dataset_config"),
        split=_test_split(task),
        train_split=task.get("train_split", "train"),
        epochs=state.get("epoch") or 0.0,
        metrics={name: newest[name] for name in METRICS if name in newest},
        recipe=_recipe(config, _json(folder / "training_args.json"), run),
        rlct=rlct,
        curves=(folder / "training.png").is_file(),
        trace=(folder / "rlct.png").is_file(),
    )


def _test_split(task: dict[str, Any]) -> str:
    """Return what the test samples are: a split, or a share of the training split."""
    if task.get("test_fraction") is None:
        return task.get("test_split") or "test"
    return f"{task.get('train_split', 'train')} (held-out share {task['test_fraction']})"


def _recipe(config: Any, args: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    recipe = {"backbone": config.backbone, "hidden sizes": ", ".join(map(str, config.hidden_sizes)) or "none"}
    if not args:
        return recipe | {"training": "not recorded"}
    precision = args.get("mixed_precision", "no")
    return recipe | {
        "training samples": run.get("train_samples"),
        "test samples": run.get("test_samples"),
        **_images_line(run.get("preprocessing")),
        "optimizer": f"{args['optim']} ({args['optim_args']})" if args.get("optim_args") else args["optim"],
        "learning rate": f"{args['learning_rate']:g} ({args['lr_scheduler_type']})",
        "batch size": run.get("batch_size"),
        "epochs": f"{args['num_train_epochs']:g}",
        "weight decay": f"{args['weight_decay']:g}",
        "precision": precision if precision != "no" else "float32",
        "seed": args["seed"],
        "versions": ", ".join(f"{name} {number}" for name, number in run.get("versions", {}).items()),
    }


def _images_line(preprocessing: dict[str, Any] | None) -> dict[str, str]:
    """Return how pictures become inputs, as a row of the recipe. Runs of version 0.1.0 do not say."""
    if preprocessing is None:
        return {}
    height, width = preprocessing["image_size"]
    mean, std = (_numbers(preprocessing[name]) for name in ("image_mean", "image_std"))
    size = f"{height}x{width} (others are resized, {preprocessing['interpolation']}, without a crop)"
    return {"images": f"{size}, mean {mean}, deviation {std}; from: {preprocessing['source']}"}


def _numbers(values: float | list[float]) -> str:
    numbers = values if isinstance(values, list) else [values]
    return ", ".join(f"{number:g}" for number in numbers)


def read_rlct(folder: Path) -> LLCResult | None:
    """The estimate that lies in a folder as rlct.json, if there is one."""
    from ..complexity import LLCResult

    return LLCResult.load(folder / "rlct.json") if (folder / "rlct.json").is_file() else None


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def plot_training(history: list[dict[str, float]], path: Path) -> None:
    """Losses, accuracy and weight width over epochs, from the Trainer's log, as a PNG."""
    from matplotlib.figure import Figure

    from ..complexity.result import write_figure

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

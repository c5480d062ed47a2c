"""A sweep on the Hub: its networks in one model repository, its tables as a data set of the same name.

One repository with a folder a network, and neither a revision nor a repository for each: all networks are one commit,
which is there or not (the tables another, after it); a network is loaded by `subfolder=`, the code lies there once, and
nobody's namespace holds 240 repositories. (Revisions would take a commit and a branch for each network, a collection a
repository.)
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import entries_of, files_of_user
from ..hub.card import CITATION, TAGS, between_markers, merged_notes, plain_text, rlct_name, template
from ..hub.upload import Target, check_links, head_of, prepare, remote_card, selected, upload
from .figures import draw_figures
from .folder import RESULT_COLUMNS, SweepFolder
from .plan import can_be_hub_id, describe_setting
from .published import published_value
from .report import DIGITS, NAMES
from .statistics import ARM, MEASURES, summarize_arms

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import DatasetCard, EvalResult, HfApi, ModelCard

# once, at the top, where transformers looks
CODE = (
    "configuration_self_modeling.py", "image_processing_self_modeling.py", "modeling_self_modeling.py",
    "weights_self_modeling.py",
)  # fmt: skip
METRIC_NAMES = {"accuracy": "Accuracy", "weight_width": "Weight width"}
REPORT = "report/report.html"
TABLES = ("results.json", "results.parquet", "curves.parquet", "run.json")
MEANINGS = {
    "task": "name of the task",
    "hidden_size": "width of the hidden layer",
    "aux_weight": "weight of the self-modeling loss (the paper's AW); 0 is the baseline",
    "seed": "of the initial weights and the order of the samples",
    "detach_targets": "whether the predicted activations are constants for the gradient",
    "accuracy": "share of the test split classified rightly",
    "weight_width": "standard deviation of the last classification layer's weights",
    "rlct": "local learning coefficient of the pruned network; null where a chain diverged",
    "rlct_standard_error": "its Monte Carlo standard error",
    "rlct_status": "ok, not_at_minimum, not_converged or diverged",
    "rlct_status_reason": "why, in one line",
    "nbeta": "inverse temperature times number of samples used for the RLCT",
    "rlct_preset": "name of the sampler's settings",
    "rlct_rhat": "split R-hat of the kept draws",
    "rlct_ess": "their effective sample size",
    "train_loss": "cross-entropy over the training split at the trained weights, nats",
    "num_epochs": "epochs trained",
    "batch_size": "samples of a training step",
    "learning_rate": "of the optimizer",
    "epoch": "epochs trained so far",
    "classification_loss": "mean cross-entropy over the epoch's training steps, nats",
    "self_modeling_loss": "mean squared error of the predicted activations over the same steps",
    "loss": "their weighted sum",
}


def push_sweep(api: HfApi, path: Path, target: Target) -> list[str]:
    """Networks and tables of a sweep; returns the two addresses.

    Raises:
        InputError: no finished sweep, a link out of its folder, or weights that are missing or cannot be read.
    """
    folder = SweepFolder(path)
    # all of this refuses before anything is made on the Hub
    check_links([*networks_of(folder).values(), *(path / name for name in (*TABLES, REPORT))], path)
    check_weights(folder)
    with files_of_user("folder", path), entries_of(path / "run.json"):
        sweep_card(folder, target.repo_id)
    folder.curves()
    # both repositories, then both stages, then both uploads: what is refused is so before a half is published
    names = {kind: prepare(api, target, kind) for kind in STAGES}
    heads = {kind: head_of(api, name, target, kind) for kind, name in names.items()}
    with tempfile.TemporaryDirectory() as temporary:
        for kind, name in names.items():
            notes = merged_notes("", remote_card(api, name, kind, heads[kind]))
            staged = Path(temporary, kind)
            staged.mkdir()
            STAGES[kind](folder, staged, name, notes)
        return [
            upload(api, Path(temporary, kind), name, kind, target, MESSAGES[kind], heads[kind])
            for kind, name in names.items()
        ]


def pull_sweep(repo_id: str, folder: Path) -> SweepFolder:
    """A published sweep as a results folder: links into huggingface_hub's cache.

    Args:
        repo_id: ``user/name``.
        folder: where the links go.

    Raises:
        InputError: no such repositories, or no sweep in them.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    from ..hub.download import fetch

    try:
        networks = fetch(repo_id, ["*/*.json", "*/*.safetensors"])
        tables = fetch(repo_id, TABLES, repo_type="dataset")
    except RepositoryNotFoundError as error:
        problem = "no folder, and no sweep on the Hub (a model and a data set of that name)"
        raise InputError("folder", repo_id, problem) from error
    folder.mkdir(parents=True, exist_ok=True)
    for link, source in ((folder / "cells", networks), *((folder / name, tables / name) for name in TABLES)):
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    sweep = SweepFolder(folder)
    sweep.rows()  # refuses a repository without one
    return sweep


def networks_of(folder: SweepFolder) -> dict[str, Path]:
    """The files of the finished networks: name in the model repository to file; the code once, at the top."""
    files = {}
    for cell in _cells(folder):
        for file in sorted(cell.iterdir()):
            if not file.is_dir():
                files[file.name if file.name in CODE else f"{cell.name}/{file.name}"] = file
    return selected(files)


def check_weights(folder: SweepFolder) -> None:
    """Open, but not read, the safetensors of each network.

    Raises:
        InputError: names the first that is missing or cut off.
    """
    from safetensors import SafetensorError, safe_open

    for cell in _cells(folder):
        for path in sorted({cell / "model.safetensors", *cell.glob("*.safetensors")}):
            try:
                with safe_open(path, "np"):
                    pass
            except (OSError, SafetensorError) as error:
                raise InputError("file", str(path), f"is missing or cannot be read ({error})") from error


def _cells(folder: SweepFolder) -> list[Path]:
    return [path.parent for path in sorted(folder.cells.glob("*/row.json"))]


def stage_networks(folder: SweepFolder, staged: Path, repo_id: str, notes: str = "") -> None:
    """What the model repository is to hold: links to the sweep's files, figures, the card."""
    from .. import models

    for name in CODE:  # a sweep that was downloaded comes without: the same code as in this package
        _link(Path(models.__file__).with_name(name), staged / name)
    for name, file in networks_of(folder).items():
        _link(file, staged / name)
    figures = [file for file in draw_figures(folder, staged / "figures") if file.suffix == ".png"]
    card = sweep_card(folder, repo_id, notes, has_figure=any(file.stem == "figure2" for file in figures))
    card.save(staged / "README.md")


def stage_tables(folder: SweepFolder, staged: Path, repo_id: str, notes: str = "") -> None:
    """What the data set is to hold: tables, run.json, the report where there is one, the card."""
    folder.write_tables(staged)  # of the cells, as they are now: a sweep may be at work
    _link(folder.path / "run.json", staged / "run.json")
    report = folder.path / REPORT
    if report.is_file():
        _link(report, staged / report.name)
    dataset_card(folder, repo_id, notes).save(staged / "README.md")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source.resolve(strict=True))


STAGES = {"model": stage_networks, "dataset": stage_tables}
MESSAGES = {"model": "Upload networks of a sweep", "dataset": "Upload results of a sweep"}


# ---- cards ----


def sweep_card(folder: SweepFolder, repo_id: str, notes: str = "", *, has_figure: bool = True) -> ModelCard:
    """The card of a sweep's networks; `model-index` has the mean of each arm and measure."""
    from huggingface_hub import ModelCard, ModelCardData

    rows, run = folder.rows(), folder.read_run()
    data, config = _data(run), _config(folder)
    is_text = any("SequenceClassification" in name for name in config.get("architectures") or ())
    task = "text-classification" if is_text else "image-classification"
    name = repo_id.split("/")[-1]
    head = "SequenceClassification" if is_text else "ImageClassification"
    return ModelCard.from_template(
        ModelCardData(
            license="mit",
            library_name="transformers",
            pipeline_tag=task,
            tags=TAGS,
            datasets=[data["id"]] if data["id"] else None,
            metrics=["accuracy"],
            model_name=name,
            eval_results=_arm_results(rows, run, data, task),
        ),
        template_str=template("sweep_card.md.jinja", __package__),
        name=name,
        repo_id=repo_id,
        networks=len(rows),
        dataset=_dataset_text(data),
        split=data["test_split"],
        train_split=data["train_split"],
        model_class=f"SelfModelingFor{head}",
        auto_class=f"AutoModelFor{head}",
        example=plain_text(_cells(folder)[0].name),
        results=_markdown_table(rows),
        setting=plain_text(describe_setting(run["settings"], folder.finished_cells())),
        has_published=any(published_value(*key) is not None for key in _published_keys(rows)),
        figure=has_figure,
        sampling=plain_text(_sampling(run, rows)),
        recipe=plain_text(_recipe(run, config)),
        notes=between_markers(notes),
        citation=CITATION,
    )


def dataset_card(folder: SweepFolder, repo_id: str, notes: str = "") -> DatasetCard:
    """The card of a sweep's tables; its metadata tells `load_dataset` of both."""
    from huggingface_hub import DatasetCard, DatasetCardData

    configs = [{"config_name": name, "data_files": f"{name}.parquet"} for name in ("results", "curves")]
    configs[0]["default"] = True  # type: ignore[assignment]
    return DatasetCard.from_template(
        DatasetCardData(
            license="mit",
            tags=TAGS,
            pretty_name=f"{repo_id.split('/')[-1]}: results of a sweep",
            configs=configs,
        ),
        template_str=template("dataset_card.md.jinja", __package__),
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        networks=len(folder.rows()),
        dataset=_dataset_text(_data(folder.read_run())),
        result_columns={column: MEANINGS.get(column, "") for column in RESULT_COLUMNS},
        curve_columns={column: MEANINGS.get(column, "") for column in folder.curves().columns},
        notes=between_markers(notes),
        citation=CITATION,
    )


def _data(run: dict[str, Any]) -> dict[str, Any]:
    """Id (None where it is not on the Hub), title, configuration and splits of the data."""
    from ..data import get_task

    settings = run["settings"]
    name = settings["data"].get("dataset_name")
    try:
        spec = get_task(settings["task"])
        about = {key: getattr(spec, key) for key in ("dataset_config", "train_split", "test_split")}
    except InputError:  # a task of another version of the package
        about = {"dataset_config": None, "train_split": "train", "test_split": "test"}
    on_hub = bool(name) and not run.get("local_data") and can_be_hub_id(name)
    return about | {"id": name if on_hub else None, "title": settings["task"]}


def _dataset_text(data: dict[str, Any]) -> str:
    return f"`{plain_text(data['id'])}`" if data["id"] else plain_text(data["title"])


def _config(folder: SweepFolder) -> dict[str, Any]:
    from ..models import load_config

    return load_config(_cells(folder)[0]).to_dict()


def _arm_results(rows: pd.DataFrame, run: dict[str, Any], data: dict[str, Any], task: str) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    sampling = {
        key: value for key, value in run["settings"]["sampling"].items() if isinstance(value, (int, float, str))
    }
    results = []
    for arm in summarize_arms(rows).to_dict("records"):
        if arm["count"] == 0:
            continue  # no RLCT of this arm is "ok": there is none to publish
        own = rows[(rows[ARM] == [arm[key] for key in ARM]).all(axis=1)]
        arguments = {key: arm[key] for key in ARM} | {"networks": arm["count"], "left_out": arm["left_out"]}
        if arm["count"] > 1:
            arguments |= {"interval": [arm["low"], arm["high"]], "level": 0.95}
        name = METRIC_NAMES.get(arm["measure"])
        if name is None:  # the RLCT
            name = rlct_name(float(own["nbeta"].iloc[0]), str(sampling.get("sampler", "sgld")))
            arguments |= sampling | {"nbeta": float(own["nbeta"].iloc[0]), "nbeta_rule": str(sampling.get("nbeta"))}
        seeds = f"mean of {arm['count']} seeds" if arm["count"] > 1 else "1 seed"
        where = f"h = {arm['hidden_size']}, AW = {arm['aux_weight']:g}, {_targets(arm)}"
        results.append(
            EvalResult(
                task_type=task,
                dataset_type=data["id"] or data["title"],
                dataset_name=data["title"],
                dataset_config=data["dataset_config"],
                dataset_split=data["train_split" if arm["measure"] == "rlct" else "test_split"],
                metric_type=arm["measure"],
                metric_name=f"{name}, {seeds}, {where}",
                metric_value=arm["mean"],
                metric_args=arguments,
            )
        )
    return results


def _targets(arm: dict[str, Any]) -> str:
    return "targets detached" if arm["detach_targets"] else "targets attached"


def _published_keys(rows: pd.DataFrame) -> list[tuple[str, str, int, float]]:
    task = rows["task"].iloc[0]
    arms = rows[["hidden_size", "aux_weight"]].drop_duplicates().itertuples(index=False)
    return [(task, "accuracy", arm.hidden_size, arm.aux_weight) for arm in arms]


def _markdown_table(rows: pd.DataFrame) -> str:
    task = rows["task"].iloc[0]
    lines = ["| h | targets | AW | seeds | " + " | ".join(NAMES[m] for m in MEASURES) + " | RLCT not ok |"]
    lines.append("|---" * (5 + len(MEASURES)) + "|")
    for (hidden_size, detach, weight), arm in summarize_arms(rows).groupby(ARM):
        measures = arm.set_index("measure")
        cells = []
        for measure in MEASURES:
            entry, digits = measures.loc[measure], DIGITS[measure]
            text = "none ok" if entry["count"] == 0 else f"{entry['mean']:.{digits}f}"
            if entry["count"] > 1:
                text += f" ± {(entry['high'] - entry['low']) / 2:.{digits}f}"
            paper = published_value(task, measure, hidden_size, weight)
            cells.append(text if paper is None else f"{text} ({paper:g})")
        seeds, left_out = measures.loc["accuracy", "count"], measures.loc["rlct", "left_out"]
        targets = "detached" if detach else "attached"
        lines.append(f"| {hidden_size} | {targets} | {weight:g} | {seeds} | {' | '.join(cells)} | {left_out} |")
    return "\n".join(lines)


def _sampling(run: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    values = ", ".join(f"{value:.4g}" for value in sorted(rows["nbeta"].unique()))
    rule = run["settings"]["sampling"].get("nbeta", "n/log n")
    rest = {key.replace("_", " "): value for key, value in run["settings"]["sampling"].items() if key != "nbeta"}
    return {"nβ": f"{values} ({rule})", **rest}


def _recipe(run: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    model = {"backbone": config["backbone"], "target layers": ", ".join(config["target_layers"])}
    training = {key.replace("_", " "): value for key, value in run["settings"]["training"].items()}
    data = {key.replace("_", " "): value for key, value in run["settings"]["data"].items() if value is not None}
    versions = ", ".join(f"{name} {number}" for name, number in run.get("versions", {}).items())
    return model | data | training | {"versions": versions, "git commit": run.get("git_commit") or "none"}

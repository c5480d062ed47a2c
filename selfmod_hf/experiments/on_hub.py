"""A sweep on the Hub: its networks in one model repository, its tables as a data set of the same name.

One repository with a folder a network, and neither a revision nor a repository for each: all networks are one commit,
which is there or not (the tables another, after it); a network is loaded by `subfolder=`, the code lies there once, and
nobody's namespace holds 240 repositories. (Revisions would take a commit and a branch for each network, a collection a
repository.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import models
from ..errors import InputError
from ..files import entries_of, files_of_user
from ..hub.card import (
    CITATION,
    TAGS,
    UNKNOWN_DATA,
    between_markers,
    merged_notes,
    plain_text,
    rlct_name,
    template,
)
from ..hub.license import chosen_license, license_in
from ..hub.model_folder import is_data_set
from ..hub.upload import Target, check_links, head_of, prepare, remote_card, selected, upload
from ..weights import KEY
from .figures import draw_figures
from .folder import SweepFolder, check_readable
from .plan import can_be_hub_id, describe_setting
from .published import published_value
from .report import DIGITS, NAMES
from .statistics import ARM, MEASURES, summarize_arms

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import DatasetCard, EvalResult, HfApi, ModelCard

    from ..data import TaskSpec

# the files that travel with each network; in a repository they lie once, at the top, where transformers looks
CODE = tuple(sorted(path.name for path in Path(models.__file__).parent.glob("*_self_modeling.py")))
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
    "weights_sha256": "SHA-256 of the network's model.safetensors, which the figures are of",
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
            before = remote_card(api, name, kind, heads[kind])
            license = chosen_license(target.license, license_in(before), None)
            staged = Path(temporary, kind)
            staged.mkdir()
            STAGES[kind](folder, staged, name, merged_notes("", before), license, api)
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
    for cell in folder.networks():
        for file in sorted(cell.iterdir()):
            if not file.is_dir():
                files[file.name if file.name in CODE else f"{cell.name}/{file.name}"] = file
    return selected(files)


def check_weights(folder: SweepFolder) -> None:
    """Open, but not read, the safetensors of each network.

    Raises:
        InputError: names the first that is missing or cut off.
    """
    for cell in (path.parent for path in sorted(folder.cells.glob("*/row.json"))):
        for path in sorted({cell / "model.safetensors", *cell.glob("*.safetensors")}):
            check_readable(path)


def stage_networks(
    folder: SweepFolder,
    staged: Path,
    repo_id: str,
    notes: str = "",
    license: Mapping[str, Any] | None = None,
    api: HfApi | None = None,
) -> None:
    """What the model repository is to hold: links to the sweep's files, figures, the card."""
    for name in CODE:  # a sweep that was downloaded comes without: the same code as in this package
        _link(Path(models.__file__).with_name(name), staged / name)
    for name, file in networks_of(folder).items():
        _link(file, staged / name)
    for cell in folder.networks():
        if not (cell / "preprocessor_config.json").is_file():
            _add_image_processor(folder, cell, staged / cell.name)
    figures = [file for file in draw_figures(folder, staged / "figures") if file.suffix == ".png"]
    has_figure = any(file.stem == "figure2" for file in figures)
    card = sweep_card(folder, repo_id, notes, has_figure=has_figure, license=license, api=api)
    card.save(staged / "README.md")


def _add_image_processor(folder: SweepFolder, cell: Path, staged: Path) -> None:
    """Write the image processor of a network whose folder has none, as those of version 0.1.0 have."""
    from ..data.preprocessing import ImagePreprocessing
    from ..models import load_config

    config = load_config(cell)
    if config.reads_text:
        return
    spec = _task(folder.read_run())
    names = ("image_mean", "image_std", "interpolation")
    given = {} if spec is None else {name: getattr(spec, name) for name in names}
    values = ImagePreprocessing().changed(**given).for_images(config.num_channels, *config.image_size)
    values.processor().save_pretrained(staged)
    for name in CODE:  # lies at the top
        (staged / name).unlink(missing_ok=True)


def stage_tables(
    folder: SweepFolder,
    staged: Path,
    repo_id: str,
    notes: str = "",
    license: Mapping[str, Any] | None = None,
    api: HfApi | None = None,
) -> None:
    """What the data set is to hold: tables, run.json, the report where there is one, the card."""
    folder.write_tables(staged)  # of the cells, as they are now: a sweep may be at work
    _link(folder.path / "run.json", staged / "run.json")
    report = folder.path / REPORT
    if report.is_file():
        _link(report, staged / report.name)
    dataset_card(folder, repo_id, notes, license=license).save(staged / "README.md")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source.resolve(strict=True))


STAGES = {"model": stage_networks, "dataset": stage_tables}
MESSAGES = {"model": "Upload networks of a sweep", "dataset": "Upload results of a sweep"}


# ---- cards ----


def sweep_card(
    folder: SweepFolder,
    repo_id: str,
    notes: str = "",
    *,
    has_figure: bool = True,
    license: Mapping[str, Any] | None = None,
    api: HfApi | None = None,
) -> ModelCard:
    """Return the card of a sweep's networks. Its `model-index` has the mean of each arm and measure.

    Args:
        folder: the sweep.
        repo_id: where it goes to.
        notes: a person's text, kept between the markers.
        has_figure: whether figures lie beside the card.
        license: `license`, `license_name` and `license_link`, those that are known.
        api: where the Hub may be asked whether it has the data set.
    """
    from huggingface_hub import ModelCard, ModelCardData

    rows, run = folder.rows(), folder.read_run()
    data, config = _data(run), _config(folder)
    if api is not None and data["id"] and not is_data_set(api, data["id"]):
        data["id"] = None
    is_text = any("SequenceClassification" in name for name in config.get("architectures") or ())
    task = "text-classification" if is_text else "image-classification"
    name = repo_id.split("/")[-1]
    head = "SequenceClassification" if is_text else "ImageClassification"
    results = _arm_results(rows, run, data, task)
    return ModelCard.from_template(
        ModelCardData(
            **(license or {}),
            library_name="transformers",
            pipeline_tag=task,
            tags=TAGS,
            datasets=[data["id"]] if data["id"] else None,
            metrics=["accuracy"] if any(result.metric_type == "accuracy" for result in results) else None,
            model_name=name,
            eval_results=results or None,
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
        example=plain_text(folder.networks()[0].name),
        is_text=is_text,
        task_type=task,
        unchecked=_unchecked(rows),
        results=_markdown_table(rows),
        setting=plain_text(describe_setting(run["settings"], folder.finished_cells())),
        has_published=any(published_value(*key) is not None for key in _published_keys(rows)),
        figure=has_figure,
        sampling=plain_text(_sampling(run, rows)),
        recipe=plain_text(_recipe(run, config)),
        notes=between_markers(notes),
        citation=CITATION,
    )


def _unchecked(rows: pd.DataFrame) -> int:
    """Return how many networks have figures that record no weights, as those of version 0.1.0 have."""
    return int(rows[KEY].isna().sum()) if KEY in rows else len(rows)


def dataset_card(
    folder: SweepFolder, repo_id: str, notes: str = "", *, license: Mapping[str, Any] | None = None
) -> DatasetCard:
    """Return the card of a sweep's tables. Its metadata tells `load_dataset` of both."""
    from huggingface_hub import DatasetCard, DatasetCardData

    configs = [{"config_name": name, "data_files": f"{name}.parquet"} for name in ("results", "curves")]
    configs[0]["default"] = True  # type: ignore[assignment]
    return DatasetCard.from_template(
        DatasetCardData(
            **(license or {}),
            tags=TAGS,
            pretty_name=f"{repo_id.split('/')[-1]}: results of a sweep",
            configs=configs,
        ),
        template_str=template("dataset_card.md.jinja", __package__),
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        networks=len(folder.rows()),
        dataset=_dataset_text(_data(folder.read_run())),
        # the mark of networks at chance level is made when rows are read, and is no column of the table
        result_columns={c: MEANINGS.get(c, "") for c in folder.rows().columns.drop("at_chance")},
        curve_columns={column: MEANINGS.get(column, "") for column in folder.curves().columns},
        notes=between_markers(notes),
        citation=CITATION,
    )


def _data(run: dict[str, Any]) -> dict[str, Any]:
    """Id (None where it is not on the Hub), title, configuration and splits of the data."""
    settings = run["settings"]
    name = settings["data"].get("dataset_name")
    about: dict[str, Any] = {"dataset_config": None, "train_split": "train", "test_split": "test"}
    spec = _task(run)
    if spec is not None:
        about = {key: getattr(spec, key) for key in about}
    on_hub = bool(name) and not run.get("local_data") and can_be_hub_id(name)
    return about | {"id": name if on_hub else None, "title": settings["task"]}


def _task(run: dict[str, Any]) -> TaskSpec | None:
    """Return the task of a sweep. None: it is one of another version of the package."""
    from ..data import TASKS

    return TASKS.get(run["settings"]["task"])


def _dataset_text(data: dict[str, Any]) -> str:
    return f"`{plain_text(data['id'])}`" if data["id"] else plain_text(data["title"])


def _config(folder: SweepFolder) -> dict[str, Any]:
    from ..models import load_config

    return load_config(folder.networks()[0]).to_dict()


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
                dataset_type=data["id"] or UNKNOWN_DATA,
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
    lines = ["| h | targets | AW | seeds | " + " | ".join(NAMES[m] for m in MEASURES) + " | RLCT left out |"]
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

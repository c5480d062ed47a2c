"""Write the cards of a sweep: of its networks (a model repository), and of its tables (a data set)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..data import TASKS, TaskSpec
from ..errors import InputError
from ..experiments.recipes import can_be_hub_id
from ..hub.card import CITATION, TAGS, UNKNOWN_DATA, between_markers, plain_text, rlct_name, template
from ..hub.model_folder import is_data_set
from ..json_records import SweepRun
from ..models import load_config
from ..models.tasks_self_modeling import KINDS
from ..weights import KEY
from .arm_columns import is_grid, targets_text
from .column_meanings import column_meanings
from .findings import SUBJECTS
from .local_paths import without_local_paths
from .statistics import ARM, LEVEL, main_measures
from .sweep_results import SweepResults
from .sweep_tables import sweep_tables
from .table import as_markdown

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard, EvalResult, HfApi, ModelCard, ModelCardData

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "weight_width": "Weight width",
    "train_loss": "Training loss",
    "perplexity": "Perplexity",
}
ON_TRAIN_SPLIT = ("rlct", "train_loss")
# the pipeline's tag, and the name of the models
HEADS = {
    "image": ("image-classification", "ImageClassification"),
    "text": ("text-classification", "SequenceClassification"),
}
CARD_TABLES = (
    "arms",
    "arms_ok",
    "measures",
    "not_ok",
    "at_chance",
    "equal_loss",
    "published",
    "targets",
)
MOST_NAMES = 8  # arms named in the first paragraph


def sweep_card(  # noqa: PLR0913 - the last three are options, by keyword only
    results: SweepResults,
    repo_id: str,
    notes: str = "",
    *,
    figure: str | None = "figure2",
    license: Mapping[str, Any] | None = None,
    api: HfApi | None = None,
) -> ModelCard:
    """Return the card of a sweep's networks. Its `model-index` has the mean of each arm and measure.

    Args:
        results: of the sweep.
        repo_id: its repository, ``user/name``.
        notes: a person's text, kept between the markers.
        figure: name of the figure beside the card. None: there is none.
        license: `license`, `license_name` and `license_link`, as far as they are known.
        api: for asking the Hub whether it has the data set.
    """
    from huggingface_hub import ModelCard

    results = without_local_paths(results)
    run = run_of(results)
    first = results.folder.networks()[0]
    config = load_config(first).to_dict()
    data = _data(run)
    if api is not None and data["id"] and not is_data_set(api, data["id"]):
        data["id"] = None
    task_type, head = _task_and_head(config)
    name = repo_id.split("/")[-1]
    tables = sweep_tables(results)
    shown = [tables[table] for table in CARD_TABLES if tables[table].rows]
    return ModelCard.from_template(
        _metadata(results, data, task_type, name, config.get("base_model"), license or {}),
        template_str=template("sweep_card.md.jinja", __package__),
        name=name,
        repo_id=repo_id,
        answer=plain_text(results.answer),
        networks=len(results.rows),
        arms=_arms_text(results),
        dataset=_dataset_text(data),
        metric=METRIC_NAMES.get(results.metric) or SUBJECTS[results.metric],
        split=data["test_split"],
        train_split=data["train_split"],
        model_class=f"SelfModelingFor{head}",
        auto_class=f"AutoModelFor{head}",
        example=plain_text(first.name),
        is_text=head != "ImageClassification",
        task_type=task_type,
        unchecked=_unchecked(results.rows),
        results=as_markdown(shown),
        setting=plain_text(results.setting),
        figure=figure,
        sampling=plain_text(_sampling(run, results.rows)),
        recipe=plain_text(_recipe(run, config)),
        notes=between_markers(notes),
        citation=CITATION,
    )


def _task_and_head(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the Hub's name of a network's task, and the end of the names of its classes."""
    if config.get("task_type") is not None:
        kind = KINDS[config["task_type"]]
        return kind.pipeline_tag, kind.head
    architectures = config.get("architectures") or ()
    is_text = any("SequenceClassification" in name for name in architectures)
    return HEADS["text" if is_text else "image"]


def _arms_text(results: SweepResults) -> str:
    """Return the names of the arms. Empty: they differ in width, self-model weight and kind of targets only."""
    if is_grid(results.study, results.axes):
        return ""
    names = []
    for arm in results.study[:MOST_NAMES]:
        name = plain_text(arm.name)
        names.append(f"`{name}`")
    count = len(results.study)
    if count > MOST_NAMES:
        more = count - MOST_NAMES
        names.append(f"{more} more")
    text = ", ".join(names)
    return f"{count} arms ({text})"


def _metadata(  # noqa: PLR0913 - the entries of the metadata
    results: SweepResults,
    data: dict[str, Any],
    task_type: str,
    name: str,
    base_model: str | None,
    license: Mapping[str, Any],
) -> ModelCardData:
    """Return the metadata of the card of the networks."""
    from huggingface_hub import ModelCardData

    evaluations = _evaluations(results, data, task_type)
    measured = {evaluation.metric_type for evaluation in evaluations}
    return ModelCardData(
        **license,
        library_name="transformers",
        pipeline_tag=task_type,
        tags=TAGS,
        base_model=base_model,
        datasets=[data["id"]] if data["id"] else None,
        metrics=[results.metric] if results.metric in measured else None,
        model_name=name,
        eval_results=evaluations or None,
    )


def dataset_card(
    results: SweepResults,
    repo_id: str,
    notes: str = "",
    *,
    license: Mapping[str, Any] | None = None,
) -> DatasetCard:
    """Return the card of a sweep's tables. Its metadata names both tables for `load_dataset`.

    Args:
        results: of the sweep.
        repo_id: the repository of the tables, ``user/name``.
        notes: a person's text, kept between the markers.
        license: `license`, `license_name` and `license_link`, as far as they are known.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    results = without_local_paths(results)
    name = repo_id.split("/")[-1]
    return DatasetCard.from_template(
        DatasetCardData(
            **(license or {}),
            tags=TAGS,
            pretty_name=f"{name}: results of a sweep",
            configs=[
                {"config_name": "results", "data_files": "results.parquet", "default": True},
                {"config_name": "curves", "data_files": "curves.parquet"},
            ],
        ),
        template_str=template("dataset_card.md.jinja", __package__),
        name=name,
        repo_id=repo_id,
        answer=plain_text(results.answer),
        networks=len(results.rows),
        arms=_arms_text(results),
        dataset=_dataset_text(_data(run_of(results))),
        result_columns=_meanings(results, results.rows),
        curve_columns=_meanings(results, results.curves),
        notes=between_markers(notes),
        citation=CITATION,
    )


def _meanings(results: SweepResults, table: pd.DataFrame) -> dict[str, str]:
    """Return the columns of a table's file with their meanings."""
    run = run_of(results)
    columns = table.columns.drop(["at_chance", "is_counted"], errors="ignore")  # marked while reading
    meanings = column_meanings(columns, run.axes, run.measures)
    shown = {}
    for column, meaning in meanings.items():
        name = plain_text(column)
        shown[name] = plain_text(meaning)
    return shown


def run_of(results: SweepResults) -> SweepRun:
    """Return the content of a sweep's run.json.

    Raises:
        InputError: the file is missing.
    """
    if results.run is None:
        path = results.folder.path / "run.json"
        raise InputError("file", str(path), "is missing")
    return results.run


def task_of(run: SweepRun) -> TaskSpec | None:
    """Return the task of a sweep, or None for a task unknown to this version of the package."""
    return TASKS.get(run.settings.task)


def _data(run: SweepRun) -> dict[str, Any]:
    """Return id (None for data outside of the Hub), title, configuration and splits of the data."""
    found: dict[str, Any] = {
        "dataset_config": None,
        "train_split": "train",
        "test_split": "test",
    }
    given = run.settings.data.to_dict()
    spec = task_of(run)
    for key, default in found.items():
        if spec is not None:
            default = getattr(spec, key)
        found[key] = given.get(key) or default
    if given.get("test_fraction"):
        found["test_split"] = found["train_split"]
    found["id"] = None
    name = run.settings.data.dataset_name
    if name is not None and not run.local_data and can_be_hub_id(name):
        found["id"] = name
    found["title"] = run.settings.task
    return found


def _dataset_text(data: dict[str, Any]) -> str:
    if not data["id"]:
        return plain_text(data["title"])
    name = plain_text(data["id"])
    return f"`{name}`"


def _unchecked(rows: pd.DataFrame) -> int:
    """Return how many networks have figures without a record of their weights. Those of version 0.1.0 have none."""
    if KEY not in rows:
        return len(rows)
    return int(rows[KEY].isna().sum())


# ---- metadata ----


def _evaluations(results: SweepResults, data: dict[str, Any], task_type: str) -> list[EvalResult]:
    """Return the mean of each arm and measure. An arm without a usable RLCT has no entry for it."""
    from huggingface_hub import EvalResult

    sampling = _plain(run_of(results).settings.sampling)
    nbetas = results.rows.groupby("arm")["nbeta"].first()
    named = not is_grid(results.study, results.axes)
    evaluations = []
    for arm in results.arms.to_dict("records"):
        measure = arm["measure"]
        if arm["count"] == 0 or measure not in main_measures(results.rows):
            continue
        name = METRIC_NAMES.get(measure) or SUBJECTS[measure]
        arguments = _arguments(arm)
        if measure == "rlct":
            nbeta = float(nbetas[arm["arm"]])
            sampler = str(sampling.get("sampler", "sgld"))
            name = rlct_name(nbeta, sampler)
            arguments |= sampling
            arguments["nbeta"] = nbeta
            arguments["nbeta_rule"] = str(sampling.get("nbeta"))
        split = "train_split" if measure in ON_TRAIN_SPLIT else "test_split"
        seeds = _seeds_and_arm(arm, named)
        evaluation = EvalResult(
            task_type=task_type,
            dataset_type=data["id"] or UNKNOWN_DATA,
            dataset_name=data["title"],
            dataset_config=data["dataset_config"],
            dataset_split=data[split],
            metric_type=measure,
            metric_name=f"{name}, {seeds}",
            metric_value=arm["mean"],
            metric_args=arguments,
        )
        evaluations.append(evaluation)
    return evaluations


def _arguments(arm: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and counts behind the mean of an arm."""
    arguments = {key: arm[key] for key in ARM if not pd.isna(arm[key])}
    arguments["arm"] = arm["arm"]
    arguments["networks"] = arm["count"]
    arguments["left_out"] = arm["left_out"]
    if arm["count"] > 1:
        arguments["interval"] = [arm["low"], arm["high"]]
        arguments["level"] = LEVEL
    return arguments


def _seeds_and_arm(arm: dict[str, Any], named: bool) -> str:
    """Return the number of seeds, and the arm by its name or by width, weight and kind of targets."""
    seeds = "1 seed"
    if arm["count"] > 1:
        seeds = f"mean of {arm['count']} seeds"
    if named:
        return f"{seeds}, arm {arm['arm']}"
    width = arm["hidden_size"]
    weight = arm["aux_weight"]
    targets = targets_text(arm["detach_targets"])
    return f"{seeds}, h = {width}, AW = {weight:g}, targets {targets}"


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers and texts among the settings."""
    found = {}
    for key, value in settings.items():
        if isinstance(value, (int, float, str)):
            found[key] = value
    return found


# ---- settings for people ----


def _sampling(run: SweepRun, rows: pd.DataFrame) -> dict[str, Any]:
    settings = dict(run.settings.sampling)
    rule = settings.pop("nbeta", "n/log n")
    nbetas = rows["nbeta"].dropna().unique()
    values = ", ".join(f"{value:.4g}" for value in sorted(nbetas))
    shown: dict[str, Any] = {"nβ": f"{values} ({rule})"}
    shown |= _spaced(settings)
    return shown


def _recipe(run: SweepRun, config: dict[str, Any]) -> dict[str, Any]:
    settings = run.settings
    data = settings.data.model_dump(exclude_none=True)
    network = {name: value for name, value in settings.network.items() if name not in config}
    layers = ", ".join(config["target_layers"])
    versions = ", ".join(f"{name} {number}" for name, number in run.versions.items())
    backbone = config["backbone"]
    if config.get("wrapped_config"):
        backbone = config["wrapped_config"]["model_type"]
    return {
        "backbone": backbone,
        "target layers": layers or "none",
        **_spaced(data),
        **_spaced(network),
        **_spaced(settings.training),
        "versions": versions,
        "git commit": run.git_commit or "none",
    }


def _spaced(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with spaces in their names."""
    found = {}
    for name, value in settings.items():
        words = name.replace("_", " ")
        found[words] = value
    return found

"""RLCTs of saved networks: replications of a published one, and those of a run's checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..complexity import LLCCalibration, LLCResult, llc_preset
from ..complexity.sampler_settings import AT_ANCHOR
from ..errors import InputError
from ..files import write_file
from ..hub.agreement import compare_with_published
from ..hub.saved import SavedNetwork
from .checkpoints import complete_checkpoints
from .rlct import calibrate_rlct, estimate_rlct

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..complexity.settings import LLCOptions

logger = logging.getLogger(__name__)

Settings = Mapping[str, Any]  # of an estimate, by name

CHOSEN = ("step_size", "localization", "sampler")  # by a calibration
FISHER_UNITS = {"step_size", "localization"}  # must be given for "fisher_sgld"


@dataclass(frozen=True)
class Replication:
    """Hold a published RLCT and its repeated estimate.

    Attributes:
        result: the new estimate.
        published: the published estimate, without its traces.
        agrees: whether the two differ by at most 2 standard errors of the difference. None: this is no test, because
            they are not comparable, one has not converged, or both have the same random numbers.
        text: the verdict in one line.
    """

    result: LLCResult
    published: LLCResult
    agrees: bool | None
    text: str


def replicate_rlct(
    model: str | SavedNetwork,
    *,
    revision: str | None = None,
    subfolder: str = "",
    train_data: Any = None,
    settings: Settings | None = None,
    **changes: Unpack[LLCOptions],
) -> Replication:
    """Estimate a published RLCT again with new random numbers, and compare the two.

    Args:
        model: id of a repository on the Hub, or a network in one.
        revision: branch, tag or commit. Allowed with an id.
        subfolder: of the network, such as one of a published sweep. Allowed with an id.
        train_data: the training set, as for `estimate_rlct`. None: the data of the published files.
        settings: keywords of `estimate_rlct`. None: the published ones with the next seed.
        changes: settings in place of these, such as `device`, `num_chains` or `seed`.

    Raises:
        ValueError: no RLCT is published there, no file names the data, or a setting cannot be used.
    """
    if isinstance(model, SavedNetwork):
        _check_not_given(revision, subfolder)
        saved = model
    else:
        saved = SavedNetwork(model, revision, subfolder)
    published = saved.published_rlct
    if published is None:
        raise InputError("model", saved.model, "has no rlct.json beside it on the Hub")
    if settings is None:
        settings = _published_settings(published, changes.get("parameters"))
    chosen: dict[str, Any] = {**settings, **changes}
    if train_data is None:
        spec, train_data = saved.training_data()
        chosen.setdefault("data", spec.train_data)
    saved.load_files()
    (found,) = estimate_rlct([saved.loaded_network], train_data, **chosen)
    result = replace(found, weights_sha256=saved.weights_digest)
    agreement = compare_with_published(result, published)
    return Replication(result, published, agreement.agrees, agreement.text)


def _check_not_given(revision: str | None, subfolder: str) -> None:
    problem = "allowed if `model` is an id; a SavedNetwork has its own"
    if revision is not None:
        raise InputError("revision", revision, problem)
    if subfolder:
        raise InputError("subfolder", subfolder, problem)


def choose_settings(
    published: LLCResult | None,
    preset: str | None,
    task: str,
    given: Settings,
) -> dict[str, Any]:
    """Return keywords of `estimate_rlct`: the published ones, or a preset's with the user's settings in their place.

    Args:
        published: a published estimate. Its settings are used if neither a preset nor a setting is given, with the next
            seed. The same seed would only repeat the figure. One from a later round of a calibration is not repeated,
            because its chains did not start at w*. A line of the log says so.
        preset: its name. None: "paper".
        task: its values of the preset.
        given: the user's settings.

    Raises:
        InputError: "fisher_sgld" is given without a step size or localization.
    """
    if given.get("sampler") == "fisher_sgld" and not given.keys() >= FISHER_UNITS:
        units = "in units of the Fisher information: the presets' are in the weights' own"
        raise InputError("sampler", "fisher_sgld", f"give `step_size` and `localization` too, {units}")
    if published is not None and preset is None and not given:
        if published.settings.start == AT_ANCHOR:
            return _published_settings(published)
        logger.warning(
            "the published RLCT is from a calibration, which only another calibration repeats: the settings are those "
            "of the preset paper"
        )
    if preset is None:
        preset = "paper"
    settings = llc_preset(preset, task, **given)
    settings.setdefault("seed", 0)
    return settings


def _published_settings(published: LLCResult, parameters: Any = None) -> dict[str, Any]:
    """Return keywords of `estimate_rlct`: those of a published estimate with the next seed.

    Args:
        published: the estimate.
        parameters: in place of its own.
    """
    settings = published.settings.keywords(published.nbeta, parameters)
    settings["seed"] = published.settings.seed + 1
    return settings


def estimate_saved(saved: SavedNetwork, train_data: Any, **settings: Any) -> LLCResult:
    """Estimate the RLCT of a saved network. The result names its weights.

    Args:
        saved: the network.
        train_data: as for `estimate_rlct`.
        settings: as for `estimate_rlct`.
    """
    saved.load_files()
    (result,) = estimate_rlct([saved.loaded_network], train_data, **settings)
    return replace(result, weights_sha256=saved.weights_digest)


def calibrate_saved(
    saved: SavedNetwork,
    train_data: Any,
    settings: Settings,
    given: Settings,
) -> LLCCalibration:
    """Calibrate the RLCT of a saved network. The result names its weights.

    Args:
        saved: the network.
        train_data: as for `estimate_rlct`.
        settings: of `choose_settings`. A calibration chooses step size, localization and sampler in their place.
        given: the user's settings. A step size or localization makes the grid one line or cell.
    """
    others = dict(settings)
    for field in CHOSEN:
        others.pop(field, None)
    name = settings["preset"].partition(" with ")[0]
    changed = sorted({*given, *CHOSEN})
    others["preset"] = f"{name} with {', '.join(changed)}"
    if "sampler" in given:
        others["sampler"] = given["sampler"]
    for field in ("step_size", "localization"):
        if field in given:
            others[f"{field}s"] = [given[field]]
    saved.load_files()
    found = calibrate_rlct(saved.loaded_network, train_data, **others)
    result = replace(found.result, weights_sha256=saved.weights_digest)
    return replace(found, result=result)


def estimate_checkpoints(
    run: str | Path | Sequence[SavedNetwork], train_data: Any, **settings: Unpack[LLCOptions]
) -> dict[Path, LLCResult]:
    """Estimate the RLCT of each checkpoint of a run with the same noise, so that the curve over training is smooth.

    Args:
        run: folder of `selfmod train`, with folders `checkpoint-<step>`, or the checkpoints themselves.
        train_data: as for `estimate_rlct`.
        settings: as for `estimate_rlct`.

    Returns:
        The checkpoints' folders in the order of their steps, each with its result.

    Raises:
        ValueError: no checkpoint is complete, or a setting cannot be used.
    """
    if isinstance(run, (str, Path)):
        checkpoints: Sequence[SavedNetwork] = saved_checkpoints(run)
    else:
        checkpoints = run
    networks = []
    for saved in checkpoints:
        saved.load_files()
        networks.append(saved.loaded_network)
    same_noise = [0] * len(networks)
    results = estimate_rlct(networks, train_data, members=same_noise, **settings)
    found = {}
    for saved, result in zip(checkpoints, results, strict=True):
        result = replace(result, weights_sha256=saved.weights_digest)
        found[saved.network_folder] = result
    return found


def save_checkpoints(results: Mapping[Path, LLCResult], file: Path) -> list[dict[str, Any]]:
    """Write each result into its checkpoint, and all of them into one JSON file, and return the file's rows.

    Args:
        results: of `estimate_checkpoints`.
        file: one row per checkpoint: `step`, `checkpoint`, and the result without its traces.
    """
    rows = []
    for folder, result in results.items():
        result.save(folder / "rlct.json")
        _, _, step = folder.name.rpartition("-")
        row = {"step": int(step), "checkpoint": str(folder)}
        rows.append(row | result.to_dict())
    text = json.dumps(rows, indent=2)
    write_file(file, f"{text}\n")
    return rows


def saved_checkpoints(run_folder: str | Path) -> list[SavedNetwork]:
    """Return the checkpoints of a run in the order of their steps.

    Raises:
        ValueError: none is complete.
    """
    found = complete_checkpoints(str(run_folder))
    if not found:
        problem = "no folder checkpoint-<step> in it that was written to its end (train with `save_total_limit`)"
        raise InputError("checkpoints", str(run_folder), problem)
    return [SavedNetwork(folder) for folder in found]

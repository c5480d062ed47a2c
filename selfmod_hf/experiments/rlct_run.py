"""One run of `selfmod rlct`: estimate or calibrate, then write the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..complexity import LLCCalibration, LLCResult
from ..data import TensorData
from ..extras import install_line, is_installed
from ..hub.saved import SavedNetwork
from ..trainer.saved_rlct import (
    calibrate_saved,
    estimate_checkpoints,
    estimate_saved,
    replicate_rlct,
    save_checkpoints,
)


@dataclass(frozen=True)
class Estimated:
    """Hold what a run of `selfmod rlct` found.

    Attributes:
        write: writes the files into a folder, and returns the lines for people.
        result: of a single network. None: of several checkpoints.
    """

    write: Callable[[Path], str]
    result: LLCResult | None = None


def estimate(saved: SavedNetwork, data: TensorData, keywords: Mapping[str, Any]) -> Estimated:
    """Estimate the RLCT of a network. A published RLCT is compared with it.

    Args:
        saved: the network.
        data: its training set.
        keywords: of `estimate_rlct`.
    """
    verdict = ""
    if saved.published_rlct is None:
        result = estimate_saved(saved, data, **keywords)
    else:
        replication = replicate_rlct(saved, train_data=data, settings=keywords)
        result = replication.result
        verdict = f"\n{'published':22}{replication.text}"

    def write(output: Path) -> str:
        result.save(output / "rlct.json")
        no_picture = _draw({"rlct.png": result}, output)
        return f"{result.summary()}\n{'written to':22}{output}/rlct.json{no_picture}{verdict}"

    return Estimated(write, result)


def calibrate(
    saved: SavedNetwork, data: TensorData, keywords: Mapping[str, Any], given: Mapping[str, Any]
) -> Estimated:
    """Calibrate the RLCT of a network.

    Args:
        saved: the network.
        data: its training set.
        keywords: of `estimate_rlct`.
        given: the user's settings among them.
    """
    calibration = calibrate_saved(saved, data, keywords, given)
    cell = calibration.result
    if not calibration.confirmed:  # cards and reports read rlct.json alone
        cell = replace(cell, status=calibration.status, status_reason=calibration.status_reason)

    def write(output: Path) -> str:
        calibration.save(output / "rlct_calibration.json")
        cell.save(output / "rlct.json")
        no_picture = _draw({"rlct_calibration.png": calibration, "rlct.png": cell}, output)
        return f"{calibration.summary()}\n{'written to':22}{output}/rlct_calibration.json{no_picture}"

    return Estimated(write, cell)


def estimate_all(networks: Sequence[SavedNetwork], data: TensorData, keywords: Mapping[str, Any]) -> Estimated:
    """Estimate the RLCT of each checkpoint of a run.

    Args:
        networks: the checkpoints.
        data: their training set.
        keywords: of `estimate_rlct`.
    """
    results = estimate_checkpoints(networks, data, **keywords)

    def write(output: Path) -> str:
        file = output / "rlct_checkpoints.json"
        lines = [f"{'step':>8} {'rlct':>9} {'error':>8}  status"]
        for row in save_checkpoints(results, file):
            result = results[Path(row["checkpoint"])]
            lines.append(f"{row['step']:>8} {result.llc:>9.3f} {result.standard_error:>8.3f}  {result.status}")
        lines.append(f"written to {file}")
        return "\n".join(lines)

    return Estimated(write)


def _draw(pictures: Mapping[str, LLCResult | LLCCalibration], folder: Path) -> str:
    """Write pictures into a folder. Without matplotlib write none, and return a line that names its extra."""
    if not is_installed("matplotlib"):
        return f"\n{'no picture':22}{install_line('report')}"
    for name, estimate in pictures.items():
        estimate.plot(folder / name)
    return ""


def note_fewer_samples(data: TensorData, taken: Mapping[str, Any], note: Callable[[str], None]) -> None:
    """Note if the data set has fewer samples than the training had, because it has changed then."""
    count = taken.get("max_train_samples", len(data))
    if len(data) < count:
        note(f"{len(data)} training samples here, but the network was trained on {count}")


def taken_settings(source: str | None, keywords: Mapping[str, Any], taken: Mapping[str, Any]) -> str | None:
    """Return a line with the published settings and data in place of flags, or None without any.

    Args:
        source: the network.
        keywords: of `estimate_rlct`.
        taken: settings of the data from the network's own files.
    """
    parts = []
    if "members" in keywords:
        form = "{sampler}, step size {step_size:g}, localization {localization:g}, nβ = {nbeta:.4g}"
        parts.append(f"{form}, {{num_chains}} chains x {{num_draws}}".format_map(keywords))
    if taken:
        parts.append(f"data {keywords['data']}")
    if not parts:
        return None
    return f"taken from {source}: {'; '.join(parts)}; seed {keywords['seed']}"

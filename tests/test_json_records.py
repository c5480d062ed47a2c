"""The classes of row.json, curve.json and run.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from selfmod_hf.errors import InputError
from selfmod_hf.files import to_json
from selfmod_hf.hub import metric_names
from selfmod_hf.json_records import METRICS, CurvePoint, NetworkRow, NetworkRun, Record, SweepRun
from selfmod_hf.reports import column_meanings
from selfmod_hf.trainer import task_metrics

SAMPLES = Path(__file__).parent / "samples" / "0.1.0"
CELL = "cells/h4-aw1-seed2"
FILES = {
    f"sweep/{CELL}/row.json": NetworkRow,
    "sweep/run.json": SweepRun,
    "model/run.json": NetworkRun,
    "population/checkpoint-2/run.json": NetworkRun,
}


@pytest.mark.parametrize("name", list(FILES))
def test_a_file_of_version_0_1_0_is_written_again_byte_for_byte(name):
    text = (SAMPLES / name).read_text(encoding="utf-8")
    assert to_json(FILES[name].read(SAMPLES / name).to_dict()) == text


def test_so_is_a_curve():
    path = SAMPLES / "sweep" / CELL / "curve.json"
    points = [point.to_dict() for point in CurvePoint.read_list(path)]
    assert to_json(points) == path.read_text(encoding="utf-8")


def test_so_are_the_files_of_this_version(small_sweep, small_model):
    cell = small_sweep / "cells" / "h8-aw0-seed1"
    kinds = {cell / "row.json": NetworkRow, cell / "run.json": NetworkRun, small_model / "run.json": NetworkRun}
    kinds[small_sweep / "run.json"] = SweepRun
    for path, kind in kinds.items():
        assert to_json(kind.read(path).to_dict()) == path.read_text(encoding="utf-8")


def changed(name: str, place: str, value: object, folder: Path) -> Path:
    """Return a copy of a sample with another value at a place such as `settings.task`."""
    content = json.loads((SAMPLES / name).read_text(encoding="utf-8"))
    *groups, last = place.split(".")
    inner = content
    for group in groups:
        inner = inner[group]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    path = folder / "file.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "place", "value", "problem"),
    [
        (f"sweep/{CELL}/row.json", "nbeta", None, "the field nbeta is missing"),
        (f"sweep/{CELL}/row.json", "accuracy", "0.9", "accuracy='0.9': allowed is a valid number"),
        (f"sweep/{CELL}/row.json", "rlct", True, "rlct=True: allowed is a valid number"),
        (f"sweep/{CELL}/row.json", "hidden_size", 4.5, "hidden_size=4.5: allowed is a valid integer"),
        (f"sweep/{CELL}/row.json", "detach_targets", 1, "detach_targets=1: allowed is a valid boolean"),
        (f"sweep/{CELL}/row.json", "rlct_status", 5, "rlct_status=5: allowed is a valid string"),
        (f"sweep/{CELL}/row.json", "rlct", float("inf"), "rlct=inf: allowed is a finite number"),
        ("sweep/run.json", "settings.data.dataset_name", 5, "settings.data.dataset_name=5: allowed is a valid string"),
        ("sweep/run.json", "settings.sampling", None, "the field settings.sampling is missing"),
        ("sweep/run.json", "sessions", [5], "sessions.0=5: allowed is a valid dictionary"),
        ("model/run.json", "task.name", ["x" * 200], "task.name=['xxx"),
        ("model/run.json", "train_samples", "all", "train_samples='all': allowed is a valid integer"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path, name, place, value, problem):
    path = changed(name, place, value, tmp_path)
    with pytest.raises(InputError) as error:
        FILES[name].read(path)
    assert str(error.value).startswith(f"file='{path}': {problem}")
    assert "\n" not in str(error.value)
    assert len(error.value.problem) < 200


@pytest.mark.parametrize("place", ["later", "settings.later", "settings.data.later"])
def test_a_field_of_a_later_version_is_kept(tmp_path, place):
    path = changed("sweep/run.json", place, {"any": 1}, tmp_path)
    assert SweepRun.read(path).to_dict() == json.loads(path.read_text())


def test_numbers_keep_their_type(tmp_path):
    for value in (2, 2.0):
        path = changed("model/run.json", "epoch", value, tmp_path)
        assert f'"epoch": {value}' in to_json(NetworkRun.read(path).to_dict())


def test_records_are_frozen():
    row: Record = NetworkRow.read(SAMPLES / "sweep" / CELL / "row.json")
    with pytest.raises(ValidationError, match="frozen"):
        row.rlct = 1.0  # type: ignore[attr-defined]
    other = row.with_fields(weights_sha256="a" * 64)
    assert "weights_sha256" not in row.to_dict()
    assert list(other.to_dict())[-1] == "weights_sha256"


def test_every_metric_of_an_evaluation_has_a_field_a_title_and_a_meaning():
    assert set(task_metrics.NAMES) == set(METRICS)
    assert set(METRICS) <= NetworkRow.model_fields.keys()
    assert set(METRICS) <= metric_names.METRICS.keys()
    assert set(METRICS) <= column_meanings.KNOWN.keys()

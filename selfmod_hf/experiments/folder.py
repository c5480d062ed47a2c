"""The results folder of a sweep.

    run.json            settings, versions, machine, git commit, sizes of the splits, sessions (`SweepRun`)
    results.json        list of rows, one per network (`NetworkRow`)
    results.parquet     the same as a table
    curves.parquet      one row per network and epoch (`CurvePoint`)
    cells/NAME/         one network: row.json, curve.json, the model (config.json, model.safetensors, its image
                        processor or tokenizer, run.json: its task), its RLCT (rlct.json: estimate and settings;
                        rlct.safetensors: traces)
    populations/NAME/   work in progress: members.json, the Trainer's checkpoints. The folder is removed when its cells
                        are finished.

The classes in `json_records.py` describe the columns. A network is left out of the tables if its row describes other
weights than those beside it.

A file appears complete or not at all, because it is written under another name and then renamed. A cell is finished if
its row.json exists. The tables do not depend on the number of sessions.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from ..errors import InputError
from ..files import read_json, to_json, write_file
from ..json_records import CurvePoint, EvaluatedNetwork, NetworkKeys, NetworkRow, NetworkRun, Record, SweepRun
from ..models import load_model
from ..models.classifier_weights import classifier_weight
from ..weights import ADAPTER, KEY, WEIGHTS, belongs, files_with_weights, weights_sha256
from .arms import Arm, Cell, arm_of_row, network_name
from .chance import is_at_chance, level_of_chance
from .locks import try_to_hold
from .record_tables import table_of

if TYPE_CHECKING:
    from ..complexity import LLCResult
    from ..models import SelfModelingPreTrainedModel

logger = logging.getLogger(__name__)

WEIGHTS_COLUMN = (KEY,)  # missing in folders of version 0.1.0
CURVE_RLCT_COLUMNS = ("rlct", "rlct_standard_error", "rlct_status")  # only if RLCTs were estimated while training
_OF_TASK = set(EvaluatedNetwork.model_fields) - set(NetworkKeys.model_fields)  # metrics other than the accuracy
_NOT_IN_CURVES = {"rlct", "rlct_standard_error", "rlct_status", KEY, *_OF_TASK}  # not in each file
_NOT_IN_RESULTS = {"stopped_epoch", KEY, *_OF_TASK}  # likewise
RESULT_COLUMNS = tuple(name for name in NetworkRow.model_fields if name not in _NOT_IN_RESULTS)
CURVE_COLUMNS = tuple(name for name in CurvePoint.model_fields if name not in _NOT_IN_CURVES)
KEYS = ["task", "arm", "seed"]  # of one network
ORDER = ["task", "hidden_size", "detach_targets", "aux_weight", "arm", "seed"]  # of rows


def check_readable(path: Path) -> None:
    """Open safetensors, but do not read them.

    Raises:
        InputError: they are missing or truncated.
    """
    try:
        with safe_open(path, "np"):
            pass
    except (OSError, SafetensorError) as error:
        raise InputError("file", str(path), f"is missing or cannot be read ({error})") from error


class SweepFolder:
    """Read and write the files named above.

    Args:
        path: the folder. `locked` makes it, or its first network. Reading makes none.
        keep_chance: whether networks at chance level count in means, tests and trends like all others.
    """

    has_networks = True  # False: the folder has tables alone (`KeptTables`)

    def __init__(self, path: str | Path, keep_chance: bool = False) -> None:
        self.path = Path(path)
        self.keep_chance = keep_chance
        self.cells = self.path / "cells"
        self.populations = self.path / "populations"
        self._left_out: set[Path] = set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. The system releases it when the process ends, however it ends.

        Raises:
            InputError: another sweep is at work here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = try_to_hold(self.path / ".lock")
        if lock is None:
            raise InputError("output_dir", str(self.path), "another sweep is at work in this folder")
        with lock:
            yield

    # ---- cells ----

    def is_finished(self, cell: Cell) -> bool:
        """Return whether the network of a cell is complete."""
        return (self.cells / cell.name / "row.json").is_file()

    def finish(  # noqa: PLR0913 - the files of one network
        self,
        cell: Cell,
        model: SelfModelingPreTrainedModel,
        rlct: LLCResult,
        row: NetworkRow,
        curve: Sequence[CurvePoint],
        processor: Any = None,
        run: NetworkRun | None = None,
    ) -> None:  # fmt: skip
        """Keep one network. Its row is written last, because it marks the network as finished.

        Args:
            cell: the network's place in the grid.
            model: the network.
            rlct: its estimate.
            row: its row of the results, without the checksum of the weights.
            curve: its points of the curves. The last one describes the kept weights.
            processor: its image processor or tokenizer.
            run: its run.json, without the fields about its weights.
        """
        folder = self.cells / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
        sha256 = weights_sha256(folder)
        own_rlct = replace(rlct, weights_sha256=sha256)
        own_rlct.save(folder / "rlct.json")
        if run is not None:
            results = {f"eval_{name}": value for name, value in row.metrics().items()}
            own_run = run.with_fields(weights_sha256=sha256, epoch=row.num_epochs, results=results)
            write_file(folder / "run.json", to_json(own_run.to_dict()))
        points = [point.to_dict() for point in curve]
        points[-1][KEY] = sha256
        write_file(folder / "curve.json", to_json(points))
        self.write_row(cell, row.with_fields(weights_sha256=sha256))

    def write_row(self, cell: Cell, row: NetworkRow) -> None:
        """Write the row of a network."""
        path = self.cells / cell.name / "row.json"
        write_file(path, to_json(row.to_dict()))

    def final_training_loss(self, cell: Cell) -> float | None:
        """Return the mean classification loss of a finished network's last epoch, nats. None: it diverged."""
        path = self.cells / cell.name / "curve.json"
        last = CurvePoint.read_list(path)[-1]
        return last.classification_loss

    def networks(self) -> list[Path]:
        """Return the folders of the finished networks with the weights of their row.

        A line of the log names each network with other weights.

        Raises:
            InputError: a broken row, or truncated weights.
        """
        found = []
        for path in sorted(self.cells.glob("*/row.json")):
            cell = path.parent
            row = NetworkRow.read(path)
            sha256 = weights_sha256(cell)
            if belongs(row.weights_sha256, sha256) is not False:
                found.append(cell)
            elif cell not in self._left_out:
                check_readable(cell / (files_with_weights(cell) or [WEIGHTS])[0])
                self._left_out.add(cell)
                logger.warning(f"{cell}: left out, because row.json describes other weights")
        return found

    def final_weights(self, row: Mapping[str, Any]) -> np.ndarray:
        """Return the final weights of the last layer of a row's network, flattened."""
        cell = self.cells / network_name(row["arm"], row["seed"])
        if not (cell / ADAPTER).is_file():
            try:
                with safe_open(cell / WEIGHTS, "np") as file:
                    names = list(file.keys())
                    if "classifier.weight" in names:
                        return np.ravel(file.get_tensor("classifier.weight"))
            except (OSError, SafetensorError) as error:
                raise InputError("file", str(cell / WEIGHTS), f"classifier.weight cannot be read ({error})") from error
        # a task model has other names, a file has tied weights once, and an adapter changes them
        network = load_model(cell, finite=False)
        return classifier_weight(network).float().numpy().ravel()

    # ---- populations at work ----

    def unfinished_populations(self) -> Iterator[tuple[Path, list[Cell]]]:
        """Yield the folder and the cells of each interrupted population."""
        for path in sorted(self.populations.glob("*/members.json")):
            cells = []
            for entry in read_json(path, list):
                arm = entry.get("arm")
                if not arm:  # version 0.1.0 had no names of arms
                    arm = arm_of_row(entry).name
                cell = Cell(arm, entry["seed"])
                cells.append(cell)
            yield path.parent, cells

    def open_population(self, cells: Sequence[Cell]) -> Path:
        """Make the folder of a population, and return it."""
        folder = self.populations / cells[0].name
        folder.mkdir(parents=True, exist_ok=True)
        members = list(map(vars, cells))
        write_file(folder / "members.json", to_json(members))
        return folder

    def close_population(self, folder: Path) -> None:
        """Remove the folder of a population."""
        (folder / "members.json").unlink()  # first, because it marks the folder as work in progress
        shutil.rmtree(folder)

    # ---- tables ----

    def rows(self) -> pd.DataFrame:
        """Return all finished cells, sorted.

        The column `at_chance` is added. It marks networks no better than guessing. They are left out of means, tests
        and trends. With `keep_chance` none is marked.

        Raises:
            InputError: no network is finished, or a row is broken.
        """
        rows = self._table(self.row_records(), ORDER)
        rows["at_chance"] = False
        if self.keep_chance:
            return rows
        level = self.chance_level()
        if level is not None:
            rows["at_chance"] = is_at_chance(rows, level)
        return rows

    def curves(self) -> pd.DataFrame:
        """Return all epochs of the finished cells, sorted.

        Raises:
            InputError: no network is finished, or a curve is broken.
        """
        return self._table(self.curve_records(), [*ORDER, "epoch"])

    def row_records(self) -> list[NetworkRow]:
        """Return the row of each finished network."""
        return [NetworkRow.read(cell / "row.json") for cell in self.networks()]

    def curve_records(self) -> list[CurvePoint]:
        """Return the points of all finished networks."""
        records: list[CurvePoint] = []
        for cell in self.networks():
            records += CurvePoint.read_list(cell / "curve.json")
        return records

    def arms(self) -> list[Arm]:
        """Return the arms of the finished networks, in the order of the study.

        Raises:
            InputError: no network is finished, or a file is broken.
        """
        rows = self.rows()
        found = {arm.name: arm for arm in self.recorded_arms()}
        for row in rows.to_dict("records"):
            name = row["arm"]
            if name not in found:
                found[name] = arm_of_row(row)
        finished = set(rows["arm"])
        return [arm for arm in found.values() if arm.name in finished]

    def names_of_arms(self) -> set[str]:
        """Return the names of the arms with a finished network, or with one in an interrupted population."""
        found = set()
        for path in self.cells.glob("*/row.json"):
            name, _, _ = path.parent.name.rpartition("-seed")
            found.add(name)
        for _, cells in self.unfinished_populations():
            for cell in cells:
                found.add(cell.arm)
        return found

    def recorded_arms(self) -> list[Arm]:
        """Return the arms in run.json, and those of interrupted populations of version 0.1.0, which recorded none."""
        run = self.read_run()
        found: dict[str, Arm] = {}
        if run is not None:
            for arm in run.arms:
                found[arm.name] = Arm(arm.name, arm.changes, arm.panel, arm.baseline)
        for path in sorted(self.populations.glob("*/members.json")):
            for entry in read_json(path, list):
                if "arm" not in entry:
                    old = arm_of_row(entry)
                    found.setdefault(old.name, old)
        return list(found.values())

    def _table(self, records: Sequence[Record], order: list[str]) -> pd.DataFrame:
        """Return the records of the finished cells as a table."""
        if not records:
            raise InputError("folder", str(self.path), "holds no finished network of a sweep")
        return table_of(records, order)

    def chance_level(self) -> float | None:
        """Return the best metric of a network no better than guessing, or None if it is unknown.

        See `level_of_chance`. Folders of version 0.1.0 do not hold the chance. For them it is one over the number of
        classes.
        """
        run = self.read_run()
        if run is None:
            return None
        chance = run.chance
        if chance is None:
            chance = run.largest_class_share
        if chance is None and run.metrics[0] == "accuracy":
            chance = self._share_of_one_class()
        labels = run.test_labels or run.test_samples
        if chance is None or not labels:
            return None
        return level_of_chance(run.metrics[0], chance, labels)

    def _share_of_one_class(self) -> float | None:
        """Return one over the number of classes, or None if no network names them."""
        paths = sorted(self.cells.glob("*/config.json"))
        if not paths:
            return None
        names = read_json(paths[0]).get("id2label")
        if not isinstance(names, dict) or not names:
            return None
        return 1 / len(names)

    def write_tables(self, into: Path | None = None) -> None:
        """Write results.json, results.parquet and curves.parquet from the finished cells.

        Args:
            into: another folder than this one.
        """
        if into is None:
            into = self.path
        rows = self.rows()
        rows = rows.drop(columns="at_chance")
        curves = self.curves()
        text = rows.to_json(orient="records", double_precision=15)
        entries = json.loads(text)
        write_file(into / "results.json", to_json(entries))
        write_file(into / "results.parquet", rows.to_parquet(index=False))
        write_file(into / "curves.parquet", curves.to_parquet(index=False))

    # ---- run.json ----

    def read_run(self) -> SweepRun | None:
        """Return the content of run.json, or None if the file is missing.

        Raises:
            InputError: the file is broken.
        """
        path = self.path / "run.json"
        if not path.is_file():
            return None
        return SweepRun.read(path)

    def write_run(self, run: SweepRun) -> None:
        """Write run.json."""
        write_file(self.path / "run.json", to_json(run.to_dict()))

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Reject networks of other settings than those in the folder.

        Args:
            settings: as `Plan.settings`.

        Raises:
            InputError: names the first difference.
        """
        run = self.read_run()
        if run is None:
            return
        found = run.settings.to_dict()
        text = json.dumps(settings)
        as_written = json.loads(text)
        for group in found | as_written:
            before = found.get(group, {})
            wanted = as_written.get(group, {})
            if not isinstance(wanted, dict):
                before = {group: before}
                wanted = {group: wanted}
            for name in before | wanted:
                old = before.get(name)
                new = wanted.get(name)
                if old != new:
                    problem = f"was begun with {name}={old!r}, not {new!r}; take another folder"
                    raise InputError("output_dir", str(self.path), problem)

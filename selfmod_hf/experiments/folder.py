"""The results folder of a sweep.

    run.json            settings, versions, machine, git commit, whether the data was a local folder, numbers of
                        samples, share of the test split's most frequent class; one entry per session that worked on
                        the folder
    results.json        list of rows, one a network (columns below)
    results.parquet     the same as a table
    curves.parquet      one row a network and epoch
    cells/NAME/         one network: row.json, curve.json, the model (config.json, model.safetensors, its image
                        processor or tokenizer, run.json: its task), its RLCT (rlct.json: estimate and settings;
                        rlct.safetensors: traces)
    populations/NAME/   work in progress: members.json, the Trainer's checkpoints; removed when its cells are done

Columns of `results`: task; hidden_size; aux_weight; seed; detach_targets; accuracy (test split, after the last
epoch, 0..1); weight_width (standard deviation of the final classification weights); rlct, rlct_standard_error (of the
pruned network, dimensionless; null where a chain diverged); rlct_status ("ok", "not_at_minimum", "not_converged",
"diverged"), rlct_status_reason; nbeta (used for rlct), rlct_preset, rlct_rhat, rlct_ess; train_loss (cross-entropy
over the training set at the trained weights, nats); num_epochs, batch_size, learning_rate; weights_sha256 (of the
network's model.safetensors, missing in folders of version 0.1.0). A network whose weights are not those of its row is
left out of the tables.

Columns of `curves`: task, hidden_size, aux_weight, seed, detach_targets; epoch; weight_width; accuracy (test);
classification_loss, self_modeling_loss, loss (means over the epoch's training steps, nats and squared activations);
where RLCTs were estimated while training, rlct, rlct_standard_error, rlct_status, null for the epochs between;
weights_sha256, null except for the last epoch, whose weights were kept.

A file appears whole or not at all: each is written under another name, then renamed. A cell is finished once its
row.json is there. Nothing in the tables depends on when, or in how many sessions, the cells were made.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import read_json, to_json, write_file
from ..weights import KEY, WEIGHTS, belongs, weights_sha256
from .plan import Cell

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ..complexity import LLCResult
    from ..models import SelfModelingPreTrainedModel

logger = logging.getLogger(__name__)

RESULT_COLUMNS = (
    "task", "hidden_size", "aux_weight", "seed", "detach_targets", "accuracy", "weight_width", "rlct",
    "rlct_standard_error", "rlct_status", "rlct_status_reason", "nbeta", "rlct_preset", "rlct_rhat", "rlct_ess",
    "train_loss", "num_epochs", "batch_size", "learning_rate",
)  # fmt: skip
CURVE_COLUMNS = (
    "task", "hidden_size", "aux_weight", "seed", "detach_targets", "epoch", "weight_width", "accuracy",
    "classification_loss", "self_modeling_loss", "loss",
)  # fmt: skip
WEIGHTS_COLUMN = (KEY,)  # missing in folders of version 0.1.0
CURVE_RLCT_COLUMNS = ("rlct", "rlct_standard_error", "rlct_status")  # where they were estimated while training
# what the entries of row.json and curve.json must be; all others are numbers, or null where they were not finite
_TEXTS = ("task", "rlct_status", "rlct_status_reason", "rlct_preset", KEY)
_COUNTS = ("hidden_size", "seed", "epoch", "num_epochs", "batch_size")
KEYS = ["task", "hidden_size", "detach_targets", "aux_weight", "seed"]


def _check_entry(path: Path, entry: Any, columns: Sequence[str], more: Sequence[str]) -> None:
    """Refuse what is no row of a table of these columns; `more` may be missing.

    Raises:
        InputError: a column is missing or of a wrong type.
    """
    if not isinstance(entry, dict):
        raise InputError("file", str(path), f"holds {type(entry).__name__}; allowed are JSON objects")
    for column in (*columns, *more):
        if column not in entry and column in more:
            continue
        if column not in entry:
            raise InputError("file", str(path), f"lacks the column {column!r}")
        value = entry[column]
        if column in _TEXTS:
            usable = isinstance(value, str) or (column in more and value is None)
        elif column == "detach_targets":
            usable = isinstance(value, bool)
        elif column in _COUNTS:
            usable = _is_number(value) and value == int(value)
        else:
            usable = value is None or _is_number(value)
        if not usable or (column in KEYS and value is None):
            raise InputError("file", str(path), f"column {column!r} has {value!r}, which is of a wrong type")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_readable(path: Path) -> None:
    """Open safetensors, but do not read them.

    Raises:
        InputError: they are missing or cut off.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            pass
    except (OSError, SafetensorError) as error:
        raise InputError("file", str(path), f"is missing or cannot be read ({error})") from error


class SweepFolder:
    """Reads and writes the files named above.

    Args:
        path: the folder; made by `locked`, or with its first network; reading makes none.
        keep_chance: whether networks at chance level count in means, tests and trends like all others.
    """

    def __init__(self, path: str | Path, keep_chance: bool = False) -> None:
        self.path = Path(path)
        self.keep_chance = keep_chance
        self.cells = self.path / "cells"
        self.populations = self.path / "populations"
        self._left_out: set[Path] = set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. The system lets go of it when the process ends, however it ends.

        Raises:
            InputError: another sweep is at work here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError("output_dir", str(self.path), "another sweep is at work in this folder") from None
            yield

    # ---- cells ----

    def is_finished(self, cell: Cell) -> bool:
        return (self.cells / cell.name / "row.json").is_file()

    def finish(
        self,
        cell: Cell,
        model: SelfModelingPreTrainedModel,
        rlct: LLCResult,
        row: dict[str, Any],
        curve: Sequence[Any],
        processor: Any = None,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one network; its row comes last, as the mark that it is finished.

        Args:
            cell: which one.
            model: the network.
            rlct: its estimate.
            row: its row of the results, without the checksum of the weights.
            curve: its rows of the curves, the last one of the weights that are kept.
            processor: its image processor or tokenizer.
            run: content of its run.json, without what belongs to its weights.
        """
        folder = self.cells / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
        named = {KEY: weights_sha256(folder)}
        replace(rlct, weights_sha256=named[KEY]).save(folder / "rlct.json")
        if run is not None:
            found = {"epoch": row["num_epochs"], "results": {"eval_accuracy": row["accuracy"]}}
            write_file(folder / "run.json", to_json({**run, **named, **found}))
        write_file(folder / "curve.json", to_json([*curve[:-1], *(last | named for last in curve[-1:])]))
        write_file(folder / "row.json", to_json(row | named))

    def has_own_weights(self, cell: Path) -> bool:
        """Return whether a network's row is of the weights beside it, as far as that can be checked."""
        recorded = read_json(cell / "row.json").get(KEY)
        return belongs(recorded, weights_sha256(cell)) is not False

    def networks(self) -> list[Path]:
        """Return the folder of each finished network whose row is of its own weights. One line names each other.

        Raises:
            InputError: weights that are cut off.
        """
        found = []
        for path in sorted(self.cells.glob("*/row.json")):
            if self.has_own_weights(path.parent):
                found.append(path.parent)
            elif path.parent not in self._left_out:
                check_readable(path.with_name(WEIGHTS))
                self._left_out.add(path.parent)
                logger.warning(f"{path.parent}: left out, because row.json describes other weights")
        return found

    def final_weights(self, row: Mapping[str, Any]) -> np.ndarray:
        """The final classification weights of a row's network, flattened."""
        from safetensors import SafetensorError, safe_open

        cell = Cell(**{key: row[key] for key in ("hidden_size", "aux_weight", "seed", "detach_targets")})
        path = self.cells / cell.name / "model.safetensors"
        try:
            with safe_open(path, "np") as file:
                return file.get_tensor("classifier.weight").ravel()
        except (OSError, SafetensorError) as error:
            raise InputError("file", str(path), f"classifier.weight cannot be read ({error})") from error

    # ---- populations at work ----

    def unfinished_populations(self) -> Iterator[tuple[Path, list[Cell]]]:
        """Folders of interrupted populations, and the cells each was made of."""
        for path in sorted(self.populations.glob("*/members.json")):
            yield path.parent, [Cell(**entry) for entry in read_json(path, list)]

    def open_population(self, cells: Sequence[Cell]) -> Path:
        folder = self.populations / cells[0].name
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "members.json", to_json([vars(cell) for cell in cells]))
        return folder

    def close_population(self, folder: Path) -> None:
        (folder / "members.json").unlink()  # first: from here on it is no work in progress
        shutil.rmtree(folder)

    # ---- tables ----

    def rows(self) -> pd.DataFrame:
        """Return all finished cells, sorted.

        Beside the columns of `results` there is `at_chance`: whether the network is no more accurate than guessing.
        Such networks are left out of means, tests and trends. With `keep_chance` none is marked.

        Raises:
            InputError: there is none.
        """
        rows = self._table("row.json", RESULT_COLUMNS, KEYS, WEIGHTS_COLUMN)
        level = None if self.keep_chance else self.chance_level()
        rows["at_chance"] = False if level is None else rows["accuracy"] <= level
        return rows

    def chance_level(self) -> float | None:
        """Return the accuracy up to which a network is no better than guessing, or None where it cannot be known.

        It is p + 2 * sqrt(p * (1 - p) / n), two standard errors above p: the share of the test split's most frequent
        class. n is the number of test samples. A folder of an older version does not hold p; there it is one over the
        number of classes.
        """
        run = self.read_run()
        samples: Any = run.get("test_samples")
        share: Any = run.get("largest_class_share")
        if share is None:
            classes = self._number_of_classes()
            share = None if classes is None else 1 / classes
        if not _is_number(samples) or not _is_number(share) or samples < 1 or not 0 < share < 1:
            return None
        return float(share + 2 * math.sqrt(share * (1 - share) / samples))

    def _number_of_classes(self) -> int | None:
        for path in sorted(self.cells.glob("*/config.json")):
            names = read_json(path).get("id2label")
            return len(names) if isinstance(names, dict) and names else None
        return None

    def finished_cells(self) -> list[Cell]:
        keys = ("hidden_size", "aux_weight", "seed", "detach_targets")
        return [Cell(**row) for row in self.rows()[list(keys)].to_dict("records")]

    def curves(self) -> pd.DataFrame:
        return self._table("curve.json", CURVE_COLUMNS, [*KEYS, "epoch"], CURVE_RLCT_COLUMNS + WEIGHTS_COLUMN)

    def _table(self, file: str, columns: Sequence[str], order: list[str], more: Sequence[str] = ()) -> pd.DataFrame:
        """`more` columns are there where an entry has them."""
        import pandas as pd

        entries: list[dict[str, Any]] = []
        for cell in self.networks():
            source = cell / file
            found = read_json(source, list) if file == "curve.json" else [read_json(source)]
            for entry in found:
                _check_entry(source, entry, columns, more)
            entries += found
        if not entries:
            raise InputError("folder", str(self.path), "holds no finished network of a sweep")
        names = [*columns, *(name for name in more if any(name in entry for entry in entries))]
        table = pd.DataFrame(entries, columns=names).sort_values(order, ignore_index=True)
        # a column of nulls alone is one of numbers too
        numbers = [name for name in names if name not in (*_TEXTS, *_COUNTS, "detach_targets")]
        return table.astype(dict.fromkeys(numbers, float))

    def write_tables(self, into: Path | None = None) -> None:
        """results.json, results.parquet, curves.parquet from the finished cells.

        Args:
            into: another folder than this one (whose lock the caller holds, or which may not be writable).
        """
        into = into or self.path
        rows, curves = self.rows(), self.curves()
        rows = rows[[name for name in RESULT_COLUMNS + WEIGHTS_COLUMN if name in rows]]
        records = json.loads(rows.to_json(orient="records", double_precision=15))
        write_file(into / "results.json", to_json(records))
        for name, table in (("results", rows), ("curves", curves)):
            write_file(into / f"{name}.parquet", table.to_parquet(index=False))

    # ---- run.json ----

    def read_run(self) -> dict[str, Any]:
        path = self.path / "run.json"
        if not path.is_file():
            return {"settings": None, "sessions": []}
        run = read_json(path)
        for name, kind in (("settings", dict), ("sessions", list)):
            if not isinstance(run.get(name), kind):
                raise InputError("file", str(path), f"{name} is missing or of a wrong type; allowed is {kind.__name__}")
        for name in ("training", "sampling", "data"):
            if not isinstance(run["settings"].get(name), dict):
                raise InputError("file", str(path), f"settings.{name} is missing or of a wrong type; allowed is dict")
        task, name = run["settings"].get("task"), run["settings"]["data"].get("dataset_name")
        if not isinstance(task, str):
            raise InputError("file", str(path), "settings.task is missing or of a wrong type; allowed is str")
        if not isinstance(name, (str, type(None))):
            raise InputError("file", str(path), f"settings.data.dataset_name={name!r}; allowed is text")
        return run

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Refuse to mix networks of different settings in one folder.

        Raises:
            InputError: the folder was begun with other settings; the message names the first difference.
        """
        found = self.read_run()["settings"]
        if found is None:
            return
        wanted = json.loads(json.dumps(settings))
        for group, values in wanted.items():
            before_all = found[group] if isinstance(values, dict) else {group: found[group]}
            wanted_all = values if isinstance(values, dict) else {group: values}
            for name in before_all | wanted_all:
                before, value = before_all.get(name), wanted_all.get(name)
                if before != value:
                    problem = f"was begun with {name}={before!r}, not {value!r}; take another folder"
                    raise InputError("output_dir", str(self.path), problem)

    def write_run(self, run: dict[str, Any]) -> None:
        write_file(self.path / "run.json", to_json(run))

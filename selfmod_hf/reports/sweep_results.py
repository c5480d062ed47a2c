"""Read the results of a sweep once, and compute each of its statistics once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from ..experiments.arms import Arm, Cell
from ..experiments.folder import SweepFolder
from ..experiments.recipes import describe_setting
from ..json_records import SweepRun
from .published import compare_with_published
from .statistics import (
    compare_targets,
    compare_with_baseline,
    mark_chance,
    summarize_arms,
    summarize_epochs,
    trends,
    with_both_targets,
)
from .study_layout import StudyLayout, lay_out


@dataclass(frozen=True)
class SweepResults:
    """Keep the results of a sweep's finished networks, and their statistics.

    A statistic is computed when it is first asked for, and kept.

    Attributes:
        folder: the results folder, for the weights and traces of single networks.
        rows: one row per network, from `SweepFolder.rows`.
        curves: one row per network and epoch, with the column `at_chance` of its network.
        run: content of run.json. None: the file is missing.
        study: the arms of the networks, in the order of the study.
    """

    folder: SweepFolder
    rows: pd.DataFrame
    curves: pd.DataFrame
    run: SweepRun | None
    study: list[Arm]

    @property
    def task(self) -> str:
        """Return the name of the task."""
        return str(self.rows["task"].iloc[0])

    @cached_property
    def cells(self) -> list[Cell]:
        """Return the networks, in the order of `rows`."""
        return [Cell(**row) for row in self.rows[["arm", "seed"]].to_dict("records")]

    @cached_property
    def setting(self) -> str:
        """Return one sentence: how the sweep differs from the recipe of its task."""
        settings = None if self.run is None else self.run.settings.to_dict()
        return describe_setting(settings, self.study, self.rows["seed"].unique().tolist())

    @cached_property
    def layout(self) -> StudyLayout:
        """Return the places of the arms in figures."""
        return lay_out(self.study)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """Return mean and interval per arm and measure."""
        return summarize_arms(self.rows)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """Return mean and interval per arm, measure and epoch."""
        return summarize_epochs(self.curves)

    @cached_property
    def tests(self) -> pd.DataFrame:
        """Return the comparison of each arm with its baseline."""
        return compare_with_baseline(self.rows)

    @cached_property
    def trends(self) -> pd.DataFrame:
        """Return the correlation of each measure with the self-model's weight."""
        return trends(self.rows)

    @cached_property
    def published(self) -> pd.DataFrame:
        """Return the comparison with the paper's values."""
        return compare_with_published(self.rows)

    @cached_property
    def paired(self) -> pd.DataFrame:
        """Return the rows of seeds that have attached and detached targets."""
        return with_both_targets(self.rows)

    @cached_property
    def targets(self) -> pd.DataFrame:
        """Return the comparison of attached with detached targets."""
        return compare_targets(self.paired)


def read_results(folder: SweepFolder) -> SweepResults:
    """Read a results folder.

    Raises:
        InputError: no network is finished, or a file cannot be used.
    """
    rows = folder.rows()
    curves = mark_chance(folder.curves(), rows)
    return SweepResults(folder, rows, curves, folder.read_run(), folder.arms())

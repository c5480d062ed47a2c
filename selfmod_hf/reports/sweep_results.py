"""Read the results of a study once, and compute each of its statistics once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from ..experiments.arms import Arm, Cell
from ..experiments.chance import main_metric
from ..experiments.folder import SweepFolder
from ..experiments.recipes import describe_setting
from ..json_records import SweepRun
from .answer import Answer, answer_of
from .comparisons import compare_targets, compare_with_baseline, with_both_targets
from .equal_loss import compare_at_equal_loss
from .published import compare_with_published
from .speakers import Evidence, findings_by_arm, rows_by_arm
from .statistics import (
    ARM,
    main_measures,
    mark_curves,
    measured,
    only_ok,
    summarize_arms,
    summarize_epochs,
    with_every_rlct,
)
from .study_layout import StudyLayout, lay_out
from .trends import trends


@dataclass(frozen=True)
class SweepResults:
    """Keep the results of a study's finished networks, and their statistics.

    A statistic is computed when it is first asked for, and kept.

    Attributes:
        folder: the results folder, for the weights and traces of single networks.
        rows: one row per network, from `SweepFolder.rows`, in the order of the arms.
        curves: one row per network and epoch, with the columns `at_chance` and `is_counted` of its network.
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

    @property
    def axes(self) -> list[str]:
        """Return the columns in which arms differ, in addition to width, weight and kind of targets."""
        recorded = [] if self.run is None else self.run.axes
        found = [name for name in recorded if name in self.rows and name not in ARM]
        widths = self.rows["hidden_size"].map(str)
        if "hidden_sizes" in found and self.rows["hidden_sizes"].map(str).equals(widths):
            found.remove("hidden_sizes")  # of one layer each, so that the width says it
        return found

    @property
    def metric(self) -> str:
        """Return the name of the metric that is compared."""
        return main_metric(self.rows)

    @property
    def further_measures(self) -> list[str]:
        """Return the measures of this study in addition to `main_measures`: its other metrics, then the others."""
        recorded = [] if self.run is None else [*self.run.metrics, *self.run.measures]
        main = main_measures(self.rows)
        return [name for name in recorded if name in self.rows and name not in main]

    @property
    def measures(self) -> list[str]:
        """Return all measures, as columns of `rows`."""
        return [*measured(self.rows, main_measures(self.rows)), *self.further_measures]

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
    def answer(self) -> Answer:
        """Return the answer of the study: a few sentences, made from the statistics, with their parts."""
        evidence = Evidence(
            self.study,
            self.rows,
            rows_by_arm(self.arms),
            findings_by_arm(self.tests, self.metric),
            findings_by_arm(self.every_rlct, self.metric),
            findings_by_arm(self.ok_rlct, self.metric),
            rows_by_arm(self.equal_loss),
        )
        return answer_of(evidence)

    # ---- statistics ----

    @cached_property
    def layout(self) -> StudyLayout:
        """Return the places of the arms in figures."""
        return lay_out(self.study)

    @cached_property
    def arms(self) -> pd.DataFrame:
        """Return mean and interval per arm and measure."""
        return summarize_arms(self.rows, self.measures)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """Return mean and interval per arm, measure and epoch."""
        return summarize_epochs(self.curves)

    @cached_property
    def tests(self) -> pd.DataFrame:
        """Return the comparison of each arm with its baseline."""
        return compare_with_baseline(self.rows, self.study, self.measures)

    @cached_property
    def every_rlct(self) -> pd.DataFrame:
        """Return the comparison of RLCTs over all networks with an estimate, whatever its status."""
        return compare_with_baseline(with_every_rlct(self.rows), self.study, ["rlct"])

    @cached_property
    def ok_rlct(self) -> pd.DataFrame:
        """Return the comparison of RLCTs over the networks whose RLCT is "ok"."""
        return compare_with_baseline(only_ok(self.rows), self.study, ["rlct"])

    @cached_property
    def arms_of_ok(self) -> pd.DataFrame:
        """Return mean and interval per arm and measure, over the networks whose RLCT is "ok"."""
        return summarize_arms(only_ok(self.rows), self.measures)

    @cached_property
    def equal_loss(self) -> pd.DataFrame:
        """Return the comparison of each arm with its baseline at equal training loss."""
        return compare_at_equal_loss(self.rows, self.curves, self.study)

    @cached_property
    def trends(self) -> pd.DataFrame:
        """Return the correlation of each measure with each numeric axis."""
        return trends(self.rows, self.study, self.axes, self.measures)

    @cached_property
    def published(self) -> pd.DataFrame:
        """Return the comparison with the paper's values."""
        return compare_with_published(self.rows, self.study)

    @cached_property
    def paired(self) -> pd.DataFrame:
        """Return the rows of seeds that have attached and detached targets."""
        return with_both_targets(self.rows, self.axes)

    @cached_property
    def targets(self) -> pd.DataFrame:
        """Return the comparison of attached with detached targets."""
        return compare_targets(self.paired, self.axes, self.measures)


def read_results(folder: SweepFolder) -> SweepResults:
    """Read a results folder.

    Raises:
        InputError: no network is finished, or a file cannot be used.
    """
    study = folder.arms()
    rows = in_order_of(study, folder.rows())
    curves = mark_curves(folder.curves(), rows)
    return SweepResults(folder, rows, curves, folder.read_run(), study)


def in_order_of(study: list[Arm], rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows in the order of the study's arms. Rows of one arm keep their order."""
    positions = {arm.name: position for position, arm in enumerate(study)}
    order = rows["arm"].map(positions).sort_values(kind="stable").index
    return rows.loc[order].reset_index(drop=True)

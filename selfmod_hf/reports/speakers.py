"""Choose the arms that speak in a study's answer, by fixed rules.

In a panel whose arms differ in the self-model's weight only, the arm of the largest weight that keeps the baseline's
metric speaks, with at least half of its RLCTs usable. An arm keeps it with at least 95 % of the baseline's. If smaller
values are better, the baseline has at least 95 % of the arm's. In any other panel each arm speaks, except for arms that
stop at the training loss of another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from pandas import DataFrame

from ..experiments.arms import STOP, USUAL_TARGETS, Arm
from ..experiments.chance import main_metric
from ..trainer.task_metrics import SMALLER_IS_BETTER
from .comparisons import arms_by_panel
from .equal_loss import SIMPLICITY
from .findings import Finding, finding_of
from .statistics import NAN, is_trained

KEPT = 0.95  # share of the baseline's metric


Findings = dict[str, dict[str, Finding]]  # the statements about each arm, by measure
ByArm = dict[tuple[str, str], Any]  # rows of a table by arm and measure


@dataclass(frozen=True)
class Evidence:
    """Hold what an answer is made of.

    Attributes:
        study: the arms, with their panels and baselines.
        rows: one row per network.
        means: rows of `summarize_arms`.
        findings: about the comparisons with the baselines.
        every_rlct: the same of all networks with an RLCT, whatever its status.
        ok_rlct: the same of the networks whose RLCT is "ok".
        equal: rows of `compare_at_equal_loss`.
    """

    study: Sequence[Arm]
    rows: DataFrame
    means: ByArm
    findings: Findings
    every_rlct: Findings
    ok_rlct: Findings
    equal: ByArm

    @property
    def metric(self) -> str:
        """Return the name of the metric that the study compares."""
        return main_metric(self.rows)

    @property
    def measures(self) -> tuple[str, ...]:
        """Return the measures that an answer is about."""
        return *SIMPLICITY, self.metric


def findings_by_arm(tests: DataFrame, metric: str) -> Findings:
    """Return the statements about each arm by measure: RLCT, width, metric.

    Args:
        tests: from `compare_with_baseline`.
        metric: that the study compares.
    """
    found: Findings = {}
    by_arm = rows_by_arm(tests)
    for measure in (*SIMPLICITY, metric):
        for (arm, tested), test in by_arm.items():
            if tested == measure:
                found.setdefault(arm, {})[measure] = finding_of(test)
    return found


def rows_by_arm(table: DataFrame) -> ByArm:
    """Return the rows of a table by arm and measure."""
    return {(row.arm, row.measure): row for row in table.itertuples()}


# ---- which arms speak ----


@dataclass(frozen=True)
class Speaker:
    """Name an arm that speaks.

    Attributes:
        arm: the arm.
        is_weight: whether it was chosen by its weight.
        keeps_metric: whether it keeps the share KEPT of the baseline's metric. Only asked of weights.
    """

    arm: Arm
    is_weight: bool
    keeps_metric: bool = True


def choose_speakers(evidence: Evidence) -> list[Speaker]:
    """Return the arms that speak: the first of each panel, then the second of each, and so on."""
    panels = []
    for arms in arms_by_panel(evidence.study).values():
        tested = [arm for arm in arms if arm.name in evidence.findings]
        if not tested:
            continue
        if is_over_weights(tested, evidence.study):
            panels.append([_largest_weight(evidence, tested)])
            continue
        own = [arm for arm in tested if STOP not in arm.changes] or tested
        panels.append([Speaker(arm, is_weight=False) for arm in own])
    in_turn = chain.from_iterable(zip_longest(*panels))
    return [speaker for speaker in in_turn if speaker is not None]


def is_over_weights(arms: Sequence[Arm], study: Sequence[Arm]) -> bool:
    """Return whether the arms of a panel and their baseline differ in the self-model's weight only.

    Args:
        arms: of the panel, without the baseline.
        study: all arms.
    """
    by_name = {arm.name: arm for arm in study}
    others = []
    for arm in arms:
        if not isinstance(arm.changes.get("aux_weight"), (int, float)):
            return False
        others.append(_without_weight(arm))
    # a baseline of weight 0 has no kind of targets
    baseline = by_name.get(arms[0].baseline, arms[0])
    targets = {"detach_targets": others[0].get("detach_targets")}
    for name in USUAL_TARGETS:
        if name in arms[0].panel:
            targets[name] = others[0].get(name)
    of_baseline = {**_without_weight(baseline), **targets}
    return all(other == others[0] for other in others) and {**others[0], **targets} == of_baseline


def _without_weight(arm: Arm) -> dict[str, object]:
    return {name: value for name, value in arm.changes.items() if name != "aux_weight"}


def _largest_weight(evidence: Evidence, arms: Sequence[Arm]) -> Speaker:
    falling = sorted(arms, key=lambda arm: arm.changes["aux_weight"], reverse=True)
    good = [arm for arm in falling if _keeps_metric(evidence, arm)]
    usable = [arm for arm in good if _has_usable_rlcts(evidence, arm)]
    for chosen in (usable, good):
        if chosen:
            return Speaker(chosen[0], is_weight=True)
    return Speaker(falling[-1], is_weight=True, keeps_metric=False)


def _keeps_metric(evidence: Evidence, arm: Arm) -> bool:
    """Return whether an arm is good enough. All trained networks count here, those without a usable RLCT too."""
    rows = evidence.rows
    means = rows[is_trained(rows)].groupby("arm")[evidence.metric].mean()
    own = means.get(arm.name, NAN)
    baseline = means.get(arm.baseline, NAN)
    if math.isnan(baseline):
        return True  # nothing is known of it
    if evidence.metric in SMALLER_IS_BETTER:
        return bool(baseline >= KEPT * own)
    return bool(own >= KEPT * baseline)


def _has_usable_rlcts(evidence: Evidence, arm: Arm) -> bool:
    own = evidence.means.get((arm.name, "rlct"))
    return own is not None and own.count >= own.left_out

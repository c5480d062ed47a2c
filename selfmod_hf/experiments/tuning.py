"""The trials of a tuning, shared by all workers.

    groups/N/         trials that train together, N the first of them: the Trainer's checkpoints
    trials.json       every trial: parameters, state, measures
    pareto.json, pareto.txt, pareto.png

The trials themselves are in the journal of the folder (`SharedFolder`) or in a database (`SharedDatabase`).

A worker asks for a group of trials. They differ only in their seed and in `MEMBER_PARAMETERS`, because a population
shares all other settings. The worker holds the group's lock while it works. The system releases the lock when the
process ends. An unfinished group without a lock belongs to a killed worker. The next worker continues it from its last
checkpoint, or from the start if that checkpoint is out of reach. So no trial is lost, and none is recorded twice.

The parameters of trial N depend on the seed, on N and on the trials that were finished when it was proposed. A process
remembers nothing else. So a tuning with one worker gives the same result however often the worker was killed. With
several workers the result depends on their speed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState, create_trial

from ..errors import InputError
from ..files import plain
from ..trainer.member import Member
from ..trainer.task_metrics import SMALLER_IS_BETTER
from .journal import SharedFolder
from .setting import Values
from .trial_group import TIMES, Group, Measured, common_parameters, explain_hopeless
from .trial_parameters import MEMBER_PARAMETERS, as_run_fields, only_value
from .tuning_result import TuningResult, count_states, objectives

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from ..complexity import LLCResult
    from .run_settings import RunSettings
    from .shared_database import SharedDatabase

UNUSABLE = ("not_at_minimum", "diverged")  # RLCTs
WAIT = 2.0  # seconds until a worker looks for work again

Claim: TypeAlias = tuple[str, Values, AbstractContextManager[Any]]  # a group's name, content and lock


class Tuning:
    """One worker of a tuning.

    Args:
        folder: of the results and checkpoints.
        space: from `parse_space`.
        settings: all other settings of the numbers. They are fixed for a tuning.
        stack: number of trials in one training.
        can_stack: returns whether trials with these common parameters can train together. None: all can.
        give_up_below: a trial is pruned without an RLCT if its metric, half-way or at the end, is not beyond this share
            of the way from chance to the best so far. 0: no trial is.
        chance: the metric of guessing. NaN: it is unknown, and no trial is pruned by its metric.
        metric: name of the first objective.
        member: fields of `Member` of all trials, in place of those that the space lacks.
        seed: of the sampler. Trial N trains with seed N.
        shared: holds the trials and locks of all workers. None: the folder does.

    Raises:
        InputError: the tuning was begun with another space or other settings.
    """

    def __init__(  # noqa: PLR0913 - all that a folder of trials is made of
        self,
        folder: Path,
        space: dict[str, BaseDistribution],
        settings: dict[str, Any],
        *,
        stack: int,
        give_up_below: float,
        chance: float,
        metric: str = "accuracy",
        can_stack: Callable[[Values], bool] | None = None,
        member: Values | None = None,
        seed: int = 0,
        shared: SharedFolder | SharedDatabase | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder = folder
        self.space = space
        self.stack = stack
        self.seed = seed
        self.give_up_below = give_up_below
        self.chance = chance
        self.metric = metric
        self.can_stack = can_stack
        self.member = {"aux_weight": 0.0, **(member or {})}
        self.shared = SharedFolder(folder) if shared is None else shared
        with self.shared.lock():
            self.study = optuna.create_study(
                study_name=self.shared.study_name,
                storage=self.shared.storage,
                directions=list(objectives(metric).values()),
                load_if_exists=True,
            )
            ranges = {name: repr(entry) for name, entry in space.items()}
            self._check(settings | {"space": ranges})
            self.shared.open(self.study)

    def _check(self, settings: dict[str, Any]) -> None:
        as_written = json.dumps(settings)
        settings = json.loads(as_written)
        before = self.study.user_attrs.get("settings")
        if before is None:
            self.study.set_user_attr("settings", settings)
            return
        for name, value in settings.items():
            old = before.get(name)
            if old != value:
                problem = f"was begun with {name}={old!r}, not {value!r}; take another folder"
                raise InputError("output_dir", str(self.folder), problem)

    # ---- work ----

    def work(self, num_trials: int) -> Iterator[tuple[Path, Group]]:
        """Yield groups to run until there are so many trials, those of killed workers first.

        Each group stays locked until the next one is yielded. With a database a worker waits for the unfinished groups
        of the others, because they may be killed.
        """
        while True:
            with self.shared.lock():
                found = self._orphan() or self._new_group(num_trials)
                others_work = found is None and bool(self.shared.open_groups())
            if others_work and self.shared.waits:
                time.sleep(WAIT)
                continue
            if found is None:
                return
            name, content, lock = found
            path = self.shared.groups / name
            with lock:
                group = Group(
                    trials=content["trials"],
                    shared=content["shared"],
                    members=[Member(**member) for member in content["members"]],
                )
                yield path, group

    def _orphan(self) -> Claim | None:
        """Return a killed worker's group, or None."""
        for name, content in self.shared.open_groups().items():
            lock = self.shared.try_lock(name)
            if lock is not None:
                return name, content, lock
        return None

    def _new_group(self, num_trials: int) -> Claim | None:
        """Return a new group, or None if there are so many trials already."""
        trials = self._trials_without_group()
        num_failed = len(self._trials(TrialState.FAIL))
        num_known = len(self._trials())
        num_counted = num_known - num_failed - len(trials)
        num_missing = num_trials - num_counted
        if num_missing <= 0:
            return None
        number = num_known  # of the next trial
        if not trials:
            trials[number] = self._propose(number, {})
            number += 1
        common = common_parameters(trials)
        size = min(self._at_once(common), num_missing)
        while len(trials) < size:
            trials[number] = self._propose(number, common)
            number += 1
        members = []
        for number, params in trials.items():
            member = self._member(number, params)
            members.append(member)
        content = {
            "trials": list(trials),
            "shared": common,
            "members": members,
        }
        first = min(trials)
        name = f"{first:05d}"
        lock = self.shared.begin_group(name, content)
        return name, content, lock

    def _at_once(self, common: Values) -> int:
        """Return the number of trials with these common parameters in one training."""
        if self.stack == 1 or self.can_stack is None:
            return self.stack
        return self.stack if self.can_stack(common) else 1

    def _member(self, number: int, params: Values) -> dict[str, Any]:
        """Return the own parameters of a trial in its group, as fields of `Member`."""
        own = {name: params[name] for name in MEMBER_PARAMETERS if name in params}
        member: dict[str, Any] = {"seed": number}
        member |= self.member
        member |= as_run_fields(own)
        return member

    def _trials_without_group(self) -> dict[int, dict[str, Any]]:
        """Return the parameters of trials whose worker was killed before it wrote their group, by number."""
        held: list[int] = []
        for content in self.shared.open_groups().values():
            held += content["trials"]
        found = {}
        for trial in self._trials(TrialState.RUNNING):
            if trial.number not in held:
                found[trial.number] = trial.params
        return found

    def _trials(self, state: TrialState | None = None) -> list[FrozenTrial]:
        """Return all trials, or those in a state."""
        states = None if state is None else (state,)
        return self.study.get_trials(deepcopy=False, states=states)

    def _propose(self, number: int, common: Values) -> dict[str, Any]:
        """Let the sampler choose the parameters of trial `number` except for `common`, and return all of them.

        The trial is one entry of the storage, so no trial is chosen in part.
        """
        (seed,) = np.random.SeedSequence((self.seed, number)).generate_state(1)
        sampler = optuna.samplers.TPESampler(seed=int(seed))
        # another study, because one keeps old trials
        study = optuna.load_study(study_name=self.shared.study_name, storage=self.shared.storage)
        nothing = create_trial(state=TrialState.RUNNING)
        params = dict(common)
        for name, distribution in self.space.items():
            if name in common:
                continue
            if distribution.single():  # Optuna's sampler misses it by a rounding, and its study rejects that
                params[name] = only_value(distribution)
            else:
                params[name] = sampler.sample_independent(study, nothing, name, distribution)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=self.space,
        )
        study.add_trial(trial)
        return params

    def finish(
        self,
        path: Path,
        group: Group,
        measured: Sequence[Measured],
        estimate: Callable[[Sequence[Any], Sequence[int]], Sequence[LLCResult]],
    ) -> None:
        """Record the measures of a group's trials, then remove the group.

        Args:
            path, group: from `work`.
            measured: of each trial.
            estimate: RLCTs of these models, with these seeds.
        """
        open_trials = {trial.number for trial in self._trials(TrialState.RUNNING)}
        problems = self._problems(measured)
        hopeful = {}
        for number, entry, problem in zip(group.trials, measured, problems, strict=True):
            if problem is None:
                hopeful[number] = entry
            elif number in open_trials:
                self._tell(number, entry, None, problem)
        if open_trials.intersection(hopeful):
            # all of them, though a killed worker may have recorded some: an estimate alone differs by rounding
            models = [entry.model for entry in hopeful.values()]
            results = estimate(models, list(hopeful))
            for number, rlct in zip(hopeful, results, strict=True):
                problem = None
                if rlct.status in UNUSABLE:
                    problem = f"{rlct.status}: {rlct.status_reason}"
                if number in open_trials:
                    self._tell(number, hopeful[number], rlct, problem)
        self.shared.end_group(path.name)

    def _problems(self, measured: Sequence[Measured]) -> list[str | None]:
        """Return why each trial is hopeless, or None."""
        limits = {}
        for name in TIMES:
            values = [getattr(entry, name) for entry in measured]
            limits[name] = self.threshold(name, values)
        return [explain_hopeless(entry, limits, self.metric) for entry in measured]

    def threshold(self, time: str, values: Sequence[float]) -> float:
        """Return the worst metric of a hopeful trial, by the best of the finished trials and `values`.

        Args:
            time: "half_way" or "final".
            values: of the trials in question.
        """
        is_smaller_better = self.metric in SMALLER_IS_BETTER
        if self.give_up_below == 0 or math.isnan(self.chance):
            return math.inf if is_smaller_better else -math.inf
        name = self.metric if time == "final" else time
        known = []
        for trial in self._trials(TrialState.COMPLETE):
            known.append(trial.user_attrs[name])
        known += filter(math.isfinite, values)
        choose = min if is_smaller_better else max
        best = choose(known, default=self.chance)
        way = best - self.chance
        return self.chance + self.give_up_below * way

    def _tell(self, number: int, measured: Measured, rlct: LLCResult | None, hopeless: str | None) -> None:
        """Record the measures of a trial. With a reason `hopeless` it is pruned."""
        facts: dict[str, Any] = {
            "half_way": measured.half_way,
            self.metric: measured.final,
            "weight_width": measured.weight_width,
            "pruned": hopeless,
        }
        if rlct is not None:
            facts["rlct"] = rlct.llc
            facts["rlct_standard_error"] = rlct.standard_error
            facts["rlct_status"] = rlct.status
            facts["nbeta"] = rlct.nbeta
            facts["rlct_preset"] = rlct.settings.preset
        ids = {trial.number: trial._trial_id for trial in self._trials()}
        trial = Trial(self.study, ids[number])  # also of a killed worker
        state = TrialState.PRUNED
        values = None
        if hopeless is None and rlct is not None:
            state = TrialState.COMPLETE
            values = [measured.final, rlct.llc, measured.weight_width]
        try:
            for name, value in plain(facts).items():
                trial.set_user_attr(name, value)
            self.study.tell(number, values, state, skip_if_finished=True)
        except UpdateFinishedTrialError:
            pass  # another worker took over this group, because the connection with its lock was lost

    # ---- results ----

    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        return count_states(self._trials())

    def result(self, base: RunSettings, keep_accuracy: float) -> TuningResult:
        """Return the trials so far.

        Args:
            base: settings of all trials.
            keep_accuracy: see `TuningResult`.
        """
        trials = self._trials()
        is_smaller_better = self.metric in SMALLER_IS_BETTER
        front = sorted(self.study.best_trials, key=lambda trial: trial.values[0], reverse=not is_smaller_better)
        return TuningResult(self.folder, base, trials, front, keep_accuracy, self.metric)

    def write_results(self, result: TuningResult) -> None:
        """Write the files of a result. Workers write one after the other."""
        with self.shared.lock():
            result.write()

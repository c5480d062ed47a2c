"""The folder of a tuning: its trials, shared by all workers.

    journal.log       Optuna's journal
    groups/N/         trials that train together, N the first of them: group.json, the Trainer's checkpoints
    trials.json       every trial: parameters, state, measures
    pareto.json, pareto.txt, pareto.png

A worker asks for a group of trials. They differ only in self-model weight, learning rate and seed, because a population
shares its architecture. The worker holds the group's lock while it works. The system releases the lock when the process
ends. An unfinished group without a lock belongs to a killed worker, and the next worker continues it from its last
checkpoint. So no trial is lost, and none is done twice.

The parameters of trial N depend on the seed, on N and on the trials that were finished when it was proposed. A process
remembers nothing else. So a tuning with one worker gives the same result however often the worker was killed. With
several workers the result depends on their speed.

The folder needs a file system with locks. A cluster engine such as Ray Tune is not needed, because the trials of one
machine train as one population.
"""

from __future__ import annotations

import fcntl
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..files import to_json, write_file
from ..trainer.member import Member
from .journal import open_journal, try_lock
from .space import MEMBER_PARAMETERS, only_value
from .tuning_result import OBJECTIVES, TuningResult, count_states

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from ..complexity import LLCResult
    from .run_settings import RunSettings

ACCURACIES = ("half_way", "accuracy")  # test accuracy after half of the epochs, and at the end


@dataclass(frozen=True)
class Group:
    """Trials that train together.

    Attributes:
        trials: their numbers.
        shared: the parameters they have in common.
        members: seed, self-model weight and learning rate of each.
    """

    trials: list[int]
    shared: dict[str, Any]
    members: list[Member]


@dataclass(frozen=True)
class Measured:
    """Hold what training gives of one trial.

    Attributes:
        half_way: test accuracy after half of the epochs.
        accuracy: test accuracy at the end.
        weight_width: of the last layer.
        model: the network, for its RLCT.
    """

    half_way: float
    accuracy: float
    weight_width: float
    model: Any


class Tuning:
    """One worker of a study.

    Args:
        folder: see above; shared by the workers.
        space: from `parse_space`.
        settings: what else decides the numbers; a folder keeps to one.
        stack: trials that train together.
        give_up_below: a trial whose accuracy, half-way or at the end, is below this share of the way from chance to
            the best one so far is hopeless: it is pruned, and no RLCT is sampled; 0: none is.
        chance: accuracy of guessing.
        aux_weight: of all trials, where the space has none.
        seed: of the sampler; trial N trains with seed N.

    Raises:
        InputError: the folder was begun with another space or other settings.
    """

    def __init__(
        self,
        folder: Path,
        space: dict[str, BaseDistribution],
        settings: dict[str, Any],
        *,
        stack: int,
        give_up_below: float,
        chance: float,
        aux_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.space, self.stack, self.seed = folder, space, stack, seed
        self.give_up_below, self.chance, self.aux_weight = give_up_below, chance, aux_weight
        self.groups = folder / "groups"
        self.groups.mkdir(parents=True, exist_ok=True)
        self.storage = open_journal(folder / "journal.log")
        with self._lock("study"):
            self.study = optuna.create_study(
                study_name="tune",
                storage=self.storage,
                directions=list(OBJECTIVES.values()),
                load_if_exists=True,
            )
            self._check(settings | {"space": {name: repr(entry) for name, entry in space.items()}})

    def _check(self, settings: dict[str, Any]) -> None:
        settings = json.loads(json.dumps(settings))
        before = self.study.user_attrs.get("settings")
        if before is None:
            self.study.set_user_attr("settings", settings)
            return
        for name, value in settings.items():
            if before.get(name) != value:
                problem = f"was begun with {name}={before.get(name)!r}, not {value!r}; take another folder"
                raise InputError("output_dir", str(self.folder), problem)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self.folder / f".{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # ---- work ----

    def work(self, num_trials: int) -> Iterator[tuple[Path, Group]]:
        """Yield groups to run until the study has so many trials, those of killed workers first.

        Each group stays locked until the next one is asked for.
        """
        while True:
            with self._lock("study"):
                found = self._orphan() or self._new_group(num_trials)
            if found is None:
                return
            path, lock = found
            with lock:
                group = json.loads((path / "group.json").read_text(encoding="utf-8"))
                members = [Member(**member) for member in group["members"]]
                yield path, Group(group["trials"], group["shared"], members)

    def _orphan(self) -> tuple[Path, Any] | None:
        for path in sorted(self.groups.iterdir()):
            if not (path / "group.json").is_file():
                shutil.rmtree(path, ignore_errors=True)  # of a worker that was killed while it began or removed it
            elif (lock := try_lock(path / ".lock")) is not None:
                if (path / "group.json").is_file():  # not finished in the meantime
                    return path, lock
                lock.close()
        return None

    def _new_group(self, num_trials: int) -> tuple[Path, Any] | None:
        from optuna.trial import TrialState

        groups = (json.loads(path.read_text(encoding="utf-8")) for path in self.groups.glob("*/group.json"))
        held = {number for group in groups for number in group["trials"]}
        known = self.study.get_trials(deepcopy=False)
        # those whose worker was killed before it wrote their group down
        trials = [(t.number, t.params) for t in known if t.state == TrialState.RUNNING and t.number not in held]
        counted = sum(trial.state != TrialState.FAIL for trial in known) - len(trials)
        if counted >= num_trials:
            return None
        shared = _shared(trials)
        while len(trials) < min(self.stack, num_trials - counted):
            trials.append(self._propose(len(known), shared))
            shared = _shared(trials)
            known = self.study.get_trials(deepcopy=False)
        members = [self._member(number, params) for number, params in trials]
        path = self.groups / f"{trials[0][0]:05d}"
        path.mkdir(exist_ok=True)
        lock = try_lock(path / ".lock")
        content = {"trials": [number for number, _ in trials], "shared": shared, "members": members}
        write_file(path / "group.json", to_json(content))
        return path, lock

    def _member(self, number: int, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what tells a trial from the others of its group, as fields of `Member`."""
        own = {name: params[name] for name in MEMBER_PARAMETERS if name in params}
        return {"seed": number, "aux_weight": self.aux_weight, **own}

    def _propose(self, number: int, shared: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Let the sampler choose the parameters of trial `number` except those that are `shared`.

        The trial is one entry of the journal, so no trial is chosen in part.

        Returns:
            The number and all parameters.
        """
        import optuna
        from optuna.trial import TrialState, create_trial

        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.load_study(study_name="tune", storage=self.storage)  # a study keeps the trials it has seen
        nothing = create_trial(state=TrialState.RUNNING)
        params = dict(shared)
        for name, distribution in self.space.items():
            if name in shared:
                continue
            if distribution.single():  # Optuna's sampler misses it by a rounding, and its study rejects that
                params[name] = only_value(distribution)
            else:
                params[name] = sampler.sample_independent(study, nothing, name, distribution)
        study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=self.space))
        return number, params

    def finish(
        self,
        path: Path,
        group: Group,
        measured: Sequence[Measured],
        estimate: Callable[[Sequence[Any], Sequence[int]], Sequence[LLCResult]],
    ) -> None:
        """Tell the study what came out, then remove the group.

        Args:
            path, group: from `work`.
            measured: of each trial.
            estimate: RLCTs of these models, with these seeds.
        """
        from optuna.trial import TrialState

        open_trials = {trial.number for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
        least = {name: self.threshold(name, [getattr(entry, name) for entry in measured]) for name in ACCURACIES}
        hopeful = []
        for number, entry in zip(group.trials, measured, strict=True):
            low = [name for name in ACCURACIES if not getattr(entry, name) >= least[name]]
            if not low:
                hopeful.append((number, entry))
            elif number in open_trials:
                why = f"{low[0]} {getattr(entry, low[0]):.3f} is below {least[low[0]]:.3f}"
                self._tell(number, entry, None, why)
        if open_trials.intersection(number for number, _ in hopeful):
            # all of them again, where a killed worker has told of some: alone, an estimate differs by rounding
            results = estimate([entry.model for _, entry in hopeful], [number for number, _ in hopeful])
            for (number, entry), rlct in zip(hopeful, results, strict=True):
                bad = rlct.status in ("not_at_minimum", "diverged")
                if number in open_trials:
                    self._tell(number, entry, rlct, f"{rlct.status}: {rlct.status_reason}" if bad else None)
        (path / "group.json").unlink()  # first: from here on it is no work in progress
        shutil.rmtree(path, ignore_errors=True)  # another worker may be at it, too

    def threshold(self, name: str, values: Sequence[float]) -> float:
        """Below this a trial is hopeless, judged by the best of the finished trials and of `values`.

        Args:
            name: "half_way" or "accuracy".
            values: of the trials in question.
        """
        from optuna.trial import TrialState

        if self.give_up_below == 0:
            return -math.inf
        finished = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = [trial.user_attrs[name] for trial in finished] + [value for value in values if math.isfinite(value)]
        return self.chance + self.give_up_below * (max(known, default=self.chance) - self.chance)

    def _tell(self, number: int, measured: Measured, rlct: LLCResult | None, hopeless: str | None) -> None:
        from optuna.trial import Trial, TrialState

        (frozen,) = (trial for trial in self.study.get_trials(deepcopy=False) if trial.number == number)
        facts: dict[str, Any] = {"half_way": measured.half_way, "accuracy": measured.accuracy}
        facts |= {"weight_width": measured.weight_width, "pruned": hopeless}
        if rlct is not None:
            facts |= {"rlct": rlct.llc, "rlct_standard_error": rlct.standard_error, "rlct_status": rlct.status}
            facts |= {"nbeta": rlct.nbeta, "rlct_preset": rlct.settings.preset}
        trial = Trial(self.study, frozen._trial_id)  # that of a killed worker too
        for name, value in json.loads(to_json(facts)).items():
            trial.set_user_attr(name, value)
        if hopeless is not None or rlct is None:
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, [measured.accuracy, rlct.llc, measured.weight_width])

    # ---- results ----

    def counts(self) -> dict[str, int]:
        """Return how many trials are in each state."""
        return count_states(self.study.get_trials(deepcopy=False))

    def result(self, base: RunSettings, keep_accuracy: float) -> TuningResult:
        """Return the trials so far.

        Args:
            base: settings that all trials share.
            keep_accuracy: see `TuningResult`.
        """
        front = sorted(self.study.best_trials, key=lambda trial: -trial.values[0])
        return TuningResult(self.folder, base, self.study.get_trials(deepcopy=False), front, keep_accuracy)

    def write_results(self, result: TuningResult) -> None:
        """Write the files of a result. Workers that end together write one after the other."""
        with self._lock("study"):
            result.write()


def _shared(trials: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the parameters that all trials of a group have in common, from the first one."""
    if not trials:
        return {}
    _, params = trials[0]
    return {name: value for name, value in params.items() if name not in MEMBER_PARAMETERS}

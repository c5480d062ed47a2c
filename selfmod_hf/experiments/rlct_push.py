"""Where an RLCT is pushed: the settings, and the push of a result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from huggingface_hub import HfApi

from ..complexity import LLCResult
from ..data import TaskSpec
from ..errors import InputError
from ..hub.eval_results import BENCHMARK, EvalTask, check_benchmark, eval_result_file, eval_tasks
from ..hub.push_rlct import PushedRLCT, check_repository, push_rlct
from ..hub.saved import SavedNetwork
from .setting import setting


@dataclass
class RLCTPushSettings:
    """Settings of the push of a result to the network's repository on the Hub."""

    push_result: bool = setting(
        "Add rlct.json and the card's metric to the repository on the Hub, as a pull request.", default=False
    )
    push_eval_result: bool = setting(
        "Add the result of a benchmark's `task` to the Hub's table too. In your own repository it is a commit.",
        default=False,
    )
    repo: str | None = setting("Repository of the network, user/name; default: `model`, if it is one.")
    benchmark: str = setting("Data set of the benchmark on the Hub.", default=BENCHMARK)

    def repository_of(
        self, saved: SavedNetwork, task: EvalTask | None, *, several: bool = False, calibrates: bool = False
    ) -> str | None:
        """Return the id of the repository for a result, or None if nothing is pushed.

        Args:
            saved: the network.
            task: of the benchmark, or None.
            several: whether several networks are estimated.
            calibrates: whether step size and localization are chosen by a calibration.

        Raises:
            InputError: settings that contradict each other, or no repository.
        """
        if not self.push_result and not self.push_eval_result:
            for name, unset in (("repo", None), ("benchmark", BENCHMARK)):
                value = getattr(self, name)
                if value != unset:
                    raise InputError(name, value, "allowed with `push_result` and `push_eval_result`")
            return None
        name = "push_eval_result" if self.push_eval_result else "push_result"
        if several or saved.subfolder:
            raise InputError(name, True, "allowed for the network of one repository (`model` without `subfolder`)")
        if calibrates:
            raise InputError(name, True, "allowed without `calibrate`, whose value comes from several cells")
        if self.push_eval_result and task is None:
            raise InputError(name, True, f"allowed with a `task` of the benchmark: {', '.join(eval_tasks())}")
        found = self.repo or (saved.model if saved.is_on_hub else None)
        if found is None:
            raise InputError("repo", None, f"`{name}` needs the repository of the network, user/name")
        return found

    def check(self, repo_id: str | None, saved: SavedNetwork, *, api: HfApi | None = None) -> None:
        """Raise an InputError if nothing can be pushed there, before any sampling.

        Args:
            repo_id: of `repository_of`.
            saved: the network.
            api: of the Hub.

        Raises:
            InputError: the repository or the benchmark is missing, the repository has other weights, or there is no
                token of the Hub.
        """
        if repo_id is None:
            return
        check_repository(repo_id, saved.weights_digest, api=api)
        if self.push_eval_result:
            check_benchmark(self.benchmark, api=api)

    def push(  # noqa: PLR0913 - public
        self,
        result: LLCResult | None,
        repo_id: str | None,
        spec: TaskSpec,
        saved: SavedNetwork,
        task: EvalTask | None,
        *,
        api: HfApi | None = None,
    ) -> PushedRLCT | None:
        """Push a result, and return the commit or pull request, or None if nothing is pushed.

        With `push_result`, a result that may not be an entry of the benchmark's table is pushed without an entry.

        Args:
            result: the estimate.
            repo_id: of `repository_of`.
            spec: the data.
            saved: the network.
            task: of the benchmark, or None.
            api: of the Hub.

        Raises:
            InputError: the repository holds other weights, or the result may not be an entry of the benchmark's table.
        """
        if repo_id is None or result is None:
            return None
        more = {}
        without_entry = None
        if self.push_eval_result:
            assert task is not None
            try:
                more[task.path] = eval_result_file(task, result, repo_id, benchmark=self.benchmark, api=api)
            except InputError as error:
                if not self.push_result:
                    raise
                without_entry = str(error)
        pushed = push_rlct(result, repo_id, spec, saved.task_type, more=more, into_own=self.push_eval_result, api=api)
        return replace(pushed, without_entry=without_entry)

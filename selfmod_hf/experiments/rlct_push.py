"""Where an RLCT is pushed: the settings, and the push of a result."""

from __future__ import annotations

from dataclasses import dataclass

from ..complexity import LLCResult
from ..data import TaskSpec
from ..errors import InputError
from ..hub.eval_results import BENCHMARK, EvalTask, eval_result_file
from ..hub.push_rlct import push_rlct
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

    def repository_of(self, saved: SavedNetwork, task: EvalTask | None, several: bool) -> str | None:
        """Return the id of the repository for a result, or None if nothing is pushed.

        Args:
            saved: the network.
            task: of the benchmark, or None.
            several: whether several networks are estimated.

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
        if self.push_eval_result and task is None:
            raise InputError(name, True, "allowed with a `task` of the benchmark, such as mnist-theory-all-v1")
        found = self.repo or (saved.model if saved.is_on_hub else None)
        if found is None:
            raise InputError("repo", None, f"`{name}` needs the repository of the network, user/name")
        return found

    def push(
        self,
        result: LLCResult | None,
        repo_id: str | None,
        spec: TaskSpec,
        saved: SavedNetwork,
        task: EvalTask | None,
    ) -> str | None:
        """Push a result, and return the address of the commit or pull request, or None if nothing is pushed.

        Args:
            result: the estimate.
            repo_id: of `repository_of`.
            spec: the data.
            saved: the network.
            task: of the benchmark, or None.

        Raises:
            InputError: the repository holds other weights, or the result may not be an entry of the benchmark's table.
        """
        if repo_id is None or result is None:
            return None
        more = {}
        if self.push_eval_result:
            assert task is not None
            more[task.path] = eval_result_file(task, result, repo_id, benchmark=self.benchmark)
        pushed = push_rlct(result, repo_id, spec, saved.task_type, more=more, into_own=self.push_eval_result)
        return pushed.address

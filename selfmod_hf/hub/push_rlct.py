"""Push an RLCT to the repository of a network on the Hub: rlct.json, the card's metrics, and an evaluation result.

The files go to the repository as one pull request, because most networks belong to others. A user's own repository
gets a commit on its main branch if a result of a benchmark is pushed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import RepositoryNotFoundError

from ..complexity import LLCResult
from ..data import TaskSpec
from ..errors import InputError
from ..weights import belongs
from .card import UNKNOWN_DATA, finite, rlct_arguments, rlct_name
from .download import published_weights
from .upload import Repository, Target, address_of, remote_card, send

_FILES = ("rlct.json", "rlct.safetensors")


@dataclass(frozen=True)
class PushedRLCT:
    """Describe a pushed RLCT.

    Attributes:
        address: of the commit or the pull request.
        is_pull_request: whether it is a pull request.
    """

    address: str
    is_pull_request: bool


def push_rlct(  # noqa: PLR0913 - public
    result: LLCResult,
    repo_id: str,
    spec: TaskSpec,
    task_type: str,
    *,
    api: HfApi | None = None,
    more: Mapping[str, str] | None = None,
    into_own: bool = False,
) -> PushedRLCT:
    """Push a result with the metrics of the card, as one pull request.

    Args:
        result: with its traces.
        repo_id: ``user/name`` of the network's repository.
        spec: the data.
        task_type: the Hub's name of the network's task.
        api: of the Hub.
        more: text files of the same commit, name -> content.
        into_own: commit to the main branch of a repository of the user's own.

    Raises:
        InputError: the repository is missing, or holds other weights than those of the result.
    """
    api = api or HfApi()
    try:
        head = api.model_info(repo_id).sha
    except RepositoryNotFoundError as error:
        raise InputError("repo", repo_id, "no such repository of a model on the Hub") from error
    weights = published_weights(repo_id, revision=head, api=api).get("")
    if belongs(result.weights_sha256, weights) is False:
        raise InputError("repo", repo_id, "holds other weights than those of the estimate")
    creates_pr = not (into_own and owns(api, repo_id))
    repository = Repository(api, Target(repo_id, create_pr=creates_pr), repo_id, "model", head)
    texts = dict(more or {})
    texts["README.md"] = card_with_rlct(remote_card(repository), repo_id, result, spec, task_type)
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for name, content in texts.items():
        operations.append(CommitOperationAdd(name, content.encode()))
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder, "rlct.json"))
        for name in _FILES:
            operations.append(CommitOperationAdd(name, Path(folder, name)))
        info = send(repository, operations, f"Add the RLCT: {result.llc:.4g} ± {result.standard_error:.2g}")
    return PushedRLCT(address_of(info), info.pr_url is not None)


def owns(api: HfApi, repo_id: str) -> bool:
    """Return whether a repository belongs to the user, or to one of the user's organizations."""
    user = api.whoami()
    names = {user["name"]}
    names.update(organization["name"] for organization in user.get("orgs", []))
    return repo_id.partition("/")[0] in names


def card_with_rlct(card: str, repo_id: str, result: LLCResult, spec: TaskSpec, task_type: str) -> str:
    """Return a card with the metric of a result in its metadata. It replaces one of the same settings.

    Args:
        card: the present one, or an empty text.
        repo_id: ``user/name`` of the network.
        result: the estimate.
        spec: the data.
        task_type: the Hub's name of the network's task.
    """
    dataset = UNKNOWN_DATA
    if spec.dataset_name is not None and not spec.is_local:
        dataset = spec.dataset_name
    metric = EvalResult(
        task_type=task_type,
        dataset_type=dataset,
        dataset_name=spec.name,
        dataset_config=spec.dataset_config,
        dataset_split=spec.train_split,
        metric_type="rlct",
        metric_name=rlct_name(result.nbeta, result.sampler, result.settings.parameter_names),
        metric_value=finite(result.llc),
        metric_args=rlct_arguments(result),
    )
    name = repo_id.rpartition("/")[2]
    if not card.strip():
        data = ModelCardData(model_name=name, eval_results=[metric])
        return f"---\n{data.to_yaml()}\n---\n\n# {name}\n"
    found = ModelCard(card, ignore_metadata_errors=True)
    others = []
    for entry in found.data.eval_results or []:
        same = (entry.metric_type, entry.metric_name) == (metric.metric_type, metric.metric_name)
        if not same or entry.dataset_type != metric.dataset_type or entry.dataset_split != metric.dataset_split:
            others.append(entry)
    found.data.eval_results = [*others, metric]
    found.data.model_name = getattr(found.data, "model_name", None) or name
    return str(found)

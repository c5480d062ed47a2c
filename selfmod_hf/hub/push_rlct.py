"""Push an RLCT to the repository of a network on the Hub: rlct.json, the card's metrics, and an evaluation result.

The files go to the repository as one pull request, because most networks belong to others. A user's own repository
gets a commit on its main branch if a result of a benchmark is pushed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, EvalResult, HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError

from ..complexity import LLCResult
from ..data import TaskSpec
from ..errors import InputError
from ..weights import belongs
from .card import UNKNOWN_DATA, finite, rlct_arguments, rlct_name
from .card_metric import with_metric
from .download import published_weights
from .upload import Repository, Target, address_of, remote_card, send

_FILES = ("rlct.json", "rlct.safetensors")


@dataclass(frozen=True)
class PushedRLCT:
    """Describe a pushed RLCT.

    Attributes:
        address: of the commit or the pull request.
        is_pull_request: whether it is a pull request.
        without_card: why the card has no metric, in one line. None: it has.
        without_entry: why there is no entry of the benchmark's table. None: there is one, or none was asked for.
    """

    address: str
    is_pull_request: bool
    without_card: str | None = None
    without_entry: str | None = None


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

    All else of the card stays as it is. A card whose metadata cannot be read or kept is left out.

    Args:
        result: with its traces.
        repo_id: ``user/name`` of the network's repository.
        spec: the data.
        task_type: the Hub's name of the network's task.
        api: of the Hub.
        more: text files of the same commit, name -> content.
        into_own: commit to the main branch of a repository of the user's own.

    Raises:
        InputError: as for `check_repository`.
    """
    api = api or HfApi()
    head = check_repository(repo_id, result.weights_sha256, api=api)
    creates_pr = not (into_own and owns(api, repo_id))
    repository = Repository(api, Target(repo_id, create_pr=creates_pr), repo_id, "model", head)
    texts = dict(more or {})
    without_card = None
    try:
        card = remote_card(repository, as_it_is=True)
        texts["README.md"] = card_with_rlct(card, repo_id, result, spec, task_type)
    except InputError as error:
        without_card = str(error)
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for name, content in texts.items():
        operations.append(CommitOperationAdd(name, content.encode()))
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder, "rlct.json"))
        for name in _FILES:
            operations.append(CommitOperationAdd(name, Path(folder, name)))
        info = send(repository, operations, f"Add the RLCT: {result.llc:.4g} ± {result.standard_error:.2g}")
    return PushedRLCT(address_of(info), info.pr_url is not None, without_card)


def check_repository(repo_id: str, weights: str | None, *, api: HfApi | None = None) -> str | None:
    """Return the newest commit of a network's repository, if a result can be pushed there.

    Args:
        repo_id: ``user/name`` of the repository.
        weights: SHA-256 of the network's weights.
        api: of the Hub.

    Raises:
        InputError: the repository is missing, or has not the network's weights, or there is no token of the Hub.
    """
    api = api or HfApi()
    _user(api, repo_id)
    try:
        head = api.model_info(repo_id).sha
    except RepositoryNotFoundError as error:
        raise InputError("repo", repo_id, "no such repository of a model on the Hub") from error
    except HFValidationError as error:
        raise InputError("repo", repo_id, "allowed is user/name") from error
    published = published_weights(repo_id, revision=head, api=api).get("")
    if published is None:
        raise InputError("repo", repo_id, "holds no weights (safetensors) to compare with those of the estimate")
    if weights is None:
        raise InputError("repo", repo_id, "its weights cannot be compared: the estimate names none")
    if not belongs(weights, published):
        raise InputError("repo", repo_id, "holds other weights than those of the estimate")
    return head


def _user(api: HfApi, repo_id: str) -> dict[str, Any]:
    """Return the user of the Hub's token."""
    try:
        return dict(api.whoami())
    except (LocalTokenNotFoundError, ValueError) as error:  # the second for `token=False`
        raise InputError("repo", repo_id, "a push needs a token of the Hub (hf auth login, or HF_TOKEN)") from error


def owns(api: HfApi, repo_id: str) -> bool:
    """Return whether a repository belongs to the user, or to one of the user's organizations."""
    user = _user(api, repo_id)
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

    Raises:
        InputError: metadata that cannot be read, or that cannot be kept.
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
    return with_metric(card, repo_id.rpartition("/")[2], metric)

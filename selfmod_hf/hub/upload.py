"""Bringing a folder to the Hub as one commit, which is there or not.

`upload_folder` would make several of it where Xet is installed (a pipeline that commits while it uploads), so the
commit is put together here and given to `create_commit`. An upload that was broken off goes on where it stopped when
the same call is made again: the contents go up before the commit, and the Hub asks only for those it has not (by Xet
chunk by chunk, without Xet file by file); files that are in the repository as they are here are left out of the commit.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import files_of_user
from .license import check_license
from .records import is_of_weights, stale_files

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

logger = logging.getLogger(__name__)

# work in progress, what described former weights, and what would have to be unpickled
# in whatever folder: `*` matches slashes too
LEFT_OUT = [
    "checkpoint-*/*", "*/checkpoint-*/*", "previous-*/*", "*/previous-*/*", "__pycache__/*", "*/__pycache__/*",
    ".*", "*/.*", "*.part", "*.tmp", "*.pyc",
    "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.dill",
]  # fmt: skip
CONFLICT = (409, 412)  # the Hub's answers to a commit whose parent is not the head any more


@dataclass(frozen=True)
class Target:
    """Where to push.

    Attributes:
        repo_id: ``user/name``, or ``name`` in the user's own namespace.
        private: make the repository private, where it is new.
        create_pr: open a pull request instead of writing to the branch.
        revision: branch (made where it is missing) or ``refs/pr/N``; default: main.
        license: identifier of the Hub, such as ``apache-2.0``. Default: what the card on the Hub says, else the
            license of the pretrained backbone, else none.
    """

    repo_id: str
    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        check_license(self.license)
        if self.create_pr and self.revision not in (None, "main"):
            problem = "a pull request is opened against main; leave one of the two out"
            raise InputError("revision", self.revision, problem)


def prepare(api: HfApi, target: Target, repo_type: str) -> str:
    """Make repository and branch where they are missing; returns the repository's full name.

    Raises:
        InputError: asked to be private, but it exists and is public.
    """
    sdk = "gradio" if repo_type == "space" else None
    url = api.create_repo(
        target.repo_id, repo_type=repo_type, private=target.private or None, exist_ok=True, space_sdk=sdk
    )
    if target.private and not api.repo_info(url.repo_id, repo_type=repo_type).private:
        raise InputError("private", url.repo_id, "exists and is public; take another name or change it on the Hub")
    if target.revision is not None and not target.revision.startswith("refs/"):
        api.create_branch(url.repo_id, repo_type=repo_type, branch=target.revision, exist_ok=True)
    return url.repo_id


def head_of(api: HfApi, repo_id: str, target: Target, repo_type: str) -> str | None:
    """The commit to build on. The card is read at this one, so that a person's edit in between is not lost."""
    return api.repo_info(repo_id, repo_type=repo_type, revision=target.revision).sha


def remote_card(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> str:
    """The README.md that is there; empty where there is none."""
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        path = api.hf_hub_download(repo_id, "README.md", repo_type=repo_type, revision=revision)
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        return ""
    return Path(path).read_text(encoding="utf-8")


def selected(files: dict[str, Path]) -> dict[str, Path]:
    """Of files, by their names in the repository, those that are sent."""
    from huggingface_hub.utils import filter_repo_objects

    return {name: files[name] for name in filter_repo_objects(files, ignore_patterns=LEFT_OUT)}


def files_of(folder: Path) -> dict[str, Path]:
    """What is sent of a folder: name in the repository to file."""
    return selected({path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if _is_file(path)})


def _is_file(path: Path) -> bool:
    return not path.is_dir()  # links that lead nowhere too: a file made there would lie elsewhere


def check_links(files: Iterable[Path], folder: Path) -> None:
    """Refuse links out of a folder. In one that a stranger made they would publish files of this machine.

    Raises:
        InputError: names the first.
    """
    from huggingface_hub import constants

    places = [os.path.realpath(place) for place in (folder, constants.HF_HUB_CACHE)]  # downloads are links to the cache
    for file in files:
        if not any(Path(os.path.realpath(file)).is_relative_to(place) for place in places):
            raise InputError("file", str(file), "is a link out of the folder; put the file itself there, or remove it")


def upload(
    api: HfApi, folder: Path, repo_id: str, repo_type: str, target: Target, message: str, parent: str | None
) -> str:
    """Upload a folder as one commit, and return the address of the commit or pull request.

    Args:
        parent: the commit it is built on; the repository must not have moved on (None: wherever it stands).

    Raises:
        InputError: it has moved on.
        ConnectionError: the connection broke off, and stayed so while huggingface_hub tried again.
    """
    info = commit(api, folder, repo_id, repo_type, target, message, parent)
    return str(info.pr_url or info.commit_url)


def commit(
    api: HfApi,
    folder: Path,
    repo_id: str,
    repo_type: str,
    target: Target,
    message: str,
    parent: str | None = None,
    leave_out: Iterable[str] = (),
    description: str | None = None,
) -> CommitInfo:
    """Upload a folder as one commit, like `upload`.

    Files of the repository that hold or describe other weights of the same networks are removed with it.

    Args:
        leave_out: names of files that are not sent.
        description: of the commit, below its message.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    try:
        files = {name: path for name, path in files_of(folder).items() if name not in set(leave_out)}
        outdated = outdated_files(api, repo_id, repo_type, parent or target.revision, files)
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in outdated),
            ],
            repo_type=repo_type,
            commit_message=message,
            commit_description=description,
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=parent,
        )
    except HfHubHTTPError as error:
        if error.response.status_code not in CONFLICT:
            raise
        problem = "the repository was changed meanwhile; give the command again"
        raise InputError("repo", repo_id, problem) from error
    except (httpx.TransportError, RuntimeError) as error:  # huggingface_hub wraps what breaks an LFS upload off
        again = "the same command goes on where this stopped"
        raise ConnectionError(f"{repo_id}: the upload broke off ({error}); {again}") from error


def outdated_files(api: HfApi, repo_id: str, repo_type: str, revision: str | None, files: Iterable[str]) -> list[str]:
    """Return the files of a repository that hold or describe weights which an upload replaces.

    Args:
        revision: of the repository, on which the upload is built.
        files: names of what is uploaded.
    """
    if repo_type != "model":
        return []
    new = set(files)
    networks = {name.removesuffix("config.json") for name in new if name.rpartition("/")[2] == "config.json"}
    outdated = []
    for name in api.list_repo_files(repo_id, repo_type=repo_type, revision=revision):
        folder, file = name[: len(name) - len(name.rpartition("/")[2])], name.rpartition("/")[2]
        if folder in networks and name not in new and is_of_weights(file):
            outdated.append(name)
    return outdated


def push_model(api: HfApi, folder: Path, target: Target) -> list[str]:
    """Push a model's folder with a card made from what the run recorded, and return the address.

    Files that describe other weights than those in the folder are left out, and one line says so.

    Raises:
        InputError: no model of this package, a link out of its folder, or weights that are missing or cannot be read.
    """
    from ..models.loading import load_model
    from .model_folder import facts_of, write_model_card

    # all of this refuses before anything is made on the Hub
    check_links(files_of(folder).values(), folder)
    with files_of_user("folder", folder):
        facts_of(folder, target.repo_id)
        load_model(folder, finite=False)  # one that has diverged is a result too
    if stale := stale_files(folder):
        logger.warning(f"{folder}: left out, because they describe other weights: {', '.join(stale)}")
    repo_id = prepare(api, target, "model")
    head = head_of(api, repo_id, target, "model")
    write_model_card(folder, repo_id, remote_card(api, repo_id, "model", head), license=target.license, api=api)
    info = commit(api, folder, repo_id, "model", target, "Upload self-modeling network", head, leave_out=stale)
    return [str(info.pr_url or info.commit_url)]


def push_space(api: HfApi, folder: Path, target: Target) -> list[str]:
    """A Space's folder as it is: an evaluate module, an app; returns the address.

    Raises:
        InputError: a link out of the folder, or a license.
    """
    if target.license is not None:
        raise InputError("license", target.license, "allowed with models and sweeps; a Space has it in its README.md")
    check_links(files_of(folder).values(), folder)
    repo_id = prepare(api, target, "space")
    head = head_of(api, repo_id, target, "space")
    return [upload(api, folder, repo_id, "space", target, "Upload Space", head)]

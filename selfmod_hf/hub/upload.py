"""Upload a folder to the Hub as one commit, complete or not at all.

huggingface_hub's `upload_folder` makes several commits if Xet is installed, because it commits while it uploads. So the
commit is assembled here and given to `create_commit`. Repeating a call continues an upload that broke off. The contents
are sent before the commit, and the Hub asks only for those it lacks (chunk by chunk with Xet, else file by file). Files
that are already in the repository are left out of the commit.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects, httpx

from ..errors import InputError
from ..files import files_of_user, read_json
from ..models.configuration_self_modeling import is_folder
from ..models.loading import load_model
from ..weights import ADAPTER_SETTINGS, within_network
from .license import check_license
from .model_folder import facts_of, write_model_card
from .own_package import add_to_space, write_install
from .records import is_of_weights, stale_files

logger = logging.getLogger(__name__)

# work in progress, descriptions of former weights, and files that would have to be unpickled, in any folder:
# `*` matches slashes too
LEFT_OUT = [
    "checkpoint-*/*", "*/checkpoint-*/*", "previous-*/*", "*/previous-*/*", "__pycache__/*", "*/__pycache__/*",
    ".*", "*/.*", "*.part", "*.tmp", "*.pyc",
    "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.dill",
]  # fmt: skip
CONFLICT = (409, 412)  # the Hub's answers to a commit on an outdated head


@dataclass(frozen=True)
class Target:
    """Names the repository for a push, and how to push.

    Attributes:
        repo_id: ``user/name``, or ``name`` in the user's own namespace.
        private: make the repository private, if it is new.
        create_pr: open a pull request instead of writing to the branch.
        revision: branch (made if it is missing) or ``refs/pr/N``. Default: main.
        license: identifier of the Hub, such as ``apache-2.0``. Default: the present card's, else the pretrained
            backbone's, else none.
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


@dataclass(frozen=True)
class Repository:
    """Names an existing repository on the Hub.

    Attributes:
        api: of the Hub.
        target: how to push.
        repo_id: ``user/name``.
        kind: "model", "dataset" or "space".
        head: the commit to build on. The card is read at it, so that a later edit is not lost. None: any commit.
    """

    api: HfApi
    target: Target
    repo_id: str
    kind: str = "model"
    head: str | None = None


def open_repository(api: HfApi, target: Target, kind: str) -> Repository:
    """Make repository and branch if they are missing, and return the repository.

    Raises:
        InputError: `private` is true, but the repository exists and is public.
    """
    sdk = "gradio" if kind == "space" else None
    private = target.private or None
    repo_id = api.create_repo(target.repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk=sdk).repo_id
    if target.private and not api.repo_info(repo_id, repo_type=kind).private:
        raise InputError("private", repo_id, "exists and is public; take another name or change it on the Hub")
    if target.revision is not None and not target.revision.startswith("refs/"):
        api.create_branch(repo_id, repo_type=kind, branch=target.revision, exist_ok=True)
    head = api.repo_info(repo_id, repo_type=kind, revision=target.revision).sha
    return Repository(api, target, repo_id, kind, head)


def remote_card(repository: Repository, *, as_it_is: bool = False) -> str:
    """Return the README.md of a repository, or an empty text.

    Args:
        repository: its head is read.
        as_it_is: keep the ends of lines as they are. False: each is a line feed.

    Raises:
        InputError: a file that is not in UTF-8.
    """
    try:
        path = repository.api.hf_hub_download(
            repository.repo_id, "README.md", repo_type=repository.kind, revision=repository.head
        )
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        return ""
    newline = "" if as_it_is else None
    try:
        with open(path, encoding="utf-8", newline=newline) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise InputError("README.md", repository.repo_id, "is not in UTF-8") from error


# ---- the files of a folder ----


def selected(files: dict[str, Path]) -> dict[str, Path]:
    """Return the files to send.

    Args:
        files: name in the repository -> file.
    """
    return {name: files[name] for name in filter_repo_objects(files, ignore_patterns=LEFT_OUT)}


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a folder to send: name in the repository -> file."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_dir():  # links to missing files too, because a file made there would lie elsewhere
            files[path.relative_to(folder).as_posix()] = path
    return selected(files)


def check_links(files: Iterable[Path], folder: Path) -> None:
    """Reject links out of a folder. In a stranger's folder, they would publish files of this machine.

    Raises:
        InputError: names the first.
    """
    places = [os.path.realpath(place) for place in (folder, constants.HF_HUB_CACHE)]  # downloads are links to the cache
    for file in files:
        target = Path(os.path.realpath(file))
        if not any(target.is_relative_to(place) for place in places):
            raise InputError("file", str(file), "is a link out of the folder; put the file itself there, or remove it")


def check_adapters(files: Iterable[Path]) -> None:
    """Reject an adapter of a base that lies on this machine, because nobody else could load it.

    Raises:
        InputError: names the file.
    """
    for file in files:
        if not file.as_posix().endswith(f"/{ADAPTER_SETTINGS}"):
            continue
        base = read_json(file).get("base_model_name_or_path")
        if not isinstance(base, str) or is_folder(base):
            problem = "adapts a folder of this machine; allowed are bases of the Hub, and merged networks (`prune()`)"
            raise InputError("file", str(file), problem)


# ---- the commit ----


def commit(
    repository: Repository,
    folder: Path,
    message: str,
    *,
    leave_out: Iterable[str] = (),
    description: str | None = None,
) -> CommitInfo:
    """Upload a folder as one commit.

    Files of the repository are removed if they hold or describe other weights of the same networks.

    Args:
        repository: the target of the commit.
        folder: the files.
        message: of the commit.
        leave_out: names of files to leave out.
        description: of the commit, below its message.

    Raises:
        InputError: the head of the repository has changed meanwhile.
        ConnectionError: the connection broke off, and did not return while huggingface_hub tried again.
    """
    files = files_of(folder)
    for name in leave_out:
        files.pop(name, None)
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for name, path in files.items():
        operations.append(CommitOperationAdd(name, path))
    with one_answer(repository):
        for name in outdated_files(repository, files):
            operations.append(CommitOperationDelete(name))
        return send(repository, operations, message, description)


def send(
    repository: Repository,
    operations: list[CommitOperationAdd | CommitOperationDelete],
    message: str,
    description: str | None = None,
) -> CommitInfo:
    """Make one commit of operations, complete or not at all.

    Args:
        repository: the target of the commit.
        operations: files that are added or removed.
        message: of the commit.
        description: of the commit, below its message.

    Raises:
        InputError: the head of the repository has changed meanwhile.
        ConnectionError: the connection broke off, and did not return while huggingface_hub tried again.
    """
    target = repository.target
    with one_answer(repository):
        return repository.api.create_commit(
            repository.repo_id,
            operations,
            repo_type=repository.kind,
            commit_message=message,
            commit_description=description,
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=repository.head,
        )


@contextmanager
def one_answer(repository: Repository) -> Iterator[None]:
    """Turn a changed repository and a lost connection into errors that say what to do.

    Raises:
        InputError: the head of the repository has changed meanwhile.
        ConnectionError: the connection broke off.
    """
    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code not in CONFLICT:
            raise
        problem = "the repository was changed meanwhile; give the command again"
        raise InputError("repo", repository.repo_id, problem) from error
    except (httpx.TransportError, RuntimeError) as error:  # huggingface_hub wraps the errors of an LFS upload
        again = "the same command goes on where this stopped"
        raise ConnectionError(f"{repository.repo_id}: the upload broke off ({error}); {again}") from error


def outdated_files(repository: Repository, files: Iterable[str]) -> list[str]:
    """Return the files of a repository with the weights before an upload, or with records of them.

    Args:
        repository: the target of the upload.
        files: names of the uploaded files.
    """
    if repository.kind != "model":
        return []
    new = set(files)
    networks = set()
    for name in new:
        folder, _, file = name.rpartition("/")
        if file == "config.json":
            networks.add(folder)
    outdated = []
    revision = repository.head or repository.target.revision
    for name in repository.api.list_repo_files(repository.repo_id, repo_type="model", revision=revision):
        folder, file = within_network(name)
        if folder in networks and name not in new and is_of_weights(file):
            outdated.append(name)
    return outdated


def address_of(info: CommitInfo) -> str:
    """Return the address of a commit, or of its pull request."""
    return str(info.pr_url or info.commit_url)


# ---- models and Spaces ----


def push_model(api: HfApi, folder: Path, target: Target) -> list[str]:
    """Push a model's folder with a card made from its records, and return the address.

    Records of other weights than those in the folder are left out, and one line of the log names them.

    Raises:
        InputError: no model of this package, a link out of its folder, or missing or unreadable weights.
    """
    # all checks come before the first change on the Hub
    check_links(files_of(folder).values(), folder)
    check_adapters(files_of(folder).values())
    with files_of_user("folder", folder):
        facts_of(folder, target.repo_id)
        load_model(folder, finite=False)  # a network that has diverged is a result too
    stale = stale_files(folder)
    if stale:
        logger.warning(f"{folder}: left out, because they describe other weights: {', '.join(stale)}")
    repository = open_repository(api, target, "model")
    write_model_card(folder, repository.repo_id, remote_card(repository), license=target.license, api=api)
    return [address_of(commit(repository, folder, "Upload self-modeling network", leave_out=stale))]


def push_space(api: HfApi, folder: Path, target: Target) -> list[str]:
    """Push a Space's folder (an evaluate module, or an app), and return the address.

    The package itself is on no index. If requirements.txt names it, its sources, a wheel and its requirements are
    pushed with the folder.

    Raises:
        InputError: a link out of the folder, a license, or a package that is not installed.
    """
    if target.license is not None:
        raise InputError("license", target.license, "allowed with models and sweeps; a Space has it in its README.md")
    files = files_of(folder)
    check_links(files.values(), folder)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for name, path in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staged / name)
        extras = add_to_space(staged)
        repository = open_repository(api, target, "space")
        if extras is not None:
            write_install(staged, f"{api.endpoint}/spaces/{repository.repo_id}/resolve/main", extras)
        return [address_of(commit(repository, staged, "Upload Space"))]

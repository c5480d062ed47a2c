"""Push a network in memory together with all its files: `model.push_to_hub`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import filter_repo_objects

from ..errors import InputError
from ..files import read_json
from ..json_records import NetworkRun
from ..models import image_processing_self_modeling
from ..weights import KEY, state_digest, weights_sha256
from .companions import write_json
from .download import fetch
from .model_folder import write_model_card
from .records import DERIVED_FILES, RECORDS, RUN_FILE, stale_files
from .upload import Target, check_adapters, commit, files_of, open_repository, remote_card

# of an image processor, of a tokenizer (`*.model`: SentencePiece's)
PROCESSOR_FILES = (
    "preprocessor_config.json", "processor_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json",
    "vocab*", "merges.txt", "*.model",
)  # fmt: skip
# describe a network and its training
RECORD_FILES = (*RECORDS, *DERIVED_FILES, "training_args.json", "README.md")
# arguments of `save_pretrained(push_to_hub=True)`: the first go to `push_network` alone, the others to both
PUSHING = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags", "license")
SHARED = ("token", "max_shard_size")
NOT_PUSHED = ("state_dict", "variant")  # of `save_pretrained`: other weights, or other names of files


def split_arguments(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `save_pretrained` and those of `push_network`, from those of a call of both.

    Args:
        given: by name, `save_directory` among them.

    Raises:
        InputError: an argument of NOT_PUSHED, because the pushed network has its own weights and file names.
    """
    for name in NOT_PUSHED:
        if given.get(name) is not None:
            raise InputError(name, "given", "allowed without push_to_hub=True, which sends the network's own weights")
    saving = {name: value for name, value in given.items() if name not in PUSHING}
    pushing = {"repo_id": Path(given["save_directory"]).name}
    for name in (*PUSHING, *SHARED):
        if name in given:
            pushing[name] = given[name]
    return saving, pushing


def push_network(  # noqa: PLR0913 - the arguments of transformers' push_to_hub
    model: Any,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = "50GB",
    tags: Sequence[str] | None = None,
    license: str | None = None,
) -> CommitInfo:
    """Push a network with its processor, run.json and the package's card, as one commit.

    Args:
        model: a network of this package.
        repo_id: ``user/name``.
        license: identifier of the Hub. Default: the run's, else the present card's, else the pretrained backbone's.
        commit_message, commit_description, private, token, revision, create_pr, max_shard_size, tags: as for
            `transformers.PreTrainedModel.push_to_hub`.

    Raises:
        InputError: `private` is true, but the repository exists and is public. Or `license` is no identifier.
        HfHubHTTPError, OSError: the Hub rejects the request, or cannot be reached.
    """
    target = Target(repo_id, bool(private), create_pr, revision, license)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        check_adapters(files_of(folder).values())
        add_companions(model, folder)
        repository = open_repository(api, target, "model")
        own_tags = [*(model.model_tags or ()), *(tags or ())]
        card = remote_card(repository)
        write_model_card(folder, repository.repo_id, card, license=license, tags=own_tags, api=api)
        message = commit_message or "Upload self-modeling network"
        return commit(repository, folder, message, description=commit_description)


def add_companions(model: Any, folder: Path) -> None:
    """Write the known files beside a network's weights.

    Args:
        model: the network.
        folder: holds its weights.
    """
    if model.companions is not None:
        model.companions.write_all(folder, state_digest(model.state_dict()))
        return
    if not model.loaded_from:
        return
    source = _source(**model.loaded_from)
    if source is None:
        return
    has_same_weights = weights_sha256(source) == weights_sha256(folder)
    wanted = list(PROCESSOR_FILES)
    if has_same_weights:
        wanted += RECORD_FILES
    present = sorted(path.name for path in source.iterdir() if path.is_file())
    outdated = stale_files(source)
    for name in filter_repo_objects(present, allow_patterns=wanted):
        if name not in outdated:
            shutil.copy(source / name, folder / name)
    _add_code(folder)
    run_file = source / RUN_FILE
    if not has_same_weights and run_file.is_file():  # the task is the same, but not the measurements
        content = NetworkRun.read(run_file).to_dict()
        for name in (KEY, "results", "epoch"):
            content.pop(name, None)
        write_json(folder / RUN_FILE, content)


def _add_code(folder: Path) -> None:
    """Write the code of the package's own image processor beside its settings. Other code is not copied."""
    settings = folder / "preprocessor_config.json"
    code = Path(image_processing_self_modeling.__file__)
    if not settings.is_file():
        return
    if read_json(settings).get("image_processor_type") == "SelfModelingImageProcessor":
        shutil.copy(code, folder / code.name)


def _source(name: str, revision: str, subfolder: str) -> Path | None:
    """Return the folder of a network that was loaded. For a repository it is the cached one. None: it is gone."""
    if Path(name).is_dir():
        return Path(name, subfolder)
    patterns = ["*.safetensors*", *PROCESSOR_FILES, *RECORD_FILES]
    if subfolder:
        patterns = [f"{subfolder}/{pattern}" for pattern in patterns]
    try:
        return fetch(name, patterns, revision=revision) / subfolder
    except (HfHubHTTPError, HFValidationError, OSError):
        return None

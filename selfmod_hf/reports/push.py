"""Push a network, a complete sweep or a Space to the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi

from ..errors import InputError
from ..hub.upload import Target, push_model, push_space
from .on_hub import push_sweep


def push(  # noqa: PLR0913 - public, options by keyword only
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    license: str | None = None,
    api: HfApi | None = None,
) -> list[str]:
    """Push a folder to the Hub: a network's, a sweep's or a Space's.

        push("runs/sweep-digits", "me/digits")

    Args:
        folder: of a network (it has config.json), a sweep (cells/) or a Space (app.py and README.md).
        repo_id: ``user/name``, or ``name`` in your own namespace. A sweep becomes a model and a data set of that name.
        private: make new repositories private.
        create_pr: open a pull request in place of writing to the branch.
        revision: branch to write to, made if it is missing, or ``refs/pr/N``. Default: main.
        license: in the cards, an identifier of the Hub such as ``apache-2.0``. Default: the run's own, else the present
            card's, else the pretrained backbone's, else none.
        api: client of the Hub. Default: ``HfApi()``.

    Returns:
        The addresses of the commits or pull requests.

    Raises:
        InputError: a folder of another kind, or one whose files cannot be pushed.
        ConnectionError: the connection broke off.
    """
    folder = Path(folder)
    target = Target(repo_id, private, create_pr, revision, license)
    client = api or HfApi()
    if (folder / "cells").is_dir():
        return push_sweep(client, folder, target)
    if (folder / "config.json").is_file():
        return push_model(client, folder, target)
    if (folder / "app.py").is_file() and (folder / "README.md").is_file():
        return push_space(client, folder, target)
    allowed = "allowed are folders of a model (config.json), a sweep (cells/) or a Space (app.py, README.md)"
    raise InputError("folder", str(folder), allowed)

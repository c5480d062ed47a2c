"""`selfmod push FOLDER --repo me/x`: a model, a whole sweep or a Space to the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..experiments.setting import setting
from .arguments import make_parser, parse, quieten
from .usage_errors import UsageError, hub_in_one_line


@dataclass
class PushArguments:
    """Flags of the command."""

    folder: str | None = setting(
        "Folder of a trained model, of `selfmod sweep`, or of a Space; may be given without the flag's name."
    )
    repo: str | None = setting("Repository, user/name. A sweep becomes a model and a data set of this name.")
    private: bool = setting("Make new repositories private.", default=False)
    create_pr: bool = setting("Open a pull request instead of writing to the branch.", default=False)
    revision: str | None = setting("Branch to write to (it is made if it is missing), or refs/pr/N; default: main.")
    license: str | None = setting(
        "License in the cards, by the Hub's identifier (apache-2.0, mit, ...); default: the run's own, else that of "
        "the card on the Hub, else that of the pretrained backbone, else none."
    )
    quiet: bool = setting("No progress: the addresses only.", default=False)


def flag_classes() -> tuple[type, ...]:
    """Return the dataclasses of this command's flags."""
    return (PushArguments,)


def run(argv: Sequence[str]) -> None:
    """Push, and print the addresses.

    Raises:
        UsageError: unusable input, a rejection by the Hub, or a lost connection.
    """
    (args,) = parse(make_parser("push", *flag_classes()), argv, positional="folder")
    quieten(args.quiet)
    for name in ("folder", "repo"):
        if getattr(args, name) is None:
            raise UsageError(f"--{name}=None: must be given (selfmod push FOLDER --repo user/name)")
    with hub_in_one_line(f"--repo {args.repo}"):
        from huggingface_hub.utils import disable_progress_bars

        from ..reports.push import push

        if args.quiet:
            disable_progress_bars()
        addresses = push(
            args.folder,
            args.repo,
            private=args.private,
            create_pr=args.create_pr,
            revision=args.revision,
            license=args.license,
        )
    print("\n".join(addresses))

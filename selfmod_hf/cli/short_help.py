"""The help of a command on one screen: the flags that one needs, in groups, a line each. `--help all` has the rest."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WIDTH = 110
COLUMN = 33  # where the texts begin
Groups = Mapping[str, Sequence[str]]

_OWN_DATA = (
    "dataset_name", "image_column", "image_size", "text_column", "max_length", "label_column", "test_fraction",
    "max_train_samples",
)  # fmt: skip
_DATA = ("task", *_OWN_DATA)
_NETWORK = ("backbone", "backbone_name", "head", "hidden_sizes", "freeze", "lora_r")
_SELF_MODEL = ("target_layers", "aux_weight", "detach_targets", "target_source")
_TRAINING = (
    "num_train_epochs", "learning_rate", "lr_scheduler_type", "optim", "weight_decay", "train_batch_size",
    "gradient_accumulation_steps", "mixed_precision", "augment", "seed",
)  # fmt: skip
_SAMPLING = ("rlct_preset", "sampler", "step_size", "localization", "nbeta", "num_chains", "num_draws", "batch_size")
_RUN = {"Data": _DATA, "Network": _NETWORK, "Self-model": _SELF_MODEL, "Training": _TRAINING}

# command -> title of a group -> its flags. A command that is not here shows all of its flags.
SHOWN: Mapping[str, Groups] = {
    "train": {
        **_RUN,
        "Measured": ("metrics", "rlct_every_n_epochs", "load_best_model_at_end", "early_stopping_patience"),
        "Run": (
            "config", "output_dir", "resume_from_checkpoint", "report_to", "push_to_hub", "hub_model_id",
            "num_processes", "accelerate_config", "quiet",
        ),
    },
    "sweep": {
        "Study": ("recipe", "aux_weights", "seeds", "grid", "baseline", "measures", "num_chains", "num_draws"),
        "Data": _OWN_DATA,
        "Network": ("backbone", "backbone_name", "head", "hidden_sizes", "target_layers"),
        "Training": ("num_train_epochs", "learning_rate", "optim", "weight_decay", "train_batch_size"),
        "Run": ("config", "output_dir", "dry_run", "on", "members_per_population", "report_to", "quiet"),
    },
    "tune": {
        "Search": ("trials", "space", "keep_accuracy", "give_up_below", "num_chains", "num_draws"),
        "Data": _DATA,
        "Network": ("backbone", "backbone_name", "head", "hidden_sizes", "target_layers", "aux_weight"),
        "Training": ("num_train_epochs", "learning_rate", "optim", "weight_decay", "train_batch_size", "seed"),
        "Run": ("config", "output_dir", "storage", "stack", "quiet"),
    },
    "rlct": {
        "Network": ("model", "revision", "subfolder", "checkpoints", "parameters", "heads"),
        "Data (default: as in its training)": ("dataset_name", "text_column", "label_column", "max_train_samples"),
        "Sampling": (*_SAMPLING, "num_burnin_steps", "target_standard_error", "minimize", "seed"),
        "Modes": ("calibrate", "self_test", "benchmark"),
        "Run": ("output_dir", "resume_from", "push_result", "repo", "device", "quiet"),
    },
}  # fmt: skip


def add_help(parser: argparse.ArgumentParser, command: str) -> None:
    """Add `--help` and `--help all` to a command's parser."""

    class Help(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
            _, values, _ = given
            if values not in (None, "all"):
                parser.error(f"--help={values}: allowed are --help and --help all")
            everything = values == "all" or command not in SHOWN
            print(parser.format_help() if everything else "\n".join(short_help(parser, command)))
            parser.exit()

    parser.add_argument(
        "-h", "--help", nargs="?", action=Help, default=argparse.SUPPRESS, metavar="all", help="this help"
    )  # fmt: skip


def short_help(parser: argparse.ArgumentParser, command: str) -> Iterator[str]:
    """Yield the lines of the short help of a command."""
    actions: dict[str, argparse.Action] = {}
    for action in parser._actions:
        actions.setdefault(action.dest, action)  # the first of --x and --no_x
    yield f"usage: selfmod {command} [--flag value ...]"
    for title, names in SHOWN[command].items():
        yield ""
        yield title
        for name in names:
            yield _line(actions[name])
    yield ""
    if command != "rlct":
        yield "The recipe of a task comes before these defaults, and --config and typed flags before the recipe."
    yield f"selfmod {command} --help all explains every flag ({len(actions) - 1})."


def _line(action: argparse.Action) -> str:
    """Return a flag and the begin of its help."""
    flag = f"  {action.option_strings[0]}"
    text = " ".join((action.help or "").split()) % vars(action)
    text, mark, default = text.partition(" (default: ")
    if default in (")", "False)"):  # says nothing
        mark, default = "", ""
    first = re.split(r"\. (?=[A-Z])", text)[0]
    room = WIDTH - COLUMN - len(mark + default)
    return f"{flag:{COLUMN}}{textwrap.shorten(first, room, placeholder=' ...')}{mark}{default}"

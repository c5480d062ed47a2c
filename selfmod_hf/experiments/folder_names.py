"""The output folder of a run: its default, and whether it can be written to."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

# fields that only make a name longer if they differ from the recipe and the defaults
NAMED_IF_CHANGED = (
    "target_source", "target_normalization", "activation_penalty", "weight_decay", "weight_decay_parameters",
    "stop_at_train_loss", "early_stopping_patience", "freeze", "head", "task_type", "problem_type", "block_size",
    "feature_layer", "hidden_activation", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
)  # fmt: skip
LONGEST = 40  # characters of such a value
# a local path in a value, and what follows it: absolute, from a home folder, from ".", or of three and more parts
_PATH = re.compile(r"""(?:^|(?<=network:)|(?<=[=,;"'\s\[{(]))((?:~[^/]*|\.{1,2})?/|(?:[^/\s:]+/){2,}).*""", re.DOTALL)


def default_folder(args: Any, changed: Mapping[str, Any] | None = None) -> str:
    """Return the default output folder of a run. It names data, network, self-model weight and seed.

    Args:
        args: all settings of the run, as attributes.
        changed: further fields that it names, with their values.
    """
    parts = [_data_name(args), *_backbone_name(args)]
    if args.hidden_sizes:
        parts.append("h" + "x".join(map(str, args.hidden_sizes)))
    weight = f"aw{args.aux_weight:g}"
    parts.append(weight if args.detach_targets else f"{weight}-attached")
    for name, value in (changed or {}).items():
        parts.append(f"{name}_{text_of_value(value)}")
    parts.append(f"seed{args.seed}")
    return str(Path("runs", _without_special("-".join(parts))))


def sweep_folder(recipe: str | None, run: Any) -> str:
    """Return the default folder of a sweep. It names the recipe, or else the data and the backbone.

    Args:
        recipe: its name. None: networks of the user's own.
        run: settings of all networks.
    """
    if recipe is not None:
        return f"runs/sweep-{recipe}"
    parts = ["sweep", _data_name(run.data), *_backbone_name(run.network)]
    return str(Path("runs", _without_special("-".join(parts))))


def _backbone_name(args: Any) -> list[str]:
    """Return the name of a backbone of the user's own, or an empty list."""
    backbone = args.backbone_name
    if backbone is None and args.backbone not in (None, "mlp", "embedding_bag"):
        backbone = args.backbone
    parts = []
    if backbone is not None:
        parts.append(_name_of(backbone.removeprefix("timm/")))
    if args.backbone_config is not None:
        parts.append(_short_hash(str(args.backbone_config)))
    return parts


def _data_name(args: Any) -> str:
    parts = [args.task, args.dataset_config]
    if args.dataset_name is not None:
        parts.insert(1, _name_of(args.dataset_name))
    elif args.task is None:
        parts.insert(0, "digits")
    return "-".join(filter(None, parts))


def _name_of(place: str) -> str:
    """Return a name for a repository of the Hub or a local path. Those of the same last name get different ones."""
    if not Path(place).exists():
        return place.replace("/", "--")
    path = Path(place).resolve()
    return f"{path.name}-{_short_hash(str(path))}"


def text_of_value(value: Any) -> str:
    """Return a value as a part of a name, of a local path the last part. Different values get different texts.

    Example:
        >>> text_of_value("network:/home/ann/private/teacher")
        'network_teacher-0ab4a9'
    """
    text = str(value)
    safe = _without_special(_PATH.sub(lambda found: Path(found[0]).name, text))
    if safe == text and len(text) <= LONGEST:
        return text
    return f"{safe[-LONGEST:]}-{_short_hash(text)}"


def _without_special(text: str) -> str:
    return re.sub(r"[^\w.+-]", "_", text)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def check_output_dir(folder: str | Path | None, field: str = "output_dir") -> None:
    """Check whether a folder can be made and written to.

    Args:
        folder: the folder. None, a default, is accepted.
        field: the setting, for errors.

    Raises:
        InputError: the folder cannot be written to.
    """
    if folder is None:
        return
    if "\0" in str(folder):
        raise InputError(field, str(folder), "allowed are names without a null character")
    try:
        place = Path(folder)
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise InputError(field, str(folder), f"cannot be written to ({place} is no folder)")
        with tempfile.TemporaryFile(dir=place):  # because permissions say too much for root, or over a network
            pass
    except OSError as error:
        raise InputError(field, str(folder), f"cannot be written to ({error.strerror})") from error

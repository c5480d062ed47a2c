"""The output folder of a run for which none is given."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any


def default_folder(args: Any) -> str:
    """Return the output folder of a run for which none is given. It names data, network, self-model weight and seed.

    Args:
        args: all flags of the run, by name.
    """
    parts = [_data_name(args)]
    backbone = args.backbone_name or (args.backbone if args.backbone not in (None, "mlp", "embedding_bag") else None)
    if backbone is not None:
        parts.append(_name_of(backbone.removeprefix("timm/")))
    if args.backbone_config is not None:
        parts.append(_short_hash(args.backbone_config))
    if args.hidden_sizes:
        parts.append("h" + "x".join(map(str, args.hidden_sizes)))
    parts.append(f"aw{args.aux_weight:g}" + ("" if args.detach_targets else "-attached"))
    parts.append(f"seed{args.seed}")
    return str(Path("runs", re.sub(r"[^\w.+-]", "_", "-".join(parts))))


def _data_name(args: Any) -> str:
    parts = [args.task, args.dataset_config]
    if args.dataset_name is not None:
        parts.insert(1, _name_of(args.dataset_name))
    elif args.task is None:
        parts.insert(0, "digits")
    return "-".join(part for part in parts if part is not None)


def _name_of(place: str) -> str:
    """Return a name for a repository of the Hub or a local path. Those of the same last name get different ones."""
    if not Path(place).exists():
        return place.replace("/", "--")
    path = Path(place).resolve()
    return f"{path.name}-{_short_hash(str(path))}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]

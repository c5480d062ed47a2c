"""Which checkpoints can be resumed from: a run that was killed may have left one half-written."""

from __future__ import annotations

import json
from pathlib import Path


def is_whole(checkpoint: str | Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer's state is the last of its files."""
    try:
        json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def whole_checkpoints(folder: str | Path) -> list[str]:
    """Each `checkpoint-<step>` in `folder` that was written to its end, by step."""
    steps = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in Path(folder).glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal() and is_whole(path)
    }
    return [str(path) for _, path in sorted(steps.items())]


def newest_whole_checkpoint(folder: str | Path) -> str | None:
    """The last of `whole_checkpoints`, or None."""
    found = whole_checkpoints(folder)
    return found[-1] if found else None

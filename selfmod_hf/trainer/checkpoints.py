"""Which checkpoints can be resumed from, and how their weights are loaded.

A run that was killed may have left a checkpoint half-written. transformers' own Trainer loads weights with
`strict=False`: what a checkpoint lacks stays as it was drawn. Here every weight must come back.
"""

from __future__ import annotations

import importlib
import json
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.constants import FSDP_MODEL_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from ..files import entries_of, read_json


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


def check_not_pickled(checkpoint: str | Path) -> None:
    """Raise an error if a checkpoint's weights would be unpickled.

    Raises:
        ValueError: the name of the file.
    """
    for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        if Path(checkpoint, name).is_file():
            raise ValueError(f"holds {name}, which would be unpickled; allowed are weights in safetensors")


def load_weights(model: nn.Module, checkpoint: str | Path, *, assign: bool = False) -> None:
    """Load the weights of a checkpoint into a network or a population.

    Args:
        model: is changed in place. It keeps its device and the types of its weights.
        checkpoint: a folder with ``model.safetensors``, or with its parts and their index.
        assign: take the stored tensors themselves, on the CPU, with their own types.

    Raises:
        ValueError: there are no such weights, they cannot be read, they are not the model's, or they are of a wider
            type, so that they would be rounded; a checkpoint of a sharded training, whose optimizer has another form.
    """
    if sharded := sorted(path.name for path in Path(checkpoint).glob(f"{FSDP_MODEL_NAME}*")):
        raise ValueError(
            f"holds {sharded[0]}, of a sharded training (FSDP); allowed are checkpoints of other trainings"
        )
    stored = read_weights(Path(checkpoint))
    theirs, own = _widest_type(stored), _widest_type(model.state_dict())
    if not assign and torch.promote_types(theirs, own) != own:
        raise ValueError(f"holds weights of {theirs}, which would be rounded to the network's {own}")
    try:
        model.load_state_dict(stored, assign=assign)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:300]
        raise ValueError(f"holds another network ({problem})") from error


def load_adapters(model: Any, checkpoint: str | Path) -> None:
    """Load the weights of every adapter. PEFT would leave what is missing as it was drawn.

    transformers would leave an adapter of a name of its own as it is where the best model is loaded.

    Args:
        model: a `peft.PeftModel`, changed in place.
        checkpoint: a folder that the Trainer wrote.

    Raises:
        ValueError: an adapter's weights cannot be read, or they are not the model's.
    """
    peft = importlib.import_module("peft")  # whoever has such a model has installed it
    for name in model.peft_config:
        folder = Path(checkpoint) if name == "default" else Path(checkpoint, name)
        stored = _read_files([folder / ADAPTER_SAFE_WEIGHTS_NAME])
        own = peft.get_peft_model_state_dict(model, adapter_name=name)
        if different := sorted(stored.keys() ^ own.keys()):
            raise ValueError(f"holds another adapter ({different[0]}, {len(different)} in all)")
        peft.set_peft_model_state_dict(model, stored, adapter_name=name)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a folder by their names, from one file or from all parts of an index."""
    files, index = [folder / SAFE_WEIGHTS_NAME], folder / SAFE_WEIGHTS_INDEX_NAME
    if not files[0].is_file() and index.is_file():
        with entries_of(index):
            names = set(read_json(index)["weight_map"].values())
            files = [folder / Path(name).name for name in sorted(names)]
    return _read_files(files)


def _read_files(files: list[Path]) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            weights |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file.name} cannot be read ({error})") from error
    return weights


def _widest_type(weights: dict[str, torch.Tensor]) -> torch.dtype:
    """Return the type that holds all of these numbers, integers left out."""
    types = [value.dtype for value in weights.values() if value.is_floating_point()]
    return reduce(torch.promote_types, types) if types else torch.float16

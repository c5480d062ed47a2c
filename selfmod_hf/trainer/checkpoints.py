"""The weights in files: complete checkpoints, their loading, and the SHA-256 of a network's weights.

A killed run may have left an incomplete checkpoint. transformers' own Trainer loads weights with `strict=False`, so
missing weights keep their random values. Here every weight must be in the file.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils.constants import FSDP_MODEL_NAME
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    logging,
)

from ..files import entries_of, read_json
from ..weights import state_digest, weights_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel

State = dict[str, torch.Tensor]  # weights by name

# ---- complete checkpoints ----


def is_complete(checkpoint: str | Path) -> bool:
    """Return whether a checkpoint is complete. The Trainer's state is the last of its files."""
    try:
        text = Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8")
        json.loads(text)
    except (OSError, ValueError):
        return False
    return True


def complete_checkpoints(folder: str | Path) -> list[str]:
    """Return each complete `checkpoint-<step>` in `folder`, by step.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "checkpoint-10").mkdir()
        ...     complete_checkpoints(folder)  # it has no trainer_state.json
        []
    """
    by_step = {}
    for path in Path(folder).glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if step.isdecimal() and is_complete(path):
            by_step[int(step)] = str(path)
    return [by_step[step] for step in sorted(by_step)]


def newest_complete_checkpoint(folder: str | Path) -> str | None:
    """Return the last of `complete_checkpoints`, or None."""
    found = complete_checkpoints(folder)
    if not found:
        return None
    return found[-1]


# ---- loading ----


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
        ValueError: the weights are missing, cannot be read, or are not the model's. They are of a wider type, so they
            would be rounded. The checkpoint is of a sharded training, and its optimizer has another form.
    """
    sharded = sorted(Path(checkpoint).glob(f"{FSDP_MODEL_NAME}*"))
    if sharded:
        name = sharded[0].name
        raise ValueError(f"holds {name}, of a sharded training (FSDP); allowed are checkpoints of other trainings")
    stored = read_weights(Path(checkpoint))
    stored |= _tied(model, stored)
    theirs = _widest_type(stored)
    own = _widest_type(model.state_dict())
    if not assign and torch.promote_types(theirs, own) != own:
        raise ValueError(f"holds weights of {theirs}, which would be rounded to the network's {own}")
    try:
        model.load_state_dict(stored, assign=assign)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:300]
        raise ValueError(f"holds another network ({problem})") from error


def _tied(model: nn.Module, stored: State) -> State:
    """Return weights that a file holds by one name only, by their other names in the network."""
    names: dict[int, str] = {}
    found = {}
    own = model.state_dict(keep_vars=True)  # the parameters themselves, which tied weights share
    for name, parameter in own.items():
        if name in stored:
            names[id(parameter)] = name
    for name, parameter in own.items():
        if name not in stored and id(parameter) in names:
            found[name] = stored[names[id(parameter)]]
    return found


def load_adapters(model: Any, checkpoint: str | Path) -> None:
    """Load the weights of every adapter.

    PEFT would leave missing weights unchanged. transformers would ignore an adapter with its own name when it loads
    the best model.

    Args:
        model: a `peft.PeftModel`, changed in place.
        checkpoint: a folder of the Trainer.

    Raises:
        ValueError: an adapter's weights cannot be read, or they are not the model's.
    """
    peft = importlib.import_module("peft")  # it is installed, because the model is of it
    for name in model.peft_config:
        folder = Path(checkpoint)
        if name != "default":
            folder = folder / name
        stored = _read_files([folder / ADAPTER_SAFE_WEIGHTS_NAME])
        own = peft.get_peft_model_state_dict(model, adapter_name=name)
        different = sorted(stored.keys() ^ own.keys())
        if different:
            raise ValueError(f"holds another adapter ({different[0]}, {len(different)} in all)")
        peft.set_peft_model_state_dict(model, stored, adapter_name=name)


def read_weights(folder: Path) -> State:
    """Return the weights in a folder by their names, from one file or from all parts of an index."""
    single = folder / SAFE_WEIGHTS_NAME
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if single.is_file() or not index.is_file():
        return _read_files([single])
    with entries_of(index):
        names = set(read_json(index)["weight_map"].values())
        files = [folder / Path(name).name for name in sorted(names)]
    return _read_files(files)


def _read_files(files: list[Path]) -> State:
    weights: State = {}
    for file in files:
        try:
            weights |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file.name} cannot be read ({error})") from error
    return weights


def _widest_type(weights: State) -> torch.dtype:
    """Return the smallest type for all of these numbers, integers left out."""
    types = [value.dtype for value in weights.values() if value.is_floating_point()]
    if not types:
        return torch.float16
    return reduce(torch.promote_types, types)


# ---- the SHA-256 of weights ----


def saved_sha256(model: PreTrainedModel) -> str | None:
    """Return the SHA-256 of a network's weights in a file.

    A network with the unchanged weights of a folder or of the Hub's cache has their SHA-256. Any other network has the
    SHA-256 of the file of `save_pretrained`.
    """
    source = _source_of(model)
    if source is not None and source.is_dir():
        try:
            stored = read_weights(source)
        except ValueError:  # the folder has no weights any more
            stored = {}
        if stored and state_digest(stored) == state_digest(_same_names(model, stored)):
            return weights_sha256(source)
    with tempfile.TemporaryDirectory() as folder:
        with _without_bars():
            model.save_pretrained(folder)
        return weights_sha256(folder)


def _source_of(model: PreTrainedModel) -> Path | None:
    """Return the folder that a network was read from, or None."""
    if getattr(model, "loaded_from", None):
        return Path(model.loaded_from["name"], model.loaded_from["subfolder"])
    name = model.name_or_path
    if not name or Path(name).is_dir():
        return Path(name) if name else None
    try:
        cached = try_to_load_from_cache(name, SAFE_WEIGHTS_NAME)
    except ValueError:  # no id of a repository
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _same_names(model: PreTrainedModel, stored: State) -> State:
    """Return a network's weights, without further names of the tied ones that no file holds."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    state = model.state_dict()
    for name in tied:
        if name not in stored:
            state.pop(name, None)
    return state


@contextmanager
def _without_bars() -> Iterator[None]:
    """Write files without transformers' progress bars."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

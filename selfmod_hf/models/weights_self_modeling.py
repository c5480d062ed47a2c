"""Weights of self-modeling networks: their names in files, and checks of complete files.

A copy of this file travels with every pushed model, like the model's own.
"""

import os
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .losses_self_modeling import Tensors

NEW_HEAD = {"self_model_head.weight", "self_model_head.bias"}


def use_own_names(model: Any, state_dict: Tensors, prefix: str, *_: Any) -> None:
    """Rename weights to the model's own names before they are loaded.

    transformers writes some encoders under the names of its older versions (ViT, DeiT, BEiT, DINOv2, Swin, ...), and
    only `from_pretrained` renames them. `load_state_dict` alone would find none of their weights. This function is a
    hook of `nn.Module.register_load_state_dict_pre_hook`.

    Args:
        model: a self-modeling network.
        state_dict: the weights, changed in place. Correct names stay.
        prefix: beginning of each name, for a network within another module.
    """
    given = {name.removeprefix(prefix): value for name, value in state_dict.items()}
    own_names = model.state_dict().keys()
    if given.keys() <= own_names:
        return
    renamed = _renamed(model, given)
    state_dict.clear()
    for name, value in renamed.items():
        state_dict[prefix + name] = value


def _renamed(model: Any, given: Tensors) -> Tensors:
    """Return the weights with the names of `from_pretrained`. Other weights stay, for torch to report."""
    types = [value.dtype for value in given.values() if value.is_floating_point()]
    if not types:
        types = [torch.float32]
    widest = reduce(torch.promote_types, types)  # no value is rounded
    with torch.random.fork_rng(devices=[]):  # missing weights are drawn, and thrown away below
        twin, info = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=given,
            dtype=widest,
            output_loading_info=True,
        )
    found = twin.state_dict()
    for name in info["missing_keys"]:
        found.pop(name, None)
    for name, shape, _ in info["mismatched_keys"]:
        found[name] = torch.empty(shape, device="meta")
    for name in info["unexpected_keys"]:
        found[name] = torch.empty(0)
    return found


def check_weights(info: Mapping[str, Any], where: str | Path, *, ignore_mismatched_sizes: bool = False) -> None:
    """Raise an error if weights were missing, left over, or of other shapes when a network was loaded.

    Args:
        info: second result of `from_pretrained` with `output_loading_info`.
        where: the file, for the error.
        ignore_mismatched_sizes: accept other shapes.

    Raises:
        ValueError: the first wrong name, and the number of wrong names.
    """
    problems = ["missing", "unexpected"]
    if not ignore_mismatched_sizes:
        problems.append("mismatched")
    for problem in problems:
        names = info[f"{problem}_keys"]
        if names:
            first = min(map(str, names))
            raise ValueError(f"{where}: does not fit config.json ({problem}: {first}, {len(names)} in all)")


def check_loaded(
    config_class: Any,
    name: Any,
    place: dict[str, Any],
    info: Mapping[str, Any],
    *,
    ignore_mismatched_sizes: bool = False,
) -> None:
    """Raise an error unless a network has all its weights. Only the new head of a stored baseline may be drawn.

    Args:
        config_class: class of the network's configuration.
        name: the network's folder or repository. None: the weights were in memory.
        place: further arguments for its place, such as `revision`.
        info: names of weights, as `from_pretrained` returns them with `output_loading_info`.
        ignore_mismatched_sizes: accept other shapes.

    Raises:
        ValueError: the first wrong name, and the number of wrong names.
    """
    if info["missing_keys"] == NEW_HEAD and name is not None:
        stored, _ = config_class.get_config_dict(name, **place)
        if not stored.get("target_layers"):
            info = {**info, "missing_keys": set()}
    file = os.path.join(str(name), place.get("subfolder") or "", "model.safetensors")
    check_weights(info, file, ignore_mismatched_sizes=ignore_mismatched_sizes)


def check_backbone_weights(info: Mapping[str, Any], name: str) -> None:
    """Raise an error if a pretrained encoder lacks weights. transformers would draw them at random.

    The encoder's former head may be left over. A pooling layer may be missing because nothing here reads it.

    Args:
        info: second result of `from_pretrained` with `output_loading_info`.
        name: the encoder's repository or folder.

    Raises:
        ValueError: the first name that is missing or has another shape, and the number of such names.
    """
    lacking = [key for key, *_ in info["mismatched_keys"]]
    for key in info["missing_keys"]:
        if not key.startswith("pooler."):
            lacking.append(key)
    if lacking:
        raise ValueError(
            f"{name}: holds no weights of the right shape for {min(lacking)}, {len(lacking)} in all; "
            "allowed are encoders whose weights are complete"
        )


def copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """Give `target` copies of its buffers' values in `source`, also of buffers in no file."""
    buffers = dict(source.named_buffers())
    names = [name for name, _ in target.named_buffers()]
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = target.get_submodule(path)
        setattr(owner, leaf, buffers[name].clone())

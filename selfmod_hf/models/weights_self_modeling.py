"""Weights of self-modeling networks: their names in files, and what a file must hold.

A copy of this file travels with every pushed model, like the model's own.
"""

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn


def use_own_names(model: Any, state_dict: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """Rename weights that are about to be loaded to the names that the model gives them.

    transformers writes some encoders under the names of its older versions (ViT, DeiT, BEiT, DINOv2, Swin, ...), and
    only `from_pretrained` renames them. `load_state_dict` alone would find none of their weights. This function is a
    hook of `nn.Module.register_load_state_dict_pre_hook`.

    Args:
        model: a self-modeling network.
        state_dict: the weights, changed in place. Names that already fit stay.
        prefix: begins each name where the network is a part of another module.
    """
    given = {name.removeprefix(prefix): value for name, value in state_dict.items()}
    if given.keys() <= model.state_dict().keys():
        return
    state_dict.clear()
    for name, value in _renamed(model, given).items():
        state_dict[prefix + name] = value


def _renamed(model: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights as `from_pretrained` names them. What does not fit stays, for torch to report."""
    types = [value.dtype for value in given.values() if value.is_floating_point()] or [torch.float32]
    with torch.random.fork_rng(devices=[]):  # what is missing is drawn, and thrown away below
        twin, info = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=given,
            dtype=reduce(torch.promote_types, types),  # no value is rounded
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
        info: what `from_pretrained` returns with `output_loading_info`.
        where: the file, for the error.
        ignore_mismatched_sizes: accept other shapes.

    Raises:
        ValueError: the first name that does not fit, and how many there are.
    """
    for problem in ("missing", "unexpected", "mismatched"):
        names = info[f"{problem}_keys"]
        if names and not (problem == "mismatched" and ignore_mismatched_sizes):
            first = sorted(map(str, names))[0]
            raise ValueError(f"{where}: does not fit config.json ({problem}: {first}, {len(names)} in all)")


def check_backbone_weights(info: Mapping[str, Any], name: str) -> None:
    """Raise an error if a pretrained encoder lacks weights. transformers would draw them at random.

    The encoder's former head may be left over. A pooling layer may be missing because nothing here reads it.

    Args:
        info: what `from_pretrained` returns with `output_loading_info`.
        name: the encoder's repository or folder.

    Raises:
        ValueError: the first name that is missing or has another shape, and how many there are.
    """
    lacking = {key for key in info["missing_keys"] if not key.startswith("pooler.")}
    lacking |= {key for key, *_ in info["mismatched_keys"]}
    if lacking:
        raise ValueError(
            f"{name}: holds no weights of the right shape for {min(lacking)}, {len(lacking)} in all; "
            "allowed are encoders whose weights are complete"
        )


def copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """Give `target` copies of the buffers of `source` that both have, also of those that no file holds."""
    theirs = dict(source.named_buffers())
    for name, _ in list(target.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(target.get_submodule(owner), leaf, theirs[name].clone())

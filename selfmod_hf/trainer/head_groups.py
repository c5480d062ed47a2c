"""Masks of attention heads, for the RLCT of a group of heads with the rest of the network as it is.

A head owns the rows of its query, key and value, and the columns of the output layer that read it. The bias of the
output layer belongs to no head. Where several heads share a key and a value, these belong to the group, and are chosen
if all heads of the group are.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import InputError
from ..models import SelfModelingPreTrainedModel

_QUERIES = ("query", "q_proj", "q_lin")
_KEYS = ("key", "k_proj", "k_lin")
_VALUES = ("value", "v_proj", "v_lin")
_OUTPUTS = ("o_proj", "out_proj", "out_lin")
_PREFIX = "network."  # of a model's parameters in an estimate
_KNOWN = "layers query, key, value and output of their own, or GPT-2's c_attn and c_proj"


@dataclass(frozen=True)
class _Part:
    """Describe where the heads lie in a parameter.

    Attributes:
        parameter: its name in the model.
        dim: dimension of the heads.
        start: of the first head in this dimension.
        shared: whether a group of heads shares its numbers.
    """

    parameter: str
    dim: int
    start: int = 0
    shared: bool = False


@dataclass(frozen=True)
class _Attention:
    """Describe the heads of one attention.

    Attributes:
        name: of the module.
        heads: their number.
        size: numbers of a head in each dimension.
        groups: number of keys and values.
        parts: the parameters.
    """

    name: str
    heads: int
    size: int
    groups: int
    parts: list[_Part]

    def places(self, part: _Part, chosen: Sequence[int]) -> Iterator[int]:
        """Yield where the numbers of the chosen heads begin in a parameter."""
        if not part.shared:
            for head in chosen:
                yield part.start + head * self.size
            return
        per_group = self.heads // self.groups
        for group in range(self.groups):
            members = range(group * per_group, (group + 1) * per_group)
            if set(members) <= set(chosen):
                yield part.start + group * self.size


class HeadMasks(dict[str, Tensor]):
    """Hold masks by the names of parameters, and the heads that they choose.

    Attributes:
        heads: ``module:numbers``, as given to `head_masks`.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__()
        self.heads = tuple(heads)


def head_masks(model: PreTrainedModel, heads: Sequence[str]) -> HeadMasks:
    """Return masks of attention heads, name of a parameter -> bool, for `parameters` of `estimate_rlct`.

    Args:
        model: a self-modeling network or a task model of transformers. Its attention has layers for query, key, value
            and output of their own, like BERT, ViT, DistilBERT and Llama, or is GPT-2's.
        heads: ``module:numbers``, such as ``"transformer.h.3:0,2"`` or ``"*.layer.*:1"``. The module is an attention,
            or a module around one.

    Raises:
        InputError: no such module, a module without a known attention, or a number of no head.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(n_embd=4, n_head=2, n_layer=1, vocab_size=9))
        >>> masks = head_masks(model, ["transformer.h.0:1"])
        >>> [name for name in masks if name.endswith("weight")]
        ['network.transformer.h.0.attn.c_attn.weight', 'network.transformer.h.0.attn.c_proj.weight']
    """
    network: nn.Module = model
    if isinstance(model, SelfModelingPreTrainedModel):
        network = model.prune()
    attentions = _attentions(network, getattr(network, "config", None))
    chosen: dict[str, set[int]] = {}  # name of an attention -> its heads
    for entry in heads:
        pattern, numbers = _pattern_and_numbers(entry)
        for attention in _matching(network, attentions, pattern, entry):
            _check_numbers(attention, numbers, entry)
            chosen.setdefault(attention.name, set()).update(numbers)
    masks = HeadMasks(heads)
    for attention in attentions:
        numbers = sorted(chosen.get(attention.name, ()))
        for part in attention.parts:
            for place in attention.places(part, numbers):
                name = f"{_PREFIX}{part.parameter}"
                if name not in masks:
                    values = network.get_parameter(part.parameter)
                    masks[name] = torch.zeros_like(values, dtype=torch.bool)
                masks[name].narrow(part.dim, place, attention.size).fill_(True)
    return masks


def with_heads(settings: Mapping[str, Any], model: PreTrainedModel, heads: Sequence[str] | None) -> dict[str, Any]:
    """Return keywords of an estimate with the masks of heads as its parameters.

    Args:
        settings: of the estimate.
        model: as for `head_masks`.
        heads: as for `head_masks`. None: the parameters of the settings stay.

    Raises:
        InputError: heads and parameters together, or no such heads.
    """
    if heads is None:
        return dict(settings)
    if settings.get("parameters") is not None:
        raise InputError("heads", list(heads), "allowed without `parameters`")
    return {**settings, "parameters": head_masks(model, heads)}


def heads_of(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the heads that the parameters of an estimate's settings choose, or None."""
    parameters = settings.get("parameters")
    if isinstance(parameters, HeadMasks):
        return parameters.heads
    return None


def _pattern_and_numbers(entry: str) -> tuple[str, list[int]]:
    """Return the pattern of modules and the numbers of heads in ``module:numbers``."""
    pattern, colon, listed = entry.rpartition(":")
    numbers = []
    for text in listed.split(","):
        if not text.strip().isdecimal():
            raise InputError("heads", entry, "allowed is module:numbers, such as transformer.h.3:0,2")
        numbers.append(int(text))
    if not colon or not pattern:
        raise InputError("heads", entry, "allowed is module:numbers, such as transformer.h.3:0,2")
    return pattern, numbers


def _matching(network: nn.Module, known: Sequence[_Attention], pattern: str, entry: str) -> list[_Attention]:
    """Return the attentions within the modules of a pattern.

    Raises:
        InputError: no module of such a name, or one without a known attention.
    """
    found = [attention for attention in known if _is_within(attention.name, pattern)]
    if found:
        return found
    names = [name for name, _ in network.named_modules() if fnmatch.fnmatchcase(name, pattern)]
    if names:
        raise InputError("heads", entry, f"{names[0]} has no attention with {_KNOWN}")
    attentions = ", ".join(attention.name for attention in known) or "none in this model"
    raise InputError("heads", entry, f"no such module; the attentions are {attentions}")


def _is_within(name: str, pattern: str) -> bool:
    """Return whether a module or one around it has a name of this pattern."""
    parts = name.split(".")
    around = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return bool(fnmatch.filter(around, pattern))


def _check_numbers(attention: _Attention, numbers: Sequence[int], entry: str) -> None:
    for number in numbers:
        if number >= attention.heads:
            raise InputError("heads", entry, f"{attention.name} has heads 0 to {attention.heads - 1}")


# ---- the attentions of a model ----


def _attentions(network: nn.Module, config: Any) -> list[_Attention]:
    """Return all attentions of a known form."""
    modules = dict(network.named_modules())
    found = []
    for name, module in modules.items():
        attention = _of_separate_layers(name, module, modules, config) or _of_one_layer(name, module)
        if attention is not None:
            found.append(attention)
    return found


def _of_separate_layers(name: str, module: nn.Module, modules: dict[str, nn.Module], config: Any) -> _Attention | None:
    """Return the attention of a module with a linear layer each for query, key and value, or None."""
    layers: dict[str, nn.Linear] = {}
    for names in (_QUERIES, _KEYS, _VALUES):
        layers |= _child(name, module, names)
    output = list(_child(name, module, _OUTPUTS))
    beside = f"{name.rpartition('.')[0]}.output.dense"
    if not output and isinstance(modules.get(beside), nn.Linear):  # BERT's
        output = [beside]
    if len(layers) < 3 or not output:
        return None
    query, key, _ = layers.values()
    width = query.out_features
    size = _size_of_head(module, width, config)
    if size is None or width % size:
        return None
    heads, groups = width // size, key.out_features // size
    parts = []
    for place, (layer, linear) in enumerate(layers.items()):
        shared = place > 0 and groups < heads
        parts.append(_Part(f"{layer}.weight", 0, shared=shared))
        if linear.bias is not None:
            parts.append(_Part(f"{layer}.bias", 0, shared=shared))
    parts.append(_Part(f"{output[0]}.weight", 1))
    return _Attention(name, heads, size, groups, parts)


def _of_one_layer(name: str, module: nn.Module) -> _Attention | None:
    """Return the attention of GPT-2, with query, key and value side by side in one layer, or None."""
    together = getattr(module, "c_attn", None)
    output = getattr(module, "c_proj", None)
    if not isinstance(together, Conv1D) or not isinstance(output, Conv1D):
        return None
    width = output.weight.shape[0]
    size = getattr(module, "head_dim", None)
    if together.weight.shape[1] != 3 * width or not isinstance(size, int):
        return None  # such as a cross-attention, whose query has a layer of its own
    parts = []
    for place in range(3):
        parts.append(_Part(f"{name}.c_attn.weight", 1, place * width))
        parts.append(_Part(f"{name}.c_attn.bias", 0, place * width))
    parts.append(_Part(f"{name}.c_proj.weight", 0))
    heads = width // size
    return _Attention(name, heads, size, heads, parts)


def _child(name: str, module: nn.Module, names: Sequence[str]) -> dict[str, nn.Linear]:
    """Return a module's linear layer with one of these names, by its full name. The result is empty without one."""
    for own in names:
        layer = getattr(module, own, None)
        if isinstance(layer, nn.Linear):
            return {f"{name}.{own}".removeprefix("."): layer}
    return {}


def _size_of_head(module: nn.Module, width: int, config: Any) -> int | None:
    """Return the numbers of a head, as the module or the model's configuration names them, or None."""
    for field in ("head_dim", "attention_head_size"):
        size = getattr(module, field, None)
        if isinstance(size, int):
            return size
    count = getattr(config, "num_attention_heads", None)
    if isinstance(count, int) and width % count == 0:
        return width // count
    return None

"""Gather K modules of one architecture: their parameters and buffers, each with a leading dimension of K."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import stack_module_state

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class ModuleStack:
    """Hold K copies of one architecture.

    Attributes:
        skeleton: a copy of the architecture in eval mode. Its own values are never used.
        parameters: name -> (K, *shape), detached.
        buffers: name -> (K, *shape), detached (BatchNorm's running statistics, for example).
    """

    skeleton: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __len__(self) -> int:
        for values in self.state.values():
            return len(values)
        return 0

    @property
    def state(self) -> dict[str, Tensor]:
        """Return parameters and buffers, name -> (K, *shape)."""
        return self.parameters | self.buffers

    def to(self, dtype: torch.dtype) -> ModuleStack:
        """Return the stack with all floating-point values in `dtype`."""
        skeleton = self.skeleton.to(dtype)
        parameters = _cast(self.parameters, dtype)
        buffers = _cast(self.buffers, dtype)
        return ModuleStack(skeleton, parameters, buffers)

    def member(self, index: int) -> nn.Module:
        """Return a copy of the architecture with the values of copy `index`."""
        values = {}
        for name, stacked in self.state.items():
            values[name] = stacked[index]
        module = copy.deepcopy(self.skeleton)
        module.load_state_dict(values, strict=False)  # tied parameters and non-persistent buffers are left out
        return module


def stack_in_place(modules: Sequence[Module]) -> Module:
    """Return the first module with the parameters and buffers of all K modules, each (K, *shape), for training.

    Example:
        >>> stack_in_place([nn.Linear(2, 1), nn.Linear(2, 1)]).weight.shape
        torch.Size([2, 1, 2])
    """
    parameters, buffers = stack_module_state(list(modules))
    first = modules[0]
    stacked = dict(buffers)
    for name, value in parameters.items():
        stacked[name] = nn.Parameter(value.detach())
    for name, tensor in stacked.items():
        owner, _, leaf = name.rpartition(".")
        setattr(first.get_submodule(owner), leaf, tensor)
    return first


def stack_modules(modules: nn.Module | Sequence[nn.Module], device: torch.device | str | None = None) -> ModuleStack:
    """Stack modules of one architecture, in eval mode. The modules themselves do not change.

    Args:
        modules: one module or K of them, equal in class and in the shape of every parameter and buffer.
        device: device of the stack. None: that of the first module's parameters.

    Raises:
        ValueError: no module, or modules of different architectures.

    Example:
        >>> stack = stack_modules([nn.Linear(2, 3), nn.Linear(2, 3)])
        >>> len(stack), stack.parameters["weight"].shape
        (2, torch.Size([2, 3, 2]))
    """
    if isinstance(modules, nn.Module):
        modules = [modules]
    members = list(modules)
    if not members:
        raise ValueError("modules=[]: at least one module is needed")
    first = members[0]
    for index, module in enumerate(members):
        _check_same_architecture(first, module, index)

    skeleton = copy.deepcopy(first)
    skeleton.eval()
    skeleton.requires_grad_(False)
    for part in skeleton.modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            part.sparse = False  # stacked weights have no sparse gradients

    parameters, buffers = stack_module_state(members)
    if device is None and parameters:
        first_value = next(iter(parameters.values()))
        device = first_value.device
    device = device or torch.device("cpu")
    for values in (parameters, buffers):
        for name in values:
            detached = values[name].detach()
            values[name] = detached.to(device)
    skeleton.to(device)
    return ModuleStack(skeleton, parameters, buffers)


def _check_same_architecture(first: nn.Module, other: nn.Module, index: int) -> None:
    """Raise a ValueError if two modules differ in class, or in name or shape of a parameter or buffer."""
    expected = _shapes(first)
    found = _shapes(other)
    different = []
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            different.append(name)
    where = ""
    if different:
        where = f" (first difference: {min(different)})"
    if different or type(first) is not type(other):
        name = type(other).__name__
        raise ValueError(f"modules[{index}]={name}: not of the architecture of modules[0]{where}")


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of each parameter and buffer by name."""
    shapes = {}
    for name, parameter in module.named_parameters():
        shapes[name] = parameter.shape
    for name, buffer in module.named_buffers():
        shapes[name] = buffer.shape
    return shapes


def _cast(values: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the values by name, those of floating point in `dtype`."""
    converted = {}
    for name, value in values.items():
        if value.is_floating_point():
            converted[name] = value.to(dtype)
        else:
            converted[name] = value
    return converted

"""Gather K modules of one architecture: their parameters and buffers, each with a leading dimension of K."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import stack_module_state


@dataclass(frozen=True)
class ModuleStack:
    """K copies of one architecture.

    Attributes:
        skeleton: a copy of the architecture, in eval mode, whose own values are never used.
        parameters: name -> (K, *shape), detached.
        buffers: name -> (K, *shape), detached (BatchNorm's running statistics, for example).
    """

    skeleton: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __len__(self) -> int:
        states = [*self.parameters.values(), *self.buffers.values()]
        return len(states[0]) if states else 0

    @property
    def state(self) -> dict[str, Tensor]:
        """Return parameters and buffers, name -> (K, *shape)."""
        return self.parameters | self.buffers

    def to(self, dtype: torch.dtype) -> ModuleStack:
        """The stack with all floating-point values in `dtype`."""

        def cast(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: v.to(dtype) if v.is_floating_point() else v for name, v in values.items()}

        return ModuleStack(self.skeleton.to(dtype), cast(self.parameters), cast(self.buffers))

    def member(self, index: int) -> nn.Module:
        """A copy of the architecture with the values of copy `index`."""
        module = copy.deepcopy(self.skeleton)
        state = {name: value[index] for name, value in (self.parameters | self.buffers).items()}
        module.load_state_dict(state, strict=False)  # tied parameters and non-persistent buffers are left out
        return module


def stack_modules(modules: nn.Module | Sequence[nn.Module], device: torch.device | str | None = None) -> ModuleStack:
    """Stack modules of one architecture, in eval mode. The modules themselves are left as they are.

    Args:
        modules: one module or K of them, equal in class and in the shape of every parameter and buffer.
        device: where the stack lives; default: where the first module's parameters are.

    Raises:
        ValueError: no module, or modules of different architectures.
    """
    members = [modules] if isinstance(modules, nn.Module) else list(modules)
    if not members:
        raise ValueError("modules=[]: at least one module is needed")
    for index, module in enumerate(members[1:], start=1):
        _check_same_architecture(members[0], module, index)
    parameters, buffers = stack_module_state(members)
    skeleton = copy.deepcopy(members[0]).eval().requires_grad_(False)
    for part in skeleton.modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            part.sparse = False  # stacked weights have no sparse gradients
    device = device or next((value.device for value in parameters.values()), torch.device("cpu"))
    return ModuleStack(
        skeleton.to(device),
        {name: value.detach().to(device) for name, value in parameters.items()},
        {name: value.detach().to(device) for name, value in buffers.items()},
    )


def _check_same_architecture(first: nn.Module, other: nn.Module, index: int) -> None:
    def shapes(module: nn.Module) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in [*module.named_parameters(), *module.named_buffers()]}

    expected, found = shapes(first), shapes(other)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if type(first) is not type(other) or different:
        where = f" (first difference: {different[0]})" if different else ""
        raise ValueError(f"modules[{index}]={type(other).__name__}: not of the architecture of modules[0]{where}")

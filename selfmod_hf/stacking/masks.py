"""Let only some numbers of a parameter vary, for example the rows of one attention head.

The chosen numbers become a parameter of their own, (P,). The module then computes its full parameter from them and from
the values that stay (`torch.nn.utils.parametrize`). All else works as without a mask: layouts, samplers, recordings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .stack import ModuleStack

_SUFFIX = ".original"
_DIGITS = 6  # of a mask's digest in its name
CHOSEN_NUMBERS = "chosen numbers"  # in the name of a masked parameter for people


class _Chosen(nn.Module):
    """Compute a parameter from its chosen numbers and from the values of the others.

    Args:
        values: the full parameter.
        index: places of the chosen numbers in the flat parameter, (P,).
    """

    values: Tensor
    index: Tensor

    def __init__(self, values: Tensor, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("index", index)

    def forward(self, chosen: Tensor) -> Tensor:
        """Return the full parameter."""
        flat = self.values.to(chosen.dtype).flatten()
        return flat.scatter(0, self.index, chosen).view(self.values.shape)

    def right_inverse(self, full: Tensor) -> Tensor:
        """Return the chosen numbers."""
        return full.flatten()[self.index]


def mask_parameters(stack: ModuleStack, masks: Mapping[str, Tensor]) -> tuple[ModuleStack, dict[str, str]]:
    """Return the stack with the chosen numbers as parameters, and the new name of each masked parameter.

    Args:
        stack: K copies. Its skeleton is changed.
        masks: name of a parameter -> its chosen numbers, bool, of the parameter's shape, at least one of them.

    Example:
        >>> import torch
        >>> from selfmod_hf.stacking import stack_modules
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> masked, names = mask_parameters(stack_modules(nn.Linear(2, 2)), {"weight": mask})
        >>> masked.parameters[names["weight"]].shape
        torch.Size([1, 3])
    """
    parameters = dict(stack.parameters)
    buffers = dict(stack.buffers)
    names = {}
    for name, mask in masks.items():
        values = parameters.pop(name)  # (K, *shape)
        index = mask.flatten().nonzero()[:, 0].to(values.device)  # (P,)
        owner, _, leaf = name.rpartition(".")
        module = stack.skeleton.get_submodule(owner)
        chosen = _Chosen(values[0].clone(), index)
        parametrize.register_parametrization(module, leaf, chosen)
        prefix = f"{owner}.parametrizations.{leaf}".removeprefix(".")
        names[name] = f"{prefix}{_SUFFIX}"
        parameters[names[name]] = values.flatten(1)[:, index]
        buffers[f"{prefix}.0.values"] = values
        buffers[f"{prefix}.0.index"] = index.expand(len(values), -1)
    stack.skeleton.requires_grad_(False)
    return ModuleStack(stack.skeleton, parameters, buffers), names


def readable_names(stack: ModuleStack, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of parameters for people. Equal names have equal masks.

    The name of a masked parameter has the number of its chosen numbers, and a digest of their places.

    Args:
        stack: of `mask_parameters`, or one without masks.
        names: of its parameters.

    Example:
        >>> import torch
        >>> from selfmod_hf.stacking import stack_modules
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> masked, names = mask_parameters(stack_modules(nn.Linear(2, 2)), {"weight": mask})
        >>> readable_names(masked, [names["weight"], "bias"])
        ('weight (3 chosen numbers, c431e8)', 'bias')
    """
    found = []
    for name in names:
        places = stack.buffers.get(f"{name.removesuffix(_SUFFIX)}.0.index")  # (K, P)
        if places is None:
            found.append(name)
            continue
        own = name.removesuffix(_SUFFIX).replace("parametrizations.", "", 1)
        digest = hashlib.sha256(places[0].cpu().numpy().tobytes()).hexdigest()
        found.append(f"{own} ({places.shape[1]} {CHOSEN_NUMBERS}, {digest[:_DIGITS]})")
    return tuple(found)

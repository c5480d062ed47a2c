"""Losses and gradients of copies: inputs by name, low precision, attention, modules that draw random numbers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfmod_hf.stacking import ONE_BATCH, OWN_BATCHES, ParameterLayout, losses_and_gradients, map_copies, stack_modules


class Pair(nn.Module):
    """A classifier of two named inputs, with a weight that no loss reads."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.unread = nn.Linear(3, 2), nn.Linear(4, 2), nn.Parameter(torch.ones(5))

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.left(left) + self.right(right)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x).mean(1))


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def of_copies(modules: list[nn.Module], inputs, targets, *, shared_batch=True, vectorize=True, micro_batch_size=None):
    """Losses (K,), and gradients by name, each (K, *shape)."""
    stack = stack_modules(modules)
    layout = ParameterLayout.of(stack.parameters)
    losses_of = map_copies(
        stack.skeleton, cross_entropy, dims=ONE_BATCH if shared_batch else OWN_BATCHES, vectorize=vectorize
    )
    position = layout.flatten(stack.parameters)
    losses, gradients = losses_and_gradients(
        losses_of, layout, position, [], inputs, targets, stack.buffers, {}, shared_batch=shared_batch,
        micro_batch_size=micro_batch_size,
    )  # fmt: skip
    return losses, layout.views(gradients)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("micro_batch_size", [None, 3])
@pytest.mark.parametrize("shared_batch", [True, False])
def test_inputs_by_name_equal_each_copy_alone(shared_batch, micro_batch_size, vectorize):
    torch.manual_seed(0)
    modules = [Pair(), Pair()]
    inputs = {"left": torch.randn(2, 8, 3), "right": torch.randn(2, 8, 4)}
    targets = torch.randint(0, 2, (2, 8))
    batches = [{name: value[k] for name, value in inputs.items()} for k in (0, 1)]
    if shared_batch:
        batches, inputs, targets = [batches[0]] * 2, batches[0], targets[0]
    losses, gradients = of_copies(
        modules, inputs, targets, shared_batch=shared_batch, micro_batch_size=micro_batch_size, vectorize=vectorize
    )
    for k, module in enumerate(modules):
        loss = F.cross_entropy(module(**batches[k]), targets if shared_batch else targets[k])
        loss.backward()
        torch.testing.assert_close(losses[k], loss.detach())
        for name in ("left.weight", "right.bias"):
            torch.testing.assert_close(gradients[name][k], module.get_parameter(name).grad)
        assert torch.equal(gradients["unread"][k], torch.zeros(5))


def test_sums_in_low_precision_are_not_rounded():
    """In bfloat16 a sum of 512 losses of about .7 moves in steps of 2."""
    torch.manual_seed(0)
    stack = stack_modules([nn.Linear(3, 2), nn.Linear(3, 2)]).to(torch.bfloat16)
    x, y = torch.randn(512, 3).bfloat16(), torch.randint(0, 2, (512,))

    layout = ParameterLayout.of(stack.parameters, ["weight"])
    losses_of = map_copies(stack.skeleton, cross_entropy, dims=ONE_BATCH)
    position, own = layout.flatten(stack.parameters), {"bias": stack.parameters["bias"]}

    def computed(rows: slice, micro_batch_size: int | None = None):
        return losses_and_gradients(
            losses_of, layout, position, [], x[rows], y[rows], own, {}, shared_batch=True,
            micro_batch_size=micro_batch_size,
        )  # fmt: skip

    losses, _ = computed(slice(None))
    each = losses_of(stack.parameters, {}, x, y)
    assert each.dtype == torch.bfloat16
    torch.testing.assert_close(losses, each.float().mean(1))
    _, gradient = computed(slice(None), micro_batch_size=4)
    pieces = [computed(slice(start, start + 4))[1].float() for start in range(0, 512, 4)]
    torch.testing.assert_close(gradient, torch.stack(pieces).mean(0))


def test_attention_equals_each_copy_alone():
    """torch's fast path of attention, which has no derivatives, is left out, and is as it was afterwards."""
    assert torch.backends.mha.get_fastpath_enabled()
    torch.manual_seed(0)
    modules = [Attention().eval(), Attention().eval()]
    x, y = torch.randn(4, 5, 8), torch.randint(0, 2, (4,))
    losses, gradients = of_copies(modules, x, y, shared_batch=True)
    assert torch.backends.mha.get_fastpath_enabled()
    for k, module in enumerate(modules):
        loss = F.cross_entropy(module(x), y)
        loss.backward()
        torch.testing.assert_close(losses[k], loss.detach())
        name = "layer.self_attn.in_proj_weight"
        torch.testing.assert_close(gradients[name][k], module.get_parameter(name).grad)


def test_random_numbers_are_not_drawn_for_several_copies_at_once():
    stack = stack_modules([nn.Linear(3, 2), nn.Linear(3, 2)])
    dropping = nn.Sequential(copy.deepcopy(stack.skeleton), nn.Dropout()).train()
    parameters = {f"0.{name}": value for name, value in stack.parameters.items()}
    with pytest.raises(RuntimeError, match="random"):
        map_copies(dropping, cross_entropy, dims=ONE_BATCH)(parameters, {}, torch.randn(4, 3), torch.zeros(4).long())

"""What a stack keeps of its modules, and which modules it rejects."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from selfmod_hf.stacking import ONE_BATCH, ParameterLayout, losses_and_gradients, map_copies, stack_modules


class Scaled(nn.Linear):
    """Of the same shapes as a linear layer, and another function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Tied(nn.Module):
    """Two layers of one weight, and a buffer that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.randn(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) + self.shift


class Counts(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("counts", torch.zeros(size))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Linear(2, 2), Scaled(2, 2)], r"^modules\[1\]=Scaled: not of the architecture of modules\[0\]$"),
        ([Counts(2), Counts(2), Counts(3)], r"^modules\[2\]=Counts: .*\(first difference: counts\)$"),
    ],
)
def test_modules_of_other_classes_and_buffers_are_rejected(modules, message):
    with pytest.raises(ValueError, match=message):
        stack_modules(modules)


def test_a_stack_is_computed_in_eval_mode():
    stack = stack_modules([nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()])
    assert not any(module.training for module in stack.skeleton.modules())
    assert not any(parameter.requires_grad for parameter in stack.skeleton.parameters())


def test_another_type_leaves_integers_as_they_are():
    stack = stack_modules([nn.BatchNorm1d(3), nn.BatchNorm1d(3)]).to(torch.bfloat16)
    assert stack.parameters["weight"].dtype == stack.buffers["running_mean"].dtype == torch.bfloat16
    assert stack.buffers["num_batches_tracked"].dtype == torch.int64
    assert stack.skeleton.weight.dtype == torch.bfloat16


def test_a_stack_lies_where_it_is_asked_for():
    stack = stack_modules([nn.BatchNorm1d(3)], device="meta")
    tensors = [*stack.parameters.values(), *stack.buffers.values(), *stack.skeleton.state_dict().values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_member_with_tied_weights_computes_what_its_module_does():
    modules = [Tied(), Tied()]
    modules[1].shift = modules[0].shift.clone()
    x = torch.randn(4, 3)
    member = stack_modules(modules).member(1)
    torch.testing.assert_close(member(x), modules[1](x))


def test_embeddings_with_sparse_gradients_are_stacked():
    """Sparse gradients are for one module's weight; those of a stack are whole tensors."""
    module = nn.EmbeddingBag(6, 4, mode="mean", sparse=True)
    stack = stack_modules([module, copy.deepcopy(module)])
    assert module.sparse
    tokens, targets = torch.randint(0, 6, (5, 3)), torch.randint(0, 4, (5,))
    losses_of = map_copies(stack.skeleton, nn.CrossEntropyLoss(reduction="none"), dims=ONE_BATCH)
    layout = ParameterLayout.of(stack.parameters)
    position = layout.flatten(stack.parameters)
    _, gradient = losses_and_gradients(losses_of, layout, position, [], tokens, targets, {}, {}, shared_batch=True)
    nn.functional.cross_entropy(module(tokens), targets).backward()
    torch.testing.assert_close(gradient[1], module.weight.grad.to_dense().flatten())

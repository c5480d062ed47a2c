"""Copies computed together equal copies computed alone."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfmod_hf.stacking import (
    ONE_BATCH,
    OWN_BATCHES,
    ParameterLayout,
    Replay,
    chunk_ranges,
    copies_that_fit,
    even_size,
    losses_and_gradients,
    map_copies,
    stack_modules,
)


def _net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    net(torch.randn(32, 1, 6, 6))  # moves the running statistics, so that members differ in their buffers
    return net


def _loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("micro_batch_size", [None, 3])
@pytest.mark.parametrize("shared_batch", [True, False])
def test_losses_and_gradients_equal_each_copy_alone(shared_batch, micro_batch_size, vectorize):
    nets = [_net(seed) for seed in range(3)]
    stack = stack_modules(nets)
    inputs, targets = torch.randn(3, 8, 1, 6, 6), torch.randint(0, 4, (3, 8))
    if shared_batch:
        inputs, targets = inputs[0], targets[0]
    layout = ParameterLayout.of(stack.parameters)
    losses_of = map_copies(stack.skeleton, _loss, dims=ONE_BATCH if shared_batch else OWN_BATCHES, vectorize=vectorize)
    losses, gradients = losses_and_gradients(
        losses_of, layout, layout.flatten(stack.parameters), [], inputs, targets, stack.buffers, {},
        shared_batch=shared_batch, micro_batch_size=micro_batch_size,
    )  # fmt: skip
    for k, net in enumerate(nets):
        alone = copy.deepcopy(net).eval()
        x, y = (inputs, targets) if shared_batch else (inputs[k], targets[k])
        loss = F.cross_entropy(alone(x), y)
        loss.backward()
        torch.testing.assert_close(losses[k], loss.detach())
        for name, gradient in layout.views(gradients).items():
            torch.testing.assert_close(gradient[k], alone.get_parameter(name).grad)


def test_dict_inputs_and_common_parameters():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, left, right):
            return self.a(left) + self.b(right)

    net = Pair()
    inputs = {"left": torch.randn(5, 3), "right": torch.randn(5, 3)}
    targets = torch.randint(0, 2, (5,))
    own = {name: torch.stack([value, value + 1]).detach() for name, value in net.a.named_parameters("a")}
    common = {name: value.detach() for name, value in net.b.named_parameters("b")}
    losses = map_copies(net, _loss, dims=ONE_BATCH)(own, common, inputs, targets)
    assert losses.shape == (2, 5)
    torch.testing.assert_close(losses[0], _loss(net(**inputs), targets).detach())


def test_gradients_reach_the_stacked_parameters():
    """A population trains through the sum over its members."""
    stack = stack_modules([nn.Linear(3, 2), nn.Linear(3, 2)])
    leaves = {name: value.requires_grad_() for name, value in stack.parameters.items()}
    losses_of = map_copies(stack.skeleton, _loss, dims=ONE_BATCH)
    losses = losses_of(leaves, {}, torch.randn(5, 3), torch.randint(0, 2, (5,)))
    losses.mean(1).sum().backward()
    assert leaves["weight"].grad.shape == (2, 2, 3)


def test_stack_leaves_the_modules_as_they_were():
    net = _net(0).train()
    before = copy.deepcopy(net.state_dict())
    stack = stack_modules([net, _net(1)])
    assert len(stack) == 2
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    torch.testing.assert_close(net.state_dict(), before)
    torch.testing.assert_close(stack.member(0).state_dict(), net.state_dict())


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([], "at least one module"),
        ([nn.Linear(2, 2), nn.Linear(2, 3)], r"modules\[1\]=Linear.*first difference: bias"),
        ([nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)], r"modules\[1\]"),
    ],
)
def test_modules_that_do_not_stack_are_refused(modules, message):
    with pytest.raises(ValueError, match=message):
        stack_modules(modules)


def test_layout_goes_both_ways_without_a_copy():
    parameters = {"w": torch.randn(2, 3, 4), "b": torch.randn(2, 3), "scale": torch.randn(2), "other": torch.ones(2, 5)}
    layout = ParameterLayout.of(parameters, ["w", "scale", "b"])
    flat = layout.flatten(parameters)
    assert flat.shape == (2, layout.size) == (2, 16)
    views = layout.views(flat)
    torch.testing.assert_close(views, {name: parameters[name] for name in ("w", "scale", "b")})
    flat.zero_()
    assert views["w"].abs().sum() == 0


def test_chunks_cover_everything_once():
    for total in (1, 4, 7, 16):
        for size in (1, 3, 4, 100):
            pieces = list(chunk_ranges(total, size))
            assert [i for piece in pieces for i in piece] == list(range(total))
            lengths = [len(piece) for piece in pieces]
            assert max(lengths) <= size
            assert max(lengths) - min(lengths) <= 1
    assert copies_that_fit(10, 35) == 3
    assert copies_that_fit(0, 35) == 35
    assert copies_that_fit(100, 35) == 1


@pytest.mark.parametrize(
    ("total", "most", "size"), [(16, 6, 4), (9, 6, 3), (12, 6, 6), (7, 3, 3), (7, 9, 7), (5, 0, 1)]
)
def test_pieces_of_one_shape_where_that_costs_little(total, most, size):
    assert even_size(total, most) == size


def test_replay_gives_the_functions_own_numbers_and_no_longer_calls_it():
    calls = []

    def function(parameters, x):
        calls.append(None)
        leaf = parameters["w"].detach().requires_grad_()
        loss = (x @ leaf).relu().square().sum()
        return loss.detach(), list(torch.autograd.grad(loss, [leaf]))

    replay = Replay(function).caller()
    for _ in range(5):
        arguments = {"w": torch.randn(3, 2)}, torch.randn(4, 3)
        torch.testing.assert_close(replay(*arguments), function(*arguments))
    assert len(calls) == 5 + 2 + 1  # the comparisons', the first two, and the recording


@pytest.mark.parametrize(
    "function", [lambda x: x * 2 if x.sum() > 0 else x, lambda x: x * len([v for v in x.tolist() if v > 0])]
)
def test_replay_steps_aside_where_data_decide(function):
    replay = Replay(function).caller()
    for x in (torch.ones(3), -torch.ones(3), torch.ones(3), -torch.ones(3)):
        torch.testing.assert_close(replay(x), function(x))


def test_replay_steps_aside_where_a_second_call_differs():
    """A factor that changes from call to call was recorded as what it was."""
    calls = itertools.count()
    replay = Replay(lambda x: x * next(calls)).caller()
    found = [float(replay(torch.ones(()))) for _ in range(5)]
    assert found == [0.0, 2.0, 3.0, 4.0, 5.0]  # 1 was the recording's; each later call counts on, none is replayed


def test_what_a_caller_gets_does_not_depend_on_the_others():
    """Threads share a recording, whose rounding may be its own: each caller's first two calls are the function's."""
    calls = []

    def function(x):
        calls.append(None)
        return x * 2

    replay, counts = Replay(function), []
    for caller in (replay.caller(), replay.caller()):
        for number in range(4):
            assert float(caller(torch.tensor(10.0 + number))) == 2 * (10 + number)
            counts.append(len(calls))
    assert counts == [2, 3, 3, 3, 4, 5, 5, 5]  # the first call is recorded, too


@pytest.mark.parametrize("shared_batch", [True, False])
def test_what_is_replayed_is_shorter_and_the_same(shared_batch, monkeypatch):
    """Factors that copies share are multiplied once, gradients come out untransposed, idle views and copies are gone,
    and each product is called by its function in `torch`."""
    import selfmod_hf.stacking.replay as replay
    from selfmod_hf.stacking.shorten import shorten

    found = []

    def count(graph, target):
        return len(graph.find_nodes(op="call_function", target=target))

    def shorten_and_count(graph):
        before = len(graph.nodes), count(graph, torch.ops.aten.clone.default)
        shorten(graph)
        by_overload = count(graph, torch.ops.aten.bmm.default) + count(graph, torch.ops.aten.mm.default)
        after = len(graph.nodes), count(graph, torch.clone)
        found.append((before, after, count(graph, torch.mm), by_overload))

    monkeypatch.setattr(replay, "shorten", shorten_and_count)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    stack = stack_modules([net, copy.deepcopy(net), copy.deepcopy(net)])

    calls = []
    layout = ParameterLayout.of(stack.parameters)
    losses_of = map_copies(net, _loss, dims=ONE_BATCH if shared_batch else OWN_BATCHES)

    def function(position, x, y):
        calls.append(None)
        return losses_and_gradients(losses_of, layout, position, [], x, y, {}, {}, shared_batch=shared_batch)

    replayed = Replay(function).caller()
    batch = (5,) if shared_batch else (3, 5)
    for _ in range(4):
        arguments = torch.randn(3, layout.size), torch.randn(*batch, 3, 4), torch.randint(0, 4, batch)
        torch.testing.assert_close(replayed(*arguments), function(*arguments))
    ((before, after, products, by_overload),) = found
    assert len(calls) == 4 + 2 + 1  # the comparisons', the first two, and the recording
    assert after[0] < before[0]
    assert after[1] < before[1]
    assert by_overload == 0
    assert products == (2 if shared_batch else 0)


def test_a_graph_that_writes_into_its_tensors_is_replayed_as_it_is():
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4))
    stack = stack_modules([net, net])
    calls = []
    layout = ParameterLayout.of(stack.parameters)
    losses_of, position = map_copies(net, _loss, dims=ONE_BATCH), layout.flatten(stack.parameters)

    def function(position, x, y):
        calls.append(None)
        return losses_and_gradients(losses_of, layout, position, [], x, y, {}, {}, shared_batch=True)

    replayed = Replay(function).caller()
    for _ in range(3):
        arguments = position, torch.randn(7, 6), torch.randint(0, 4, (7,))
        losses, _ = replayed(*arguments)
        torch.testing.assert_close(losses[0], _loss(net(arguments[1]), arguments[2]).mean().detach())
    assert len(calls) == 2 + 1  # the first two, and the recording: the third is replayed

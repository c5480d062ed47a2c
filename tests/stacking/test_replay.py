"""What is replayed when, and by how many threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch

from selfmod_hf.stacking import Replay


class Counted:
    """A function, and how often it ran: twice and for the recording, where the third call is replayed."""

    def __init__(self, function) -> None:
        self.function = function
        self.calls = 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


def test_numbers_that_are_not_finite_are_replayed():
    counted = Counted(lambda x: x.log())
    replay = Replay(counted).caller()
    for _ in range(4):
        assert replay(torch.tensor([-1.0, 0.0])).isnan().tolist() == [True, False]
    assert counted.calls == 3


def test_few_calls_are_not_recorded():
    """Recording takes longer than it would save."""
    for calls, runs in ((99, 4), (100, 3)):
        counted = Counted(lambda x: 2 * x)
        replay = Replay(counted, calls=calls).caller()
        assert [float(replay(torch.tensor(value))) for value in (1.0, 2.0, 3.0, 4.0)] == [2, 4, 6, 8]
        assert counted.calls == runs


def test_a_product_with_one_may_change_the_type():
    counted = Counted(lambda x: x * 1.0)
    replay = Replay(counted).caller()
    for _ in range(4):
        found = replay(torch.tensor([1, 2]))
        assert (found.tolist(), found.dtype) == ([1.0, 2.0], torch.float32)
    assert counted.calls == 3


def test_what_a_function_writes_into_its_own_tensors_reaches_no_argument():
    def function(x):
        own = x * 1
        own.add_(1)
        return x + own

    counted = Counted(function)
    replay = Replay(counted).caller()
    for _ in range(4):
        x = torch.tensor([1.0, 2.0])
        assert replay(x).tolist() == [3.0, 5.0]
        assert x.tolist() == [1.0, 2.0]
    assert counted.calls == 3


def test_a_product_that_copies_share_may_be_viewed_in_another_shape():
    """Taken as one product for all copies, it lies in memory in another order."""
    counted = Counted(lambda x, w: torch.bmm(x.expand(3, 4, 5), w).view(3, 8))
    replay, x = Replay(counted).caller(), torch.randn(4, 5)
    for _ in range(4):
        w = torch.randn(3, 5, 2)
        torch.testing.assert_close(replay(x, w), torch.stack([x @ own for own in w]).flatten(1))
    assert counted.calls == 3


def test_one_thread_at_a_time_runs_a_function():
    """It lends a module the copies' weights, so that another one would see those."""
    inside = []

    def function(x):
        inside.append(None)
        time.sleep(0.02)
        alone = len(inside) == 1
        inside.pop()
        return x * (1 if alone else torch.nan)

    callers = [replay.caller() for replay in (Replay(function), Replay(function)) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda caller: float(caller(torch.ones(()))), callers))
    assert found == [1.0] * 4

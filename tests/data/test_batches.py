"""The order of samples: what every process sees, together, is what one process sees."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from selfmod_hf.data import EpochBatchSampler, ImageTensors, TensorDataLoader, epoch_order


@given(
    samples=st.integers(1, 60),
    micro=st.integers(1, 9),
    processes=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 5),
)
def test_processes_together_see_the_batches_of_one(samples, micro, processes, seed, epoch):
    def batches(size, count, index):
        sampler = EpochBatchSampler(samples, size, seed, count, index)
        sampler.set_epoch(epoch)
        result = list(sampler)
        assert len(result) == len(sampler)
        return result

    whole = batches(micro * processes, 1, 0)
    shares = [batches(micro, processes, index) for index in range(processes)]
    for step, batch in enumerate(whole):
        union = torch.cat([share[step] for share in shares])
        assert torch.equal(union[union >= 0], batch)
    assert sorted(torch.cat(whole).tolist()) == list(range(samples))


@given(samples=st.integers(1, 60), micro=st.integers(1, 9), steps=st.integers(1, 4))
def test_micro_batches_make_up_the_large_batch(samples, micro, steps):
    small = list(EpochBatchSampler(samples, micro, seed=0))
    large = list(EpochBatchSampler(samples, micro * steps, seed=0))
    for index, batch in enumerate(large):
        assert torch.equal(torch.cat(small[index * steps : (index + 1) * steps]), batch)


def test_drop_last_leaves_full_batches_only():
    sampler = EpochBatchSampler(10, 4, seed=0, drop_last=True)
    assert [len(batch) for batch in sampler] == [4, 4]


def test_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(5)
    first = epoch_order(50, seed=1, epoch=2)
    torch.manual_seed(6)
    assert torch.equal(first, epoch_order(50, seed=1, epoch=2))
    assert not torch.equal(first, epoch_order(50, seed=1, epoch=3))
    assert not torch.equal(first, epoch_order(50, seed=2, epoch=2))


def test_the_loader_gathers_whole_batches():
    data = ImageTensors(torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2), torch.arange(6))
    loader = TensorDataLoader(data, EpochBatchSampler(6, 4, seed=0))
    loader.set_epoch(3)
    order = epoch_order(6, seed=0, epoch=3)
    batches = list(loader)
    assert torch.equal(torch.cat([batch["labels"] for batch in batches]), order)
    expected = data.batch(order[:4])["pixel_values"]
    assert torch.equal(batches[0]["pixel_values"], expected)

"""Modules of every kind: dicts of integers, masks, sparse gradients, BatchNorm, and what vmap cannot map."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from selfmod_hf.complexity import estimate_llc

LABELS = torch.arange(40) % 3
SETTINGS = {"num_draws": 12, "num_chains": 3, "batch_size": 8, "step_size": 1e-4, "nbeta": 10.0}


class Encoder(nn.Module):
    """Two transformer layers over masked tokens, the mean to a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = nn.Linear(16, 3)

    def forward(self, input_ids, attention_mask):
        hidden = self.encoder(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        weights = attention_mask / attention_mask.sum(1, keepdim=True)
        return self.classifier((hidden * weights.to(hidden.dtype)[:, :, None]).sum(1))


class Bag(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(50, 8, mode="mean", sparse=sparse)
        self.classifier = nn.Linear(8, 3)

    def forward(self, input_ids):
        return self.classifier(self.bag(input_ids))


class Counting(nn.Module):
    """What vmap cannot map: a branch on data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        outputs = self.layer(x)
        return outputs if outputs.sum() > 0 else outputs * 2


class Scaled(nn.Module):
    """A linear classifier times a number that is learned: of shape () or (1,)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.scale = nn.Linear(4, 3), nn.Parameter(torch.ones(shape))

    def forward(self, x):
        return self.layer(x) * self.scale


def _tokens() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 7, (40, 1), generator=generator)
    mask = (torch.arange(6) < lengths).long()
    return {"input_ids": torch.randint(0, 50, (40, 6), generator=generator) * mask, "attention_mask": mask}


def _conv_net() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    net(torch.randn(64, 3, 8, 8))  # moves the running statistics
    return net


def _cases() -> dict[str, tuple[nn.Module, object]]:
    torch.manual_seed(0)
    tokens = _tokens()
    return {
        "encoder": (Encoder(), tokens),
        "bag": (Bag(sparse=False), tokens["input_ids"]),
        "sparse bag": (Bag(sparse=True), {"input_ids": tokens["input_ids"]}),
        "conv": (_conv_net(), torch.randn(40, 3, 8, 8)),
    }


@pytest.mark.parametrize("name", ["encoder", "bag", "sparse bag", "conv"])
def test_stacked_equals_one_chain_after_another(name):
    model, inputs = _cases()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stacked = estimate_llc(model, inputs, LABELS, **SETTINGS)
        looped = estimate_llc(model, inputs, LABELS, vectorize=False, **SETTINGS)
        chunked = estimate_llc(model, inputs, LABELS, memory_budget=1, micro_batch_size=3, **SETTINGS)
    np.testing.assert_allclose(stacked.loss_trace, looped.loss_trace, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(stacked.loss_trace, chunked.loss_trace, rtol=1e-3, atol=1e-5)
    assert np.isfinite(stacked.llc)


@pytest.mark.parametrize("name", ["encoder", "conv"])
def test_bfloat16(name):
    model, inputs = _cases()[name]
    result = estimate_llc(model, inputs, LABELS, dtype=torch.bfloat16, **SETTINGS)
    full = estimate_llc(model, inputs, LABELS, **SETTINGS)
    np.testing.assert_allclose(result.loss_trace, full.loss_trace, atol=0.1)


def test_sparse_and_dense_gradients_give_the_same_chain():
    tokens = _tokens()["input_ids"]
    dense, sparse = Bag(sparse=False), Bag(sparse=True)
    sparse.load_state_dict(dense.state_dict())
    traces = [estimate_llc(model, tokens, LABELS, vectorize=False, **SETTINGS).loss_trace for model in (dense, sparse)]
    np.testing.assert_allclose(*traces, rtol=1e-4)


def test_a_glob_picks_one_layer():
    model, inputs = _cases()["encoder"]
    result = estimate_llc(model, inputs, LABELS, parameters=["encoder.layers.1.*"], **SETTINGS)
    names = result.settings.parameters
    assert names
    assert all(name.startswith("encoder.layers.1.") for name in names)


def test_what_cannot_be_mapped_runs_in_a_loop_and_says_so():
    torch.manual_seed(0)
    inputs = torch.randn(40, 4)
    with pytest.warns(UserWarning, match="cannot map Counting"):
        found = estimate_llc(Counting(), inputs, LABELS, **SETTINGS)
    assert np.isfinite(found.llc)


@pytest.mark.parametrize("sampler", ["sgld", "fisher_sgld"])
def test_a_parameter_may_be_a_single_number(sampler):
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    settings = SETTINGS | {"sampler": sampler, "localization": 1.0}
    found, expected = (estimate_llc(Scaled(shape), inputs, LABELS, **settings) for shape in ((), (1,)))
    np.testing.assert_array_equal(found.llc_trace(), expected.llc_trace())

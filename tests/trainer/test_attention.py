"""Folded attention gives the losses and gradients of eager attention, for several chains at once."""

from __future__ import annotations

import warnings

import pytest
import torch

from selfmod_hf.complexity.prepare import make_problem
from selfmod_hf.complexity.settings import LLCSettings
from selfmod_hf.stacking import losses_and_gradients
from selfmod_hf.trainer.any_model import task_models_on_data
from selfmod_hf.trainer.attention import FOLDED, set_attention
from tests.trainer.tiny_models import MODELS, tiny_model, tiny_rows


def gradients_of_two_chains(found, vectorize: bool):
    """Return losses (2,) and gradients (2, P) of two chains with a minibatch each."""
    problem = make_problem(
        found.modules, found.inputs, found.targets, LLCSettings(**found.settings({}), vectorize=vectorize)
    )
    assert problem.vectorize is vectorize
    position = problem.anchors.repeat(2, 1)
    position[1] *= 1.01
    return losses_and_gradients(
        problem.losses_of_own_batches,
        problem.layout,
        position,
        samples=[torch.tensor([[0, 1, 5], [3, 4, 2]])],
        inputs=problem.inputs,
        targets=problem.targets,
        own=problem.fixed,
        common={},
        shared_batch=False,
    )


@pytest.mark.parametrize("name", MODELS)
def test_folded_attention_is_eager_attention(name):
    """Under vmap for all models, and outside of it for one of each kind of attention."""
    found = task_models_on_data([tiny_model(name)], tiny_rows(name), None)
    network = found.modules[0].network
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a loop over chains, or a slow path of vmap
        warnings.filterwarnings("ignore", message=".*as_strided_")  # Swin's mean over places
        folded = [gradients_of_two_chains(found, vectorize=True)]
    if name in ("bert", "gpt2", "llama", "vit", "swin"):
        assert network.config._attn_implementation == FOLDED
        folded.append(gradients_of_two_chains(found, vectorize=False))
    set_attention(network, "eager")
    expected, expected_gradients = gradients_of_two_chains(found, vectorize=False)
    for losses, gradients in folded:
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-6)


def test_a_models_own_attention_stays_as_it_was():
    model = tiny_model("bert")
    before = model.config._attn_implementation
    task_models_on_data([model], tiny_rows("bert"), None)
    assert model.config._attn_implementation == before
    assert model.bert.config._attn_implementation == before

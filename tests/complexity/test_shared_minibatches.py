"""Chains that share their minibatches: the same estimate, an error that knows it, and what is refused."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from selfmod_hf.complexity import LLCResult, calibrate_llc, estimate_llc, estimate_llc_many, half_squared_error
from selfmod_hf.complexity.diagnostics import effective_sample_size, standard_error

SETTINGS = {
    "loss_fn": half_squared_error,
    "batch_size": 20,
    "nbeta": 50.0,
    "step_size": 1e-3,
    "localization": 1.0,
    "num_draws": 200,
}


@pytest.fixture(scope="module")
def regression():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 3, generator=generator)
    weights = torch.tensor([[1.0], [-1.0], [0.5]])
    targets = inputs @ weights + torch.randn(300, 1, generator=generator)
    model = nn.Linear(3, 1, bias=False)
    model.weight.data = torch.linalg.lstsq(inputs, targets).solution.T.contiguous()
    return model, inputs, targets


@pytest.mark.parametrize("control_variate", [False, True])
def test_the_first_chain_is_the_same_and_all_see_its_minibatches(regression, control_variate):
    own = estimate_llc(*regression, control_variate=control_variate, **SETTINGS)
    shared = estimate_llc(*regression, control_variate=control_variate, shared_minibatches=True, **SETTINGS)
    np.testing.assert_array_equal(shared.baseline_trace, np.tile(own.baseline_trace[:1], (4, 1)))
    np.testing.assert_allclose(shared.loss_trace[0], own.loss_trace[0], rtol=1e-5)
    assert np.ptp(shared.loss_trace[:, 50:], axis=0).min() > 0  # each has noise of its own
    assert np.ptp(own.baseline_trace, axis=0).max() > 0


def test_several_networks_are_as_each_alone(regression):
    model, inputs, targets = regression
    other = nn.Linear(3, 1, bias=False)
    other.weight.data = model.weight.data + 0.01
    both = estimate_llc_many([model, other], inputs, targets, shared_minibatches=True, **SETTINGS)
    alone = estimate_llc(model, inputs, targets, shared_minibatches=True, **SETTINGS)
    np.testing.assert_allclose(both[0].loss_trace, alone.loss_trace, rtol=1e-5)


def test_memory_for_one_chain_changes_nothing(regression):
    whole = estimate_llc(*regression, shared_minibatches=True, **SETTINGS)
    cut = estimate_llc(*regression, shared_minibatches=True, memory_budget=1, **SETTINGS)
    np.testing.assert_allclose(cut.loss_trace, whole.loss_trace, rtol=1e-5)


def test_the_error_of_common_noise():
    """The mean of 4 chains with the same noise of variance 1 has the error of one chain, not half of it."""
    common = np.random.default_rng(0).standard_normal((1, 4000))
    draws = common + 0.1 * np.random.default_rng(1).standard_normal((4, 4000))
    assert standard_error(draws) == pytest.approx(4000**-0.5 / 2, rel=0.15)
    assert standard_error(draws, dependent=True) == pytest.approx(4000**-0.5, rel=0.15)


def test_the_error_is_that_over_seeds(regression):
    """Unpaired, most noise of an estimate is that of its minibatches. Independent chains would state half of it."""
    settings = SETTINGS | {"paired": False, "shared_minibatches": True, "num_draws": 400, "batch_size": 40}
    found = [estimate_llc(*regression, seed=seed, **settings) for seed in range(24)]
    spread = np.std([result.llc for result in found], ddof=1)
    stated = np.mean([result.standard_error for result in found])
    independent = np.mean([standard_error(result.llc_trace(paired=False)[:, result.kept]) for result in found])
    assert 0.7 * spread < stated < 1.6 * spread
    assert independent < 0.7 * stated
    result = found[0]
    assert result.estimate(paired=False) == (result.llc, result.standard_error)
    kept = result.llc_trace(paired=False)[:, result.kept]
    ratio = standard_error(kept) / result.standard_error
    assert result.ess == pytest.approx(effective_sample_size(kept) * ratio**2)


def test_files_say_it_only_where_it_is_so(regression, tmp_path):
    own = estimate_llc(*regression, **SETTINGS)
    shared = estimate_llc(*regression, shared_minibatches=True, **SETTINGS)
    own.save(tmp_path / "own.json")
    shared.save(tmp_path / "shared.json")
    assert "shared_minibatches" not in json.loads((tmp_path / "own.json").read_text())["settings"]
    assert LLCResult.load(tmp_path / "shared.json").settings.shared_minibatches
    assert "the same in all chains" in shared.summary()


def test_a_calibration_takes_independent_chains(regression):
    with pytest.raises(ValueError, match=r"^shared_minibatches=True: must be left out of a calibration"):
        calibrate_llc(*regression, loss_fn=half_squared_error, shared_minibatches=True)


def test_values_that_are_not_true_or_false(regression):
    with pytest.raises(ValueError, match=r"^shared_minibatches='yes': must be True or False$"):
        estimate_llc(*regression, **SETTINGS | {"shared_minibatches": "yes"})

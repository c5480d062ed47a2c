"""Each status on real data: a network that never learned, a wild step, too few draws, and a good run."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from selfmod_hf.complexity import estimate_llc

from .scenarios import digits, trained_digits_net

NBETA = 64 / math.log(64)


def test_an_untrained_network_is_not_at_a_minimum():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    result = estimate_llc(net, *digits(), step_size=1e-3, localization=10.0, nbeta=200.0, num_draws=300)
    assert result.status == "not_at_minimum"
    assert result.llc < 0


def test_a_wild_step_diverges_and_names_its_chains():
    result = estimate_llc(trained_digits_net(), *digits(), step_size=1.0, nbeta=NBETA, num_draws=300)
    assert result.status == "diverged"
    assert result.diverged_chains == (0, 1, 2, 3)
    assert math.isnan(result.llc)
    assert result.to_dict()["llc"] is None


def test_a_short_run_is_not_converged():
    result = estimate_llc(trained_digits_net(), *digits(), step_size=1e-5, nbeta=NBETA, num_draws=200)
    assert result.status == "not_converged"
    assert "rises" in result.status_reason


def test_ten_draws_are_too_few():
    result = estimate_llc(trained_digits_net(), *digits(), step_size=1e-3, nbeta=NBETA, num_draws=10)
    assert result.status == "not_converged"


def test_a_plateau_is_ok():
    result = estimate_llc(trained_digits_net(), *digits(), step_size=5e-4, nbeta=NBETA, num_draws=1000)
    assert result.status == "ok"
    assert result.llc > 0
    assert result.acceptance_rate == pytest.approx(0.9, abs=0.15)
    assert result.rhat < 1.1
    assert result.ess > 50

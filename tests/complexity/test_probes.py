"""Statistics of the losses of single samples, against linear regression in closed form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from selfmod_hf.complexity import LLCResult, estimate_llc, estimate_llc_many, half_squared_error
from selfmod_hf.complexity.probes import influence_error, influences, singular_fluctuation, waic
from selfmod_hf.errors import InputError

from .scenarios import digits, trained_digits_net

N, D = 300, 4
NBETA, GAMMA = 60.0, 3.0


class Regression:
    """Linear regression with unit noise, its posterior, and the covariances of its samples' losses."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        self.x = random.standard_normal((N, D))
        y = self.x @ random.standard_normal(D) + random.standard_normal(N)
        self.w = np.linalg.lstsq(self.x, y, rcond=None)[0]
        self.y = y
        self.residuals = y - self.x @ self.w
        hessian = self.x.T @ self.x / N
        self.covariance = np.linalg.inv(NBETA * hessian + GAMMA * np.eye(D))  # of w
        self.llc = NBETA * np.trace(hessian @ self.covariance) / 2
        between = self.x @ self.covariance @ self.x.T  # s_ij, of the predictions
        # loss_i is (r_i - x_i.δ)²/2 with normal δ: Cov = r_i r_j s_ij + s_ij²/2
        self.covariances = np.outer(self.residuals, self.residuals) * between + between**2 / 2
        spread = np.diag(between)
        # E exp(-(r - z)²/2) for a normal z of variance s
        self.likelihoods = np.exp(-(self.residuals**2) / (2 * (1 + spread))) / np.sqrt(1 + spread)

    def module(self) -> nn.Linear:
        linear = nn.Linear(D, 1, bias=False, dtype=torch.float64)
        linear.weight.data = torch.tensor(self.w)[None]
        return linear

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(self.x), torch.tensor(self.y)[:, None]

    def losses(self, draws: int) -> np.ndarray:
        """Losses of independent draws of the posterior, (4, draws, N)."""
        random = np.random.default_rng(0)
        moved = random.multivariate_normal(np.zeros(D), self.covariance, size=(4, draws))
        return (self.residuals - moved @ self.x.T) ** 2 / 2


REGRESSION = Regression()


def sampled(**settings) -> LLCResult:
    settings = {"num_draws": 6000, "probes": REGRESSION.data(), **settings}
    return estimate_llc(
        REGRESSION.module(), *REGRESSION.data(), loss_fn=half_squared_error, nbeta=NBETA, localization=GAMMA,
        sampler="sghmc", step_size=5e-3, batch_size=N, **settings,
    )  # fmt: skip


def test_statistics_of_independent_draws_are_those_of_the_posterior():
    losses = REGRESSION.losses(5000)
    expected = REGRESSION.covariances
    fluctuation = singular_fluctuation(losses, NBETA)
    nu = NBETA / 2 * np.diag(expected).mean()
    assert abs(fluctuation.value - nu) < 4 * fluctuation.standard_error < 0.2
    assert nu == pytest.approx(D / 2, rel=0.1)  # a regular model
    criterion = waic(losses, NBETA, N)
    assert criterion.functional_variance == pytest.approx(np.trace(expected), rel=0.05)
    assert criterion.training_loss == pytest.approx(-np.log(REGRESSION.likelihoods).mean(), abs=1e-3)
    added = NBETA / N * criterion.functional_variance / N
    assert criterion.value == pytest.approx(criterion.training_loss + added)
    z = (influences(losses) - expected) / influence_error(losses)
    assert np.mean(np.abs(z) < 5) > 0.9  # errors from four chains have Student's tails
    assert np.corrcoef(influences(losses).ravel(), expected.ravel())[0, 1] > 0.999
    spreads = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(influences(losses, correlation=True), expected / spreads, atol=0.05)
    between = influences(losses[..., :3], losses[..., 3:10])
    np.testing.assert_allclose(between, influences(losses)[:3, 3:10])


def test_an_estimate_keeps_the_losses_of_its_probes(tmp_path):
    result = sampled()
    assert result.probe_losses.shape == (4, 6000, N)
    assert result.probe_losses.dtype == np.float32
    # the probes are all of the data, and a step has no other batch
    np.testing.assert_allclose(result.probe_losses.mean(2), result.loss_trace, rtol=1e-5)
    kept = result.probe_losses[:, result.kept]
    fluctuation = singular_fluctuation(kept, NBETA)
    expected = NBETA / 2 * np.diag(REGRESSION.covariances).mean()
    assert abs(fluctuation.value - expected) < 4 * fluctuation.standard_error < 0.3
    found = influences(kept)
    assert np.corrcoef(found.ravel(), REGRESSION.covariances.ravel())[0, 1] > 0.99
    result.save(tmp_path / "rlct.json")
    loaded = LLCResult.load(tmp_path / "rlct.json")
    np.testing.assert_array_equal(loaded.probe_losses, result.probe_losses)
    assert "probe_losses" not in (tmp_path / "rlct.json").read_text()
    wrong = dataclasses.replace(result, probe_losses=result.probe_losses[:, 1:])
    wrong.save(tmp_path / "rlct.json")
    with pytest.raises(InputError, match="probe_losses: of a wrong type or shape"):
        LLCResult.load(tmp_path / "rlct.json")


def test_probes_change_no_number():
    with_probes, without = sampled(num_draws=50), sampled(num_draws=50, probes=None)
    np.testing.assert_array_equal(with_probes.loss_trace, without.loss_trace)
    assert without.probe_losses is None


def test_probes_of_stacked_and_chunked_chains_are_those_of_one_network():
    nets = [trained_digits_net(), trained_digits_net(200)]
    inputs, targets = digits()
    settings = {"num_draws": 12, "num_chains": 3, "batch_size": 64, "probes": (inputs[:9], targets[:9])}
    together = estimate_llc_many(nets, inputs, targets, **settings)
    small = estimate_llc_many(nets, inputs, targets, memory_budget=1 << 20, micro_batch_size=5, **settings)
    for member, net in enumerate(nets):
        alone = estimate_llc(net, inputs, targets, member=member, **settings)
        for other in (together[member], small[member]):
            np.testing.assert_allclose(other.probe_losses, alone.probe_losses, rtol=1e-3, atol=1e-5)
    net = nets[0]
    losses = nn.functional.cross_entropy(net(inputs[:9]), targets[:9], reduction="none")
    for chain in range(3):  # draw 0 is w*
        np.testing.assert_allclose(together[0].probe_losses[chain, 0], losses.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        (torch.zeros(3, D), "probes='Tensor': must be None or a tuple"),
        ((torch.zeros(3, D), torch.zeros(2, 1)), "probes inputs=.* of as many samples as targets, 2"),
        ((torch.zeros(3, D + 1).double(), torch.zeros(3, 1).double()), "probes inputs=.* like that of the data"),
        ((torch.zeros(3, D).double(), torch.zeros(3).long()), "probes targets=.* like that of the data"),
        (({"x": torch.zeros(3, D)}, torch.zeros(3, 1)), "probes='x, targets': must be inputs like those of the data"),
    ],
)
def test_probes_of_another_form_are_rejected(probes, message):
    with pytest.raises(InputError, match=message):
        sampled(num_draws=4, probes=probes)


def test_losses_of_another_shape_are_rejected():
    losses = np.zeros((4, 10, 3))
    with pytest.raises(InputError, match=r"losses=\(4, 10\): must be \(chains, draws, samples\)"):
        singular_fluctuation(losses[..., 0], NBETA)
    with pytest.raises(InputError, match=r"others=\(4, 9, 3\): must have the chains and draws of losses"):
        influences(losses, losses[:, 1:])
    with pytest.raises(InputError, match=r"others=\(1, 40, 3\)"):
        influences(losses, losses.reshape(1, 40, 3))  # as many draws, but of other chains
    with pytest.raises(InputError, match=r"others=\(4, 9, 3\)"):
        influence_error(losses, losses[:, 1:])
    with pytest.raises(InputError, match=r"losses=\(4, 10, 0\)"):
        waic(losses[..., :0], NBETA, num_samples=10)
    with pytest.raises(InputError, match="nbeta=-1: must be a positive number"):
        singular_fluctuation(losses, -1)

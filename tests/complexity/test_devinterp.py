"""Estimates and influence functions agree with devinterp's, within Monte Carlo error, where it is installed.

Every step takes all samples, because devinterp repeats the minibatches of its first pass in one order.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selfmod_hf.complexity import cross_entropy, estimate_llc, half_squared_error, influences
from selfmod_hf.complexity.diagnostics import standard_error
from selfmod_hf.complexity.probes import influence_error

devinterp_llc = pytest.importorskip("devinterp.slt.llc")
devinterp_bif = pytest.importorskip("devinterp.slt.bif")
datasets = pytest.importorskip("datasets")

pytestmark = pytest.mark.slow

CHAINS, DRAWS, BURNIN = 6, 1500, 500
SAMPLES = 60
NBETA = 40.0


def fitted(net: nn.Module, x: Tensor, y: Tensor, loss_fn: Callable[..., Tensor]) -> nn.Module:
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(net(x), y).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return net


def regression() -> tuple[nn.Module, Tensor, Tensor, Callable[..., Tensor], float]:
    x = torch.randn(SAMPLES, 5)
    y = x @ torch.randn(5, 1) + torch.randn(SAMPLES, 1)
    return nn.Linear(5, 1), x, y, half_squared_error, 5e-3


def deep_linear() -> tuple[nn.Module, Tensor, Tensor, Callable[..., Tensor], float]:
    x = torch.randn(SAMPLES, 4)
    y = x @ torch.randn(4, 1) @ torch.randn(1, 3) + 0.5 * torch.randn(SAMPLES, 3)
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False))
    return net, x, y, half_squared_error, 1e-3


def classifier() -> tuple[nn.Module, Tensor, Tensor, Callable[..., Tensor], float]:
    x = torch.randn(SAMPLES, 3)
    y = torch.distributions.Categorical(logits=x @ torch.randn(3, 3)).sample()  # no network of three units fits these
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    return net, x, y, cross_entropy, 1e-2


NETWORKS = {"regression": regression, "deep linear": deep_linear, "classifier": classifier}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_agreement(name):
    torch.manual_seed(1)
    net, x, y, loss_fn, step_size = NETWORKS[name]()
    fitted(net, x, y, loss_fn)

    ours = estimate_llc(
        net, x, y, loss_fn=loss_fn, nbeta=NBETA, localization=4.0, step_size=step_size, batch_size=SAMPLES,
        num_chains=CHAINS, num_draws=BURNIN + DRAWS, num_burnin_steps=BURNIN, probes=(x, y), preset="paper",
    )  # fmt: skip

    def loss_of_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
        """A sample is two tokens: its number, and a zero."""
        samples = tokens[:, 0]
        return loss_fn(model(x[samples]), y[samples])[:, None]

    rows = datasets.Dataset.from_dict({"input_ids": [[sample, 0] for sample in range(SAMPLES)]}).with_format("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = devinterp_llc.sample(
            net, rows, {"probes": (rows, 1)}, lr=step_size, n_beta=NBETA, localization=4.0, num_chains=CHAINS,
            num_draws=DRAWS, num_burnin_steps=BURNIN, batch_size=SAMPLES, num_init_loss_batches=1,
            loss_fn=loss_of_tokens, device="cpu", init_seed=7,
        )  # fmt: skip
    theirs = devinterp_llc.compute_llc(samples)
    trace = NBETA * (theirs.loss_trace.values - float(theirs.init_loss))  # (C, steps)
    plateau = trace[:, BURNIN:]
    error = math.hypot(ours.standard_error, standard_error(plateau.astype(float)))
    assert abs(ours.llc - plateau.mean()) < 4 * error < 0.25 * ours.llc
    # llc_mean is over all steps, the burn-in from w* too
    assert float(theirs.llc_mean) == pytest.approx(trace.mean(), rel=1e-4)

    order = samples.dataset.input_ids_probes.values[:, 0]
    found = devinterp_bif.compute_bif(samples, correlation_method="sequence", compute_covariance=True, device="cpu")
    expected = np.empty((SAMPLES, SAMPLES))
    expected[np.ix_(order, order)] = found.influences.values
    their_losses = np.empty((CHAINS, DRAWS, SAMPLES))
    their_losses[:, :, order] = samples.dataset.loss_probes.values[..., 0]
    kept = ours.probe_losses[:, ours.kept]
    np.testing.assert_allclose(influences(their_losses), expected, rtol=1e-3, atol=1e-4)  # the same formula
    z = (influences(kept) - expected) / np.hypot(influence_error(kept), influence_error(their_losses))
    print(f"{name}: {ours.llc:.3f} ± {ours.standard_error:.3f}, devinterp {plateau.mean():.3f}"
          f" ± {standard_error(plateau.astype(float)):.3f}, its llc_mean {float(theirs.llc_mean):.3f},"
          f" influences: correlation {np.corrcoef(influences(kept).ravel(), expected.ravel())[0, 1]:.4f},"
          f" |z| < 3 in {np.mean(np.abs(z) < 3):.3f}")  # fmt: skip
    assert np.mean(np.abs(z) < 3) > 0.95
    assert np.corrcoef(influences(kept).ravel(), expected.ravel())[0, 1] > 0.9

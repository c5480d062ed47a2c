"""Draw 0 is the trained network and worth 0; modules for which it cannot be are rejected."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from selfmod_hf.complexity import calibrate_llc, estimate_llc, estimate_llc_many

INPUTS = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 3
FEW = {"num_chains": 2, "num_draws": 24, "batch_size": 8, "step_size": 1e-6}
REJECTED = r"^model='\w+', .* must be one whose loss of a sample depends on that sample alone"


class Then(nn.Module):
    """A linear classifier, and what is done to its logits."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 3)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.layer(x))


def batch_norm(tracked: bool) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8, track_running_stats=tracked)
    return nn.Sequential(nn.Linear(8, 8), norm, nn.ReLU(), nn.Linear(8, 3))


def sometimes_doubled(logits: Tensor) -> Tensor:
    """Stochastic depth that stays on in eval mode."""
    return logits if random.random() < 0.9 else 2 * logits


DEPENDENT = {
    "batch norm": batch_norm(tracked=False),
    "mean of the batch": Then(lambda logits: logits - logits.mean(0)),
    "dropout": Then(lambda logits: nn.functional.dropout(logits, 0.2, training=True)),
    "stochastic depth": Then(sometimes_doubled),
}
SETTINGS: dict[str, dict[str, object]] = {
    "a minibatch": {},
    "one sample": {"batch_size": 1},
    "pieces of all": {"batch_size": 64, "micro_batch_size": 16},
    "all": {"batch_size": 64},
    "fisher_sgld": {"sampler": "fisher_sgld", "localization": 1.0},
    "bfloat16": {"dtype": torch.bfloat16},
}


@pytest.mark.filterwarnings("ignore:torch.vmap cannot map")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("model", DEPENDENT.values(), ids=DEPENDENT)
def test_a_loss_that_depends_on_the_batch_is_rejected(model, settings):
    random.seed(0)
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=REJECTED) as error:
        estimate_llc(model, INPUTS, LABELS, **(FEW | settings))
    assert "\n" not in str(error.value)


def test_a_sample_alone_is_looked_at_where_the_fisher_information_is_sampled():
    """That is a mean over single samples, so a module that treats one sample in a way of its own makes it wrong."""
    model = Then(lambda logits: logits if len(logits) > 1 else 2 * logits)
    estimate_llc(model, INPUTS, LABELS, **FEW)
    with pytest.raises(ValueError, match=REJECTED):
        estimate_llc(model, INPUTS, LABELS, **(FEW | SETTINGS["fisher_sgld"]))


def test_the_layers_without_running_statistics_are_named():
    with pytest.raises(ValueError, match=r"without running statistics: 1$"):
        calibrate_llc(batch_norm(tracked=False), INPUTS, LABELS, num_draws=8, batch_size=8)


@pytest.mark.parametrize(
    "loss_fn",
    [lambda losses: losses / losses.sum(), lambda losses: losses.mean().expand(len(losses))],
    ids=["shares", "mean"],
)
def test_a_loss_function_that_looks_at_the_batch_is_rejected(loss_fn):
    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        return loss_fn(nn.functional.cross_entropy(outputs, targets, reduction="none"))

    with pytest.raises(ValueError, match="and so must the loss function"):
        estimate_llc(Then(lambda logits: logits), INPUTS, LABELS, loss_fn=losses, **FEW)


def test_of_several_networks_the_finite_ones_are_looked_at():
    broken = batch_norm(tracked=False)
    nn.init.constant_(broken[0].weight, torch.nan)
    with pytest.raises(ValueError, match=REJECTED):
        estimate_llc_many([broken, batch_norm(tracked=False)], INPUTS, LABELS, **FEW)


def harmless(logits: Tensor) -> Tensor:
    """Random numbers that are drawn and not used, as by layers that are dropped in training only."""
    torch.rand(())
    return logits


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("model", [batch_norm(tracked=True), Then(harmless)], ids=["batch norm", "unused numbers"])
def test_other_modules_begin_at_zero(model, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = estimate_llc(model, INPUTS, LABELS, **(FEW | settings))
    allowed = 1e-4 if result.settings.compute_dtype == "float32" else 0.1
    assert abs(result.llc_trace()[:, 0]).max() < allowed


@pytest.mark.parametrize("batch_size", [8, 64])
def test_a_loss_that_broadcasts_is_rejected(batch_size):
    """Outputs (B, 1) beside targets (B,): each loss is a mean over all targets of the batch. With all data, too."""

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(1)

    model = nn.Linear(8, 1)
    with pytest.raises(ValueError, match="and so must the loss function"):
        estimate_llc(model, INPUTS, LABELS.float(), loss_fn=losses, **(FEW | {"batch_size": batch_size}))

"""Sampling some numbers of a network: masks of parameters against closed forms and other ways to the same numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selfmod_hf.complexity import estimate_llc, estimate_llc_many
from selfmod_hf.errors import InputError

from .scenarios import DUMMY, Quadratic, digits, given_loss, sgld_llc, trained_digits_net

SHORT = {"num_draws": 12, "num_chains": 2, "batch_size": 64}


def test_only_the_chosen_numbers_move():
    """The learning coefficient of a quadratic is the sum over the chosen directions."""
    curvatures = [1.0, 0.2, 3.0, 0.5]
    settings = {"nbeta": 100.0, "localization": 5.0, "step_size": 2e-3}
    mask = torch.tensor([True, False, True, False])
    result = estimate_llc(
        Quadratic(curvatures), *DUMMY, loss_fn=given_loss, num_draws=8000, sampler="sgld", **settings,
        parameters={"w": mask},
    )  # fmt: skip
    expected = sgld_llc([1.0, 3.0], 100.0, 5.0, 2e-3)
    assert abs(result.llc - expected) < 4 * result.standard_error < 0.2
    assert result.settings.num_parameters == 2
    (name,) = result.settings.parameters
    assert re.fullmatch(r"w \(2 chosen numbers, [0-9a-f]{6}\)", name)  # with a digest of the mask


def test_a_mask_of_all_numbers_is_the_parameter():
    net = trained_digits_net()
    by_mask = {"0.bias": torch.ones(16, dtype=torch.bool), "2.*": None}
    found = estimate_llc(net, *digits(), parameters=by_mask, **SHORT)
    expected = estimate_llc(net, *digits(), parameters=["2.weight", "2.bias", "0.bias"], **SHORT)
    assert found.settings.num_parameters == expected.settings.num_parameters == 16 + 170
    np.testing.assert_allclose(found.loss_trace[:, 0], expected.loss_trace[:, 0], rtol=1e-6)  # both at w*
    masked, *whole = found.settings.parameters
    assert masked.startswith("0.bias (16 chosen numbers, ")
    assert whole == ["2.weight", "2.bias"]


class Attention(nn.Module):
    """One self-attention layer and a classifier of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.classifier(mixed.mean(1))


def head_rows(head: int) -> Tensor:
    """The rows of one of two heads in the projections of queries, keys and values, (24, 8)."""
    mask = torch.zeros(3, 2, 4, 8, dtype=torch.bool)
    mask[:, head] = True
    return mask.view(24, 8)


def test_one_attention_head_of_several_networks():
    torch.manual_seed(0)
    nets = [Attention(), Attention()]
    before = [net.attention.in_proj_weight.clone() for net in nets]
    x, y = torch.randn(120, 5, 8), torch.arange(120) % 3
    settings = {"parameters": {"attention.in_proj_weight": head_rows(1)}, **SHORT}
    together = estimate_llc_many(nets, x, y, **settings)
    for member, net in enumerate(nets):
        alone = estimate_llc(net, x, y, member=member, **settings)
        np.testing.assert_allclose(together[member].loss_trace, alone.loss_trace, rtol=1e-4, atol=1e-6)
        assert alone.settings.num_parameters == 3 * 4 * 8
        assert alone.distance_per_chain.min() > 0
        assert torch.equal(net.attention.in_proj_weight, before[member])
    other = estimate_llc(nets[0], x, y, parameters={"attention.in_proj_weight": head_rows(0)}, **SHORT)
    assert not np.allclose(other.loss_trace, together[0].loss_trace)


@pytest.mark.parametrize("setting", [{"dtype": torch.bfloat16}, {"sampler": "fisher_sgld"}, {"vectorize": False}])
def test_masks_with_other_settings(setting):
    mask = torch.zeros(16, 64, dtype=torch.bool)
    mask[:8] = True
    settings = {"parameters": {"0.weight": mask}, "step_size": 1e-6, **SHORT, **setting}
    result = estimate_llc(trained_digits_net(), *digits(), **settings)
    assert np.isfinite(result.loss_trace).all()
    assert result.settings.num_parameters == 8 * 64


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


@pytest.mark.parametrize(
    ("model", "choice", "message"),
    [
        (
            nn.Linear(4, 4),
            {"weight": torch.ones(4, 4)},
            r"parameters\['weight'\]='torch.float32 \(4, 4\)': must be None",
        ),
        (nn.Linear(4, 4), {"weight": torch.ones(4, dtype=torch.bool)}, r"type bool and shape \(4, 4\)"),
        (nn.Linear(4, 4), {"weight": torch.zeros(4, 4, dtype=torch.bool)}, "a mask with a True at least"),
        (nn.Linear(4, 4), {"w": None}, "parameters='w': must be a name or pattern among weight, bias"),
        (nn.Linear(4, 4), {}, "one name or pattern at least"),
        (Tied(), {"a.weight": torch.ones(4, 4, dtype=torch.bool)}, "because modules share the parameter"),
    ],
)
def test_a_mask_that_does_not_fit_is_rejected(model, choice, message):
    x = torch.zeros(6, 4)
    with pytest.raises(InputError, match=message):
        estimate_llc(model, x, torch.zeros(6, dtype=torch.int64), parameters=choice, **SHORT)

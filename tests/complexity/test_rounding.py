"""What the rounding of bfloat16 adds to estimates, and that the status names it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfmod_hf.complexity import LLCResult, calibrate_llc, estimate_llc
from selfmod_hf.complexity.prepare import make_problem
from selfmod_hf.complexity.rounding import rounding_bias
from selfmod_hf.complexity.settings import LLCSettings

TRUTH = 13.5  # 8 inputs and 4 classes: 36 parameters, 9 of which change no probability
LARGE = 1e5  # nβ at which rounding is worth nats


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 8, generator=generator)
    probabilities = (inputs @ torch.randn(8, 4, generator=generator)).softmax(1)
    return inputs, torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def at_minimum(seed: int) -> nn.Linear:
    """A softmax regression at a minimum in float64. The seed decides which of the equivalent ones it is."""
    inputs, targets = data()
    torch.manual_seed(seed)
    model = nn.Linear(8, 4).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(model(inputs.double()), targets)
        found.backward()
        return found

    optimizer.step(loss)
    return model.float()


def estimate(model: nn.Module, nbeta: float, **settings: object) -> LLCResult:
    given = {"sampler": "sghmc", "step_size": 0.1 / nbeta, "localization": nbeta / 400, "nbeta": nbeta}
    return estimate_llc(model, *data(), **given, num_draws=1000, **settings)


@pytest.mark.parametrize("seed", [0, 1, 3, 5])
def test_rounding_that_counts_is_never_ok(seed):
    """The estimates are 14.0, 18.1, 12.8 and 6.3: the rounding of w* decides."""
    model = at_minimum(seed)
    rounded = estimate(model, LARGE, dtype=torch.bfloat16)
    assert rounded.status in ("biased", "not_at_minimum")
    assert "leave out dtype" in rounded.status_reason
    assert rounded.interval[0] < TRUTH < rounded.interval[1]
    exact = estimate(model, LARGE)
    assert exact.biases.rounding == 0
    assert exact.llc == pytest.approx(TRUTH, abs=1.2)


def test_rounding_that_does_not_count_is_no_bias():
    rounded = estimate(at_minimum(1), 1000.0, dtype=torch.bfloat16)
    assert 0 < rounded.biases.rounding < 0.5
    assert rounded.status in ("ok", "not_converged")


def test_what_rounding_adds_is_foretold():
    """By about as much as the estimates in both precisions differ."""
    model = at_minimum(1)
    added = estimate(model, LARGE, dtype=torch.bfloat16).llc - estimate(model, LARGE).llc
    assert added > 3
    problem = make_problem([model], *data(), LLCSettings(dtype=torch.bfloat16))
    assert added < rounding_bias(problem, 0, LARGE, TRUTH) < 4 * added


def test_a_calibration_in_bfloat16_names_its_rounding():
    settings = {"sampler": "sghmc", "num_draws": 200, "nbeta": LARGE, "dtype": torch.bfloat16}
    calibration = calibrate_llc(at_minimum(1), *data(), **settings)
    assert calibration.status == "biased"
    assert "leave out dtype" in calibration.status_reason
    assert calibration.interval[0] < TRUTH < calibration.interval[1]


def test_the_minimum_is_that_of_the_precision_of_the_weights():
    rounded = estimate(at_minimum(5), LARGE, dtype=torch.bfloat16, minimize=True)
    assert rounded.lowered_by < 0.1
    assert rounded.biases.not_at_minimum > 1  # of the rounded losses

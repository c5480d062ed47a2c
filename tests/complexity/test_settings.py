"""Types, modes and devices of networks and data: the same numbers as usual, or an error that names the argument."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selfmod_hf.complexity import calibrate_llc, estimate_llc, estimate_llc_many, half_squared_error

from .scenarios import digits, trained_digits_net

FEW = {"num_draws": 24, "num_chains": 2, "batch_size": 64, "step_size": 1e-5}
GRID = {"step_sizes": [1e-5], "localizations": [10.0, 100.0]}  # of a calibration, which otherwise looks for its own
PIXELS, LABELS = digits()


def estimated(model: nn.Module | None = None, inputs: Tensor = PIXELS, targets: Tensor = LABELS, **settings):
    return estimate_llc(model or trained_digits_net(), inputs, targets, **(FEW | settings))


# ---- half precision ----


def stored_in(dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(trained_digits_net()).to(dtype)


@pytest.mark.parametrize(
    ("dtype", "sampler"),
    [
        (torch.bfloat16, "sgld"),
        (torch.bfloat16, "sghmc"),
        (torch.float16, "rmsprop_sgld"),
        (torch.float16, "fisher_sgld"),
    ],
)
def test_half_precision_weights_are_sampled_in_float32(dtype, sampler):
    """To the last bit, since a chain's steps are smaller than the rounding of half precision."""
    stored = stored_in(dtype)
    full = estimated(copy.deepcopy(stored).float(), sampler=sampler)
    half = estimated(stored, sampler=sampler)
    np.testing.assert_array_equal(half.loss_trace, full.loss_trace)
    assert half.settings == full.settings
    assert half.settings.compute_dtype == "float32"
    assert {value.dtype for value in stored.parameters()} == {dtype}


@pytest.mark.parametrize("settings", [{"vectorize": False}, {"memory_budget": 150_000, "micro_batch_size": 40}])
def test_half_precision_weights_in_other_arrangements(settings):
    stored, few = stored_in(torch.bfloat16), {"num_draws": 8, "num_chains": 2, "batch_size": 64, "step_size": 1e-5}
    full = estimate_llc(copy.deepcopy(stored).float(), PIXELS, LABELS, **few, **settings)
    half = estimate_llc(stored, PIXELS.bfloat16(), LABELS, **few, **settings)  # n/16 is exact in bfloat16
    np.testing.assert_array_equal(half.loss_trace, full.loss_trace)


def test_half_precision_weights_of_several_networks_and_of_a_grid():
    stored = stored_in(torch.bfloat16)
    full = copy.deepcopy(stored).float()
    for a, b in zip(*(estimate_llc_many([net] * 2, PIXELS, LABELS, **FEW) for net in (full, stored)), strict=True):
        np.testing.assert_array_equal(a.loss_trace, b.loss_trace)
    settings = {"num_draws": 20, "batch_size": 64, "num_chains": 2, **GRID}
    first, second = (calibrate_llc(net, PIXELS, LABELS, **settings) for net in (full, stored))
    assert first.table == second.table


def test_bfloat16_for_the_computation_keeps_the_chains_of_a_half_network_in_float32():
    stored = stored_in(torch.float16)
    half = estimated(stored, dtype=torch.bfloat16)
    full = estimated(copy.deepcopy(stored).float(), dtype=torch.bfloat16)
    np.testing.assert_array_equal(half.loss_trace, full.loss_trace)
    assert half.settings.compute_dtype == "bfloat16"


def test_layers_of_several_types_are_sampled_in_the_widest():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(64, 8).bfloat16(), nn.Linear(8, 10)

        def forward(self, x):
            return self.last(self.first(x.to(self.first.weight.dtype)).to(self.last.weight.dtype))

    assert estimated(Mixed()).settings.compute_dtype == "float32"
    np.testing.assert_array_equal(estimated(Mixed()).loss_trace, estimated(Mixed().float()).loss_trace)


def test_a_network_that_converts_to_bfloat16_by_itself_names_the_setting():
    class Converting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10).bfloat16()

        def forward(self, x):
            return self.layer(x.bfloat16())

    with pytest.raises(ValueError, match=r"^dtype=None: must be torch\.bfloat16 for this network"):
        estimated(Converting())
    assert math.isfinite(estimated(Converting(), dtype=torch.bfloat16).init_loss)


# ---- types of data ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("estimate", [estimate_llc, calibrate_llc])
def test_inputs_of_a_type_that_the_network_does_not_take_are_named(estimate, dtype):
    with pytest.raises(ValueError, match=rf"^inputs='{dtype}': must be torch\.float32 for this network$"):
        estimate(trained_digits_net(), PIXELS.to(dtype), LABELS)


def test_the_entry_of_a_dict_is_named():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.scale = nn.EmbeddingBag(9, 3), nn.Linear(1, 3)

        def forward(self, tokens, sizes):
            return self.bag(tokens) + self.scale(sizes)

    data = {"tokens": torch.randint(0, 9, (20, 4)), "sizes": torch.rand(20, 1)}
    labels = torch.arange(20) % 3
    assert math.isfinite(estimate_llc(Tokens(), data, labels, num_draws=4).init_loss)
    with pytest.raises(ValueError, match=r"^sizes='torch\.float64': must be torch\.float32 for this network$"):
        estimate_llc(Tokens(), data | {"sizes": data["sizes"].double()}, labels, num_draws=4)
    with pytest.raises(ValueError, match=r"^tokens='torch\.float32': must be torch\.int64 for this network$"):
        estimate_llc(Tokens(), data | {"tokens": data["tokens"].float()}, labels, num_draws=4)


def test_a_network_in_float64_takes_float64_and_names_other_inputs():
    net = copy.deepcopy(trained_digits_net()).double()
    assert estimated(net, PIXELS.double()).settings.compute_dtype == "float64"
    with pytest.raises(ValueError, match=r"^inputs='torch\.float32': must be torch\.float64"):
        estimated(net)


def test_targets_of_a_type_that_the_loss_does_not_take_are_named():
    def loss(outputs, targets):
        return nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(1)

    yes_or_no = nn.functional.one_hot(LABELS, 10)
    assert math.isfinite(estimated(targets=yes_or_no.float(), loss_fn=loss).init_loss)
    with pytest.raises(ValueError, match=r"^targets='torch\.int64': must be torch\.float32 for this network"):
        estimated(targets=yes_or_no, loss_fn=lambda outputs, targets: loss(outputs, targets.clamp_(0.0, 1.0)))


def test_complex_targets_are_named_unless_their_losses_are_real():
    targets = torch.zeros(len(PIXELS), 10, dtype=torch.complex64)

    def squared_distance(outputs, targets):
        return (outputs - targets).abs().square().sum(1)

    assert math.isfinite(estimated(targets=targets, loss_fn=squared_distance).init_loss)
    with pytest.raises(ValueError, match=r"^targets='torch\.complex64': must be torch\.float32 for this network"):
        estimated(targets=targets, loss_fn=half_squared_error)


def test_complex_losses_are_rejected():
    def complex_loss(outputs, targets):
        return half_squared_error(outputs, targets.real) * 1j

    name = "loss_fn='complex_loss, giving torch.complex64': must be real losses"
    with pytest.raises(ValueError, match=re.escape(name)):
        estimated(targets=torch.zeros(len(PIXELS), 10), loss_fn=complex_loss)


def test_an_error_of_the_network_itself_stays_as_it_is():
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            raise RuntimeError("of my own")

    with pytest.raises(RuntimeError, match=r"^of my own$"):
        estimated(Broken(), PIXELS.double())


def test_half_precision_targets_are_those_in_float32():
    targets = torch.zeros(len(PIXELS), 10)
    full, half = (estimated(targets=t, loss_fn=half_squared_error) for t in (targets, targets.bfloat16()))
    np.testing.assert_array_equal(half.loss_trace, full.loss_trace)


# ---- modes ----


def test_inference_mode_and_others_change_nothing():
    usual = estimated()
    with torch.inference_mode():
        inputs, targets, net = PIXELS.clone(), LABELS.clone(), copy.deepcopy(trained_digits_net())
        within = estimated(net, inputs, targets)
    after = estimated(net, inputs, targets)
    with torch.no_grad():
        without_gradients = estimated()
    frozen = copy.deepcopy(trained_digits_net()).requires_grad_(False)
    with_graph = PIXELS.clone().requires_grad_() * 1
    for found in (within, after, without_gradients, estimated(frozen), estimated(inputs=with_graph)):
        np.testing.assert_array_equal(found.loss_trace, usual.loss_trace)


def test_autocast_around_the_call_changes_nothing():
    """It would round layers of a loop, and not those of stacked chains."""
    usual = estimated(vectorize=False)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(estimated(vectorize=False).loss_trace, usual.loss_trace)


def test_a_grid_in_inference_mode():
    settings = {"num_draws": 20, "num_chains": 2, "batch_size": 64, **GRID}
    usual = calibrate_llc(trained_digits_net(), PIXELS, LABELS, **settings)
    with torch.inference_mode():
        within = calibrate_llc(trained_digits_net(), PIXELS, LABELS, **settings)
    assert within.table == usual.table


# ---- networks and selections ----


def test_parameters_that_two_layers_share_are_sampled_once():
    class Tied(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.second.weight = self.first.weight
            self.tied = tied
            if not tied:
                del self.second

        def forward(self, x):
            hidden = self.first(x).relu()
            return (self.second(hidden) if self.tied else nn.functional.linear(hidden, self.first.weight))[:, :10]

    shared = estimated(Tied(True))
    assert shared.settings.num_parameters == 64 * 64
    np.testing.assert_array_equal(shared.loss_trace, estimated(Tied(False)).loss_trace)
    with pytest.raises(ValueError, match=r"^parameters='second\.weight': must be a name or pattern among first"):
        estimated(Tied(True), parameters=["second.weight"])


class WithBuffer(nn.Module):
    def __init__(self, extra: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 10)
        self.unused = nn.Linear(2, 2)
        self.extra = nn.Parameter(extra, requires_grad=False)

    def forward(self, x):
        return self.layer(x)[:, torch.arange(10)]


def test_whole_numbers_among_the_parameters_stay():
    found = estimated(WithBuffer(torch.arange(10)))
    assert found.settings.num_parameters == 650 + 6
    assert found.settings.compute_dtype == "float32"


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (WithBuffer(torch.ones(3)), {"parameters": ["unused.*"]},
         "^parameters='unused.weight, unused.bias': must be such that cross_entropy has a gradient by one of them$"),
        (WithBuffer(torch.ones(3)), {"parameters": [3]}, "^parameters=3: must be names or patterns, which are texts$"),
        (WithBuffer(torch.ones(3)), {"parameters": 3}, "^parameters=3: must be None, a list of names or patterns"),
        (WithBuffer(torch.ones(3, dtype=torch.complex64)), {},
         "^model='WithBuffer, whose extra is torch.complex64 on cpu': must be a module of real parameters$"),
        (nn.Linear(64, 10, device="meta"), {},
         "^model='Linear, whose weight is torch.float32 on meta': must be a module whose weights are loaded$"),
        (nn.Linear(0, 0), {}, "^model='Linear, of 0 floating-point numbers': must be a module of one number or more$"),
        (nn.ReLU(), {}, "^model='ReLU': must be a module with parameters$"),
        (None, {"member": -1}, "^member=-1: must be an integer of at least 0$"),
        (None, {"progress": 3}, "^progress=3: must be None or a function"),
        (None, {"paired": "no"}, "^paired='no': must be True or False$"),
        (None, {"data": 3}, "^data=3: must be None or a text$"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_what_cannot_be_sampled_is_named(model, settings, message):
    with pytest.raises(ValueError, match=message):
        estimated(model, **settings)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (PIXELS.to("meta"), "^inputs='without numbers, on device meta': must be a tensor that holds numbers$"),
        (PIXELS.to_sparse(), r"^inputs='torch\.sparse_coo': must be dense$"),
        (PIXELS.numpy(), "^inputs='ndarray': must be a tensor$"),
        ((PIXELS * math.nan).bfloat16(), "^inputs='NaN or infinity': must be finite$"),
    ],
)
def test_data_without_usable_numbers_are_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        estimated(inputs=inputs)


def test_numbers_of_noise_are_whole():
    with pytest.raises(ValueError, match=r"^members=0\.5: must be integers of at least 0$"):
        estimate_llc_many([trained_digits_net()], PIXELS, LABELS, members=[0.5])


# ---- nβ ----


def test_the_batch_of_a_rule_is_the_one_that_is_drawn():
    data = {"inputs": PIXELS[:96], "targets": LABELS[:96], "nbeta": "batch/log batch"}
    for found in (
        estimated(**data, batch_size=512),
        calibrate_llc(trained_digits_net(), **data, batch_size=512, num_draws=20, **GRID).result,
    ):
        assert found.settings.batch_size == 96
        assert found.nbeta == pytest.approx(96 / math.log(96))
    assert estimated(**data, batch_size=64).nbeta == pytest.approx(64 / math.log(64))
    with pytest.raises(ValueError, match=r"^n=1: must be at least 2 for nbeta='batch/log batch'$"):
        estimated(inputs=PIXELS[:1], targets=LABELS[:1], nbeta="batch/log batch", batch_size=512)

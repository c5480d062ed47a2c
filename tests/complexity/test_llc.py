"""`estimate_llc` against closed forms, and against itself in other arrangements."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from selfmod_hf import calibrate_rlct, estimate_rlct
from selfmod_hf.complexity import calibrate_llc, estimate_llc, estimate_llc_many, half_squared_error, llc_preset
from selfmod_hf.complexity.settings import CalibrationOptions, LLCOptions, LLCSettings

from .scenarios import DUMMY, Quadratic, digits, given_loss, sgld_llc, trained_digits_net

NBETA = 64 / math.log(64)
CASES = [  # curvatures, nβ, γ, ε
    ([1.0, 1.0, 1.0, 1.0], 100.0, 10.0, 1e-3),
    ([1.0, 0.5, 0.1], 100.0, 1.0, 1e-2),
    ([2.0, 2.0, 2.0], 500.0, 100.0, 2e-3),
    ([1.0], 50.0, 5.0, 4e-2),
]


@pytest.mark.parametrize(("curvatures", "nbeta", "gamma", "step"), CASES)
@pytest.mark.parametrize("sampler", ["sgld", "sghmc"])
def test_quadratics_have_their_closed_form(sampler, curvatures, nbeta, gamma, step):
    """SGLD with its discretization, SGHMC (BAOAB) without any: 16 estimates, each within 2 of its standard errors (but
    for what chance allows), their mean within 2.5 of its own, a quarter as large (2.5, since there are eight cases)."""
    results = estimate_llc_many(
        [Quadratic(curvatures)] * 16, *DUMMY, loss_fn=given_loss, sampler=sampler, step_size=step,
        localization=gamma, nbeta=nbeta, num_draws=2000,
    )  # fmt: skip
    exact = sgld_llc(curvatures, nbeta, gamma, step if sampler == "sgld" else 0.0)
    estimates, errors = (np.array([getattr(r, name) for r in results]) for name in ("llc", "standard_error"))
    assert np.mean(abs(estimates - exact) < 2 * errors) >= 0.8
    assert abs(estimates.mean() - exact) < 2.5 * np.sqrt(np.mean(errors**2) / 16)
    assert errors.max() < 0.15 * exact
    # a direction counts 1/2 at most, so that a larger estimate is one of a step that is too long
    expected = "ok" if exact < len(curvatures) / 2 else "biased"
    assert np.mean([r.status == expected for r in results]) >= 0.7


@pytest.mark.slow
def test_standard_errors_are_honest():
    """Of 200 repeats of an estimate, 90 to 99 % of the 95 % intervals cover the truth."""
    results = estimate_llc_many(
        [Quadratic([1.0, 0.3])] * 200, *DUMMY, loss_fn=given_loss, step_size=5e-3, localization=5.0,
        nbeta=100.0, num_draws=2000,
    )  # fmt: skip
    exact = sgld_llc([1.0, 0.3], 100.0, 5.0, 5e-3)
    covered = np.mean([abs(r.llc - exact) < 1.96 * r.standard_error for r in results])
    assert 0.90 <= covered <= 0.99


def _digits_llc(**settings):
    defaults = {"num_draws": 60, "num_chains": 4, "batch_size": 64, "step_size": 1e-5, "nbeta": 64 / math.log(64)}
    return estimate_llc(trained_digits_net(), *digits(), **(defaults | settings))


def _assert_same(first, second, rtol=1e-4):
    np.testing.assert_allclose(first.loss_trace, second.loss_trace, rtol=rtol, atol=1e-5)
    np.testing.assert_allclose(first.baseline_trace, second.baseline_trace, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("sampler", ["sgld", "rmsprop_sgld", "sghmc"])
def test_same_arguments_same_bits(sampler):
    first, second = _digits_llc(sampler=sampler), _digits_llc(sampler=sampler)
    np.testing.assert_array_equal(first.loss_trace, second.loss_trace)
    assert (first.loss_trace != _digits_llc(sampler=sampler, seed=1).loss_trace)[:, 1:].all()


@pytest.mark.parametrize("sampler", ["sgld", "rmsprop_sgld", "sghmc"])
@pytest.mark.parametrize("memory_budget", [pytest.param(60_000, marks=pytest.mark.slow), 150_000, 400_000])
def test_a_memory_budget_changes_rounding_only(memory_budget, sampler):
    settings = {"sampler": sampler, "num_draws": 8}  # the smallest budget takes a second for two draws
    _assert_same(_digits_llc(**settings), _digits_llc(**settings, memory_budget=memory_budget))


@pytest.mark.parametrize(("memory_budget", "most"), [(2 << 30, 400), (1 << 14, 100)])
def test_the_loss_of_the_trained_network_too_is_taken_within_the_budget(memory_budget, most):
    inputs, targets = (values[:400] for values in digits())
    seen = []

    def loss_fn(outputs, targets):
        seen.append(len(targets))
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    sampling = {"num_draws": 4, "num_chains": 1, "batch_size": 8, "memory_budget": memory_budget}
    found = estimate_llc(trained_digits_net(), inputs, targets, loss_fn=loss_fn, **sampling)
    assert max(seen) <= most
    assert found.init_loss == pytest.approx(loss_fn(trained_digits_net()(inputs), targets).mean().item(), rel=1e-5)


def test_no_parameters_are_refused():
    with pytest.raises(ValueError, match="parameters=\\[\\]: must be None, or one name or pattern at least"):
        _digits_llc(parameters=[])


def test_a_chain_does_not_depend_on_the_others():
    four, two = _digits_llc(), _digits_llc(num_chains=2)
    np.testing.assert_allclose(four.loss_trace[:2], two.loss_trace, rtol=1e-4, atol=1e-5)
    assert len({tuple(chain[1:3]) for chain in four.baseline_trace}) == 4  # each its own minibatches


@pytest.mark.parametrize("settings", [{"micro_batch_size": 20}, {"vectorize": False}])
def test_accumulation_and_loops_change_rounding_only(settings):
    _assert_same(_digits_llc(), _digits_llc(**settings))


def test_float64():
    """Its own random numbers; draw 0 is w*, on the same minibatches."""
    single, double = _digits_llc(), _digits_llc(dtype=torch.float64)
    assert double.settings.compute_dtype == "float64"
    np.testing.assert_allclose(single.loss_trace[:, 0], double.loss_trace[:, 0], rtol=1e-4)
    np.testing.assert_allclose(double.loss_trace[:, 0], double.baseline_trace[:, 0], rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_bfloat16_computes_in_it_and_estimates_the_same(count):
    """The same random numbers: the estimates differ by rounding, far less than by sampling.

    With a preset of the paper, one call at full precision tells that the network has one, and all others are of the
    chains. They are few enough not to be recorded.
    """
    seen: Counter[tuple[torch.dtype, torch.dtype]] = Counter()

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = trained_digits_net()

        def forward(self, x):
            outputs = self.net(x)
            seen[x.dtype, outputs.dtype] += 1
            return outputs

    settings = llc_preset("paper", "mnist", num_draws=60)
    full = estimate_llc_many([Spy()] * count, *digits(), **settings)
    seen.clear()
    half = estimate_llc_many([Spy()] * count, *digits(), dtype=torch.bfloat16, **settings)
    in_bfloat16 = seen[torch.bfloat16, torch.bfloat16]
    assert in_bfloat16 > 60
    assert seen.total() - in_bfloat16 == 1
    for a, b in zip(full, half, strict=True):
        assert b.settings.compute_dtype == "bfloat16"
        assert abs(a.llc - b.llc) < 0.3 * a.standard_error


def test_members_of_a_stack_equal_networks_alone():
    nets = [trained_digits_net(), trained_digits_net(steps=300)]
    settings = {"num_draws": 40, "batch_size": 64, "step_size": 1e-5, "nbeta": 10.0}
    together = estimate_llc_many(nets, *digits(), **settings)
    for k, net in enumerate(nets):
        _assert_same(together[k], estimate_llc(net, *digits(), member=k, **settings))


@pytest.mark.parametrize(
    ("sampler", "step_size"),
    [
        ("sgld", 1e-3),
        ("rmsprop_sgld", 1e-4),
        ("sghmc", 1e-3),
        ("fisher_sgld", 1e-3),
        ("preconditioned", 0.05),
        ("mala", 0.05),
    ],
)
@pytest.mark.parametrize("weight", [math.nan, 1e30])  # the second has a loss that is too large for a float
def test_a_network_with_a_loss_that_is_not_finite_diverges_alone(sampler, step_size, weight):
    _assert_diverges_alone(weight, 10, sampler=sampler, step_size=step_size, num_draws=110)  # so many are recorded


def test_a_network_with_a_loss_that_is_not_finite_diverges_alone_among_large_ones():
    """Whose preconditioner has directions in place of a matrix."""
    _assert_diverges_alone(math.nan, 2100, sampler="preconditioned", step_size=0.05, num_draws=10)


def _assert_diverges_alone(weight: float, size: int, **settings: Any) -> None:
    """Compare a network beside one with this weight with the same network beside a usual one."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, size, generator=generator)
    good, other, bad = nn.Linear(size, 1), nn.Linear(size, 1), nn.Linear(size, 1)
    nn.init.constant_(bad.weight, weight)
    settings |= {"loss_fn": half_squared_error, "num_chains": 2, "batch_size": 100}
    beside_bad = estimate_llc_many([good, bad], inputs, inputs[:, :1], **settings)
    beside_other = estimate_llc_many([good, other], inputs, inputs[:, :1], **settings)
    found, expected = beside_bad[0], beside_other[0]
    np.testing.assert_array_equal(found.loss_trace, expected.loss_trace)
    assert (found.llc, found.status_reason) == (expected.llc, expected.status_reason)
    assert np.isfinite(found.loss_trace).all()
    assert beside_bad[1].status == "diverged"
    assert beside_bad[1].status_reason == "the loss at w* is not finite: the network itself has diverged"


def test_networks_that_do_not_fit_into_the_cache_together_run_in_pieces(monkeypatch):
    """With the same numbers. A control variate whose gradients are kept is not cut, because each piece needs them."""
    import selfmod_hf.complexity.pieces as pieces

    calls = []

    class Counting(nn.Module):
        def __init__(self, net) -> None:
            super().__init__()
            self.net = net

        def forward(self, x):
            calls.append(len(x))
            return self.net(x)

    nets = [Counting(trained_digits_net(steps=20 * count)) for count in range(1, 6)]
    settings = {"num_draws": 10, "num_chains": 2, "batch_size": 512, "step_size": 1e-5, "nbeta": 10.0}
    for control_variate in (False, True):
        found, counts = [], []
        for room in (2**23, 1):
            monkeypatch.setattr(pieces, "_BYTES_IN_CACHE", room)
            calls.clear()
            found.append(estimate_llc_many(nets, *digits(), control_variate=control_variate, **settings))
            counts.append(len(calls))
        for together, cut in zip(*found, strict=True):
            _assert_same(together, cut)
        if control_variate:
            assert counts[1] == counts[0]
        else:
            assert counts[1] >= counts[0] + 9 * 2 * 2  # 9 steps of 2 chains, in 3 pieces of networks instead of one


@pytest.mark.parametrize("sampler", ["sgld", "rmsprop_sgld"])
def test_blocks_on_threads_give_the_numbers_of_one(monkeypatch, sampler):
    import selfmod_hf.complexity.pieces as pieces

    threads = torch.get_num_threads()
    settings = {"sampler": sampler, "num_draws": 10}
    alone = _digits_llc(**settings)
    monkeypatch.setattr(pieces, "_SMALL", 0)
    try:
        torch.set_num_threads(2)
        first, second = _digits_llc(**settings), _digits_llc(**settings)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(first.loss_trace, second.loss_trace)
    _assert_same(alone, first)


def test_a_mask_samples_only_the_parameters_it_names():
    everything, last = _digits_llc(), _digits_llc(parameters=["2.*"])
    assert last.settings.parameters == ("2.weight", "2.bias")
    assert last.settings.num_parameters == 170
    assert last.llc < everything.llc


def test_frozen_by_mask_equals_a_model_of_that_layer_alone():
    net, (inputs, targets) = trained_digits_net(), digits()
    with torch.no_grad():
        hidden = net[:2](inputs)
    settings = {"num_draws": 40, "batch_size": 64, "step_size": 1e-5, "nbeta": 10.0}
    masked = estimate_llc(net, inputs, targets, parameters=["2.*"], **settings)
    _assert_same(masked, estimate_llc(net[2], hidden, targets, **settings))


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 10)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    estimate_llc(net, *digits(), num_draws=5, step_size=1e-5)
    assert net.training
    torch.testing.assert_close(dict(net.state_dict()), before)


def test_dict_inputs():
    class Named(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixels):
            return self.net(pixels)

    inputs, targets = digits()
    result = estimate_llc(
        Named(trained_digits_net()), {"pixels": inputs}, targets, num_draws=60, batch_size=64, step_size=1e-5,
        nbeta=64 / math.log(64),
    )  # fmt: skip
    _assert_same(result, _digits_llc())


def test_the_baseline_is_the_whole_training_set_and_pairing_uses_the_same_minibatch():
    net, (inputs, targets) = trained_digits_net(), digits()
    result = _digits_llc()
    loss = nn.functional.cross_entropy(net(inputs), targets)
    assert result.init_loss == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(result.loss_trace[:, 0], result.baseline_trace[:, 0], rtol=1e-4, atol=1e-7)
    assert result.estimate(paired=True)[0] == pytest.approx(result.llc)
    plain = _digits_llc(control_variate=False)
    assert _digits_llc(paired=False).llc == pytest.approx(plain.estimate(paired=False)[0])


def test_burn_in_is_left_out_of_every_figure():
    result = _digits_llc(num_burnin_steps=45)
    losses = result.loss_trace + result.correction_trace
    kept = result.nbeta * (losses - result.baseline_trace)[:, 45:]
    np.testing.assert_allclose(result.llc_per_chain, kept.mean(axis=1))
    assert result.llc == pytest.approx(kept.mean())
    assert result.estimate(paired=True)[0] == pytest.approx(kept.mean())
    assert _digits_llc().settings.num_burnin_steps == 30  # the first half


def test_nbeta_rules():
    assert _digits_llc(nbeta="n/log n").nbeta == pytest.approx(1797 / math.log(1797))
    result = _digits_llc(nbeta="batch/log batch")
    assert result.nbeta == pytest.approx(64 / math.log(64))
    assert result.settings.nbeta_rule == "batch/log batch"


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("sampler", "hmc", "one of sgld"),
        ("step_size", 0.0, "positive number"),
        ("step_size", math.nan, "positive number"),
        ("localization", -1.0, "zero or positive"),
        ("nbeta", "n", "one of 'n/log n'"),
        ("nbeta", -1.0, "positive number"),
        ("num_chains", 0, "at least 1"),
        ("num_draws", 1, "at least 2"),
        ("num_burnin_steps", 60, "from 0 to num_draws - 1 = 59"),
        ("batch_size", 2.5, "an integer"),
        ("seed", -1, "at least 0"),
        ("parameters", ["9.*"], "among 0.weight, 0.bias, 2.weight, 2.bias"),
        ("dtype", torch.int8, "float32"),
        ("sampler_options", {"momentum": 0.5}, "sgld has none"),
        ("sampler_options", 3, "None or a dict"),
        ("micro_batch_size", 0, "at least 1"),
        ("loss_fn", None, "a function"),
        ("loss_fn", nn.CrossEntropyLoss(), "CrossEntropyLoss, giving .*one loss per sample"),
        ("loss_fn", lambda outputs, targets: outputs, "giving \\(2, 10\\).*one loss per sample"),
    ],
)
def test_unusable_arguments_are_refused_in_one_line(argument, value, message):
    with pytest.raises(ValueError, match=message) as error:
        _digits_llc(**{argument: value})
    assert str(error.value).startswith(f"{argument}=")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sampler", "option", "unusable", "usable"),
    [("sghmc", "momentum", [1.5, 1.0, -0.5, "x", math.nan], 0.0),
     ("rmsprop_sgld", "decay", [1.0, -0.1, True], 0.0),
     ("rmsprop_sgld", "damping", [0.0, -1.0, math.inf], 1e-6)],
)  # fmt: skip
def test_the_samplers_options_have_their_ranges(sampler, option, unusable, usable):
    for value in unusable:
        with pytest.raises(ValueError, match=rf"sampler_options\['{option}'\]={value!r}: must be"):
            _digits_llc(sampler=sampler, sampler_options={option: value})
    assert math.isfinite(_digits_llc(sampler=sampler, sampler_options={option: usable}).init_loss)


@pytest.mark.parametrize("unusable", [None, [], "net", nn.Linear(2, 2).forward])
def test_what_is_no_module_is_refused(unusable):
    for estimate in (estimate_llc, calibrate_llc):
        with pytest.raises(ValueError, match=r"^model='\w+': must be a torch.nn.Module$"):
            estimate(unusable, *digits())


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (None, "models='NoneType': must be a list of modules"),
        (nn.Sequential(nn.Linear(64, 10)), "models='Sequential': must be a list of modules"),  # no list of its layers
        ([], "models=\\[\\]: must be one module or more"),
        ([nn.Linear(64, 10), None], "model='NoneType': must be a torch.nn.Module"),
    ],
)
def test_what_is_no_list_of_modules_is_refused(models, message):
    with pytest.raises(ValueError, match=message):
        estimate_llc_many(models, *digits())


def test_labels_that_do_not_fit_the_outputs_are_refused():
    inputs, targets = digits()
    for other, message in [
        (targets + 1, "targets='labels from 1 to 10': must be from 0 to 9, the model's classes"),
        (torch.where(targets == 3, -100, targets), "targets='labels from -100 to 9': must be from 0 to 9"),
        (targets.float(), r"targets='\(1797,\), torch.float32': must be class labels"),
        (targets[:, None], r"targets='\(1797, 1\), torch.int64': must be class labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            estimate_llc(trained_digits_net(), inputs, other)
    with pytest.raises(ValueError, match=r"model='outputs \(2, 1, 10\)': must be a classifier"):
        estimate_llc(nn.Sequential(trained_digits_net(), nn.Unflatten(1, (1, 10))), inputs, targets)


def test_a_squared_error_is_not_broadcast():
    inputs, targets = digits()
    with pytest.raises(ValueError, match=r"targets=\(2,\): must be of the outputs' shape, \(2, 1\)"):
        estimate_llc(nn.Linear(64, 1), inputs, targets.float(), loss_fn=half_squared_error)


def test_unusable_data_is_refused():
    inputs, targets = digits()
    net = trained_digits_net()
    with pytest.raises(ValueError, match="as many samples as targets"):
        estimate_llc(net, inputs[:5], targets)
    with pytest.raises(ValueError, match="inputs='NaN or infinity': must be finite"):
        estimate_llc(net, inputs / 0, targets)
    with pytest.raises(ValueError, match="at least one sample"):
        estimate_llc(net, inputs[:0], targets[:0])


@pytest.mark.parametrize(
    ("function", "options", "different"),
    [
        (estimate_llc, LLCOptions, {}),
        (estimate_llc_many, LLCOptions, {}),
        (estimate_rlct, LLCOptions, {}),
        (calibrate_llc, CalibrationOptions, {"sampler": "sghmc"}),
        (calibrate_rlct, CalibrationOptions, {"sampler": "sghmc"}),
    ],
)
def test_signatures_show_the_settings_with_their_types_and_defaults(function, options, different):
    """Type checkers read the options, notebooks the signature, and LLCSettings holds defaults and checks."""
    signature = inspect.signature(function).parameters
    shown = {name: parameter for name, parameter in signature.items() if name in options.__annotations__}
    assert shown.keys() == options.__annotations__.keys()
    for field in fields(LLCSettings):
        if field.name in shown:
            assert shown[field.name].annotation == field.type == options.__annotations__[field.name].__forward_arg__
            assert shown[field.name].default == different.get(field.name, field.default)


def test_options_are_the_settings():
    names = {field.name for field in fields(LLCSettings)}
    assert names == LLCOptions.__annotations__.keys()
    assert names - CalibrationOptions.__annotations__.keys() == {"step_size", "localization", "shared_minibatches"}


def test_an_unknown_setting_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'step_sise'"):
        estimate_llc(trained_digits_net(), *digits(), step_sise=1e-4)


@pytest.mark.slow
def test_bounded_memory():
    """The peak stays within the budget, whatever the number of chains.

    The C library is told to give freed blocks back at once: what it would keep for later use, up to a quarter of the
    budget here, is not in use.
    """
    import os
    import subprocess
    import sys

    code = """
import resource, torch
from torch import nn
from selfmod_hf.complexity import estimate_llc
net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
x, y = torch.randn(2000, 784), torch.randint(0, 10, (2000,))
kw = dict(batch_size=256, step_size=1e-6, memory_budget=64 << 20)
estimate_llc(net, x, y, num_draws=4, num_chains=1, **kw)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for chains in (4, 16, 64):
    estimate_llc(net, x, y, num_draws=4, num_chains=chains, **kw)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    grown = [float(line) for line in run.stdout.split()]
    assert len(grown) == 3
    assert max(grown) < 64

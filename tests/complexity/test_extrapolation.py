"""The estimate without step size and localization, on cells whose law is known.

The laws of the first half were used to make the rule. Those of `test_a_law_it_was_not_made_on` are drawn at random.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfmod_hf.complexity.cells import Cell
from selfmod_hf.complexity.extrapolation import extrapolate

NBETA = 2000.0
LADDER = NBETA / 60 * 4.0 ** -np.arange(5)  # γ
STEPS = (1e-5, 2e-5)


def spectrum_llc(curvatures, pull: float) -> float:
    """A direction of curvature κ of U counts as κ / (2 (κ + γ))."""
    curvatures = np.asarray(curvatures)
    return float((curvatures / (curvatures + pull)).sum() / 2)


def cells_of(law, *, noise: float = 0.0, heating: float = 0.0, seed: int = 0, pulls=LADDER) -> list[Cell]:
    """Cells of the law llc(γ) + heating ε / ε1. Two thirds of the noise are common to all cells."""
    generator = np.random.default_rng(seed)
    common = generator.standard_normal(16)
    cells = []
    for pull in pulls:
        for step in STEPS:
            own = generator.standard_normal(16)
            spread = 4 * noise * (0.8 * common + 0.6 * own)  # of a block: 16 of them have the error `noise`
            blocks = law(pull) + heating * step / STEPS[0] + spread
            cells.append(Cell(step, float(pull), blocks, noise))
    return cells


@pytest.mark.parametrize("decades", [0, 1, 2, 3])
def test_a_spectrum_above_the_weakest_localization_is_found(decades):
    curvatures = NBETA * np.logspace(0, -decades, 20)
    found = extrapolate(cells_of(lambda pull: spectrum_llc(curvatures, pull)), bound=50.0)
    assert found.identified
    assert found.llc == pytest.approx(10.0, rel=0.005)


def test_two_scales_are_found():
    curvatures = [NBETA] * 10 + [2.0] * 10
    found = extrapolate(cells_of(lambda pull: spectrum_llc(curvatures, pull)), bound=50.0)
    assert found.identified
    assert found.llc == pytest.approx(10.0, rel=0.03)
    assert found.interval[0] <= 10.0 <= found.interval[1]


def test_one_scale_below_strong_localizations_is_within_the_interval():
    """At γ = κ/5 and more both laws are possible: one ends at 3, the other at 3.6."""
    found = extrapolate(cells_of(lambda pull: spectrum_llc([100.0] * 6, pull), pulls=[20.0, 40.0, 80.0]))
    low, high = found.interval
    assert low == pytest.approx(3.0, rel=1e-3)
    assert found.llc - low == pytest.approx(high - found.llc)


def test_a_flat_direction_below_the_ladder_is_not_identified():
    """The cells know nothing of directions of curvature .02: the interval holds the truth, up to d/2."""
    curvatures = [NBETA] * 10 + [0.02] * 10
    found = extrapolate(cells_of(lambda pull: spectrum_llc([*curvatures, 0.1, 0.1], pull)), bound=11.0)
    assert found.interval[0] <= 11.0


def test_a_logarithm_is_not_identified_and_shows_the_value_of_a_unit_prior():
    def law(pull):
        return 2.0 + 0.3 * np.log(20 / pull)

    found = extrapolate(cells_of(law), bound=8.0)
    assert not found.identified
    assert found.llc == pytest.approx(law(1.0), rel=0.01)
    assert found.interval[0] == pytest.approx(law(1.0), rel=0.01)
    assert found.interval[1] > law(1e-4)


def test_heating_is_taken_out_by_the_two_steps():
    curvatures = [NBETA] * 20
    found = extrapolate(cells_of(lambda pull: spectrum_llc(curvatures, pull), heating=1.5))
    assert found.llc == pytest.approx(10.0, rel=0.01)
    assert found.step_shift == pytest.approx(-1.5, rel=0.05)
    assert found.identified


def test_too_much_heating_is_not_identified():
    curvatures = [NBETA] * 20
    found = extrapolate(cells_of(lambda pull: spectrum_llc(curvatures, pull), heating=4.0))
    assert not found.identified
    assert "step size" in found.reason


def test_a_foretold_slope_stands_in_for_a_second_step():
    cells = [cell for cell in cells_of(lambda pull: 10.0, heating=1.0) if cell.step_size == STEPS[0]]
    found = extrapolate(cells, slope=1.0 / STEPS[0])
    assert found.llc == pytest.approx(10.0)
    assert extrapolate(cells).llc == pytest.approx(11.0)


def test_a_foretold_pull_is_added_only_where_it_explains_the_cells():
    curvatures = NBETA * np.logspace(0, -5, 20)
    straight = cells_of(lambda pull: spectrum_llc(curvatures, pull))
    right, wrong = [], []
    for cell in straight:
        pull = 10.0 - cell.llc
        right.append(Cell(cell.step_size, cell.localization, cell.blocks, 0.0, pull=pull))
        wrong.append(Cell(cell.step_size, cell.localization, cell.blocks, 0.0, pull=3 * pull))
    assert extrapolate(right).llc == pytest.approx(10.0, rel=1e-3)
    assert extrapolate(wrong).llc == extrapolate(straight).llc


def test_no_extrapolation_goes_over_half_of_the_parameters():
    curvatures = NBETA * np.logspace(0, -3.5, 20)
    found = extrapolate(cells_of(lambda pull: spectrum_llc(curvatures, pull)), bound=9.9)
    assert found.llc == pytest.approx(9.9)
    assert found.interval[1] == pytest.approx(9.9)


def test_cells_that_do_not_mix_are_left_out():
    cells = cells_of(lambda pull: spectrum_llc([NBETA] * 20, pull))
    wild = Cell(1e-5, 1e-3, np.full(16, 500.0), 0.1, mixes=False)
    assert extrapolate([wild, *cells]) == extrapolate(cells)
    with pytest.raises(ValueError, match="at least one that mixes"):
        extrapolate([wild])


def test_one_localization_is_not_identified():
    cells = [cell for cell in cells_of(lambda pull: 10.0, noise=0.1) if cell.localization == LADDER[0]]
    found = extrapolate(cells, bound=14.0)
    assert not found.identified
    assert found.interval[1] == 14.0


@settings(deadline=None, max_examples=60)
@given(
    scales=st.lists(st.tuples(st.floats(0.5, 5.5), st.integers(1, 20)), min_size=1, max_size=4),
    heating=st.floats(0.0, 0.05),
)
def test_a_law_it_was_not_made_on(scales, heating):
    """A spectrum of up to four scales κ from 3 to 300,000, without noise: near the truth, or an interval with it."""
    curvatures = np.concatenate([np.full(count, 10.0**decade) for decade, count in scales])
    truth = len(curvatures) / 2
    law = lambda pull: spectrum_llc(curvatures, pull)  # noqa: E731
    found = extrapolate(cells_of(law, heating=heating * truth), bound=4 * truth)
    assert found.interval[0] <= truth * 1.01
    assert found.interval[1] >= truth * 0.99
    if found.identified:
        assert found.llc == pytest.approx(truth, rel=0.08)


def test_the_interval_covers_under_noise():
    """Of 200 sets of noisy cells of a spectrum over two decades, 95 % intervals hold the truth in 90 % or more."""
    curvatures = NBETA * np.logspace(0, -2, 20)
    held = 0
    for seed in range(200):
        cells = cells_of(lambda pull: spectrum_llc(curvatures, pull), noise=0.1, heating=0.1, seed=seed)
        low, high = extrapolate(cells, bound=50.0).interval
        held += low <= 10.0 <= high
    assert held >= 180


def test_with_a_foretold_pull_the_rest_is_taken_at_the_reference():
    """Ten curved directions of λ = 5, and a logarithm of which nothing is foretold: 5 and its value at γ = 1. Its limit
    of 1.5 is within the interval."""
    curvatures = NBETA * np.logspace(0, -4, 10)

    def rest(pull):
        return 1.5 - 3 / np.log(NBETA / pull * 3)

    cells = []
    for cell in cells_of(lambda pull: spectrum_llc(curvatures, pull) + rest(pull), pulls=4.0 ** np.arange(4)):
        pull = 5.0 - spectrum_llc(curvatures, cell.localization)
        cells.append(Cell(cell.step_size, cell.localization, cell.blocks, 0.0, pull=pull))
    found = extrapolate(cells, bound=20.0, reference=1.0)
    assert found.identified
    assert found.llc == pytest.approx(5.0 + rest(1.0), rel=1e-3)
    assert found.interval[0] == pytest.approx(found.llc)
    assert found.interval[1] > found.llc + 0.1


def test_a_foretold_pull_of_most_of_the_estimate_is_not_added():
    """Of 100 curved directions 80 are flatter than a unit prior. A quadratic law for them is no measurement."""
    curvatures = np.concatenate([np.full(20, NBETA), np.full(80, 0.1)])
    cells = []
    for cell in cells_of(lambda pull: spectrum_llc(curvatures, pull), pulls=4.0 ** np.arange(4)):
        pull = 50.0 - spectrum_llc(curvatures, cell.localization)
        cells.append(Cell(cell.step_size, cell.localization, cell.blocks, 0.0, pull=pull))
    found = extrapolate(cells, bound=60.0, reference=1.0)
    assert not found.identified
    assert found.llc == pytest.approx(spectrum_llc(curvatures, 1.0), rel=1e-3)
    assert found.interval[1] >= 50.0 - 1e-6
    assert "flatter than the localization" in found.reason


def test_foretold_heating_is_subtracted_and_three_tenths_of_it_stay_in_doubt():
    """It grows with the square of ε here. A line through the two steps ends 1.5 nats below."""
    cells = []
    for cell in cells_of(lambda pull: 10.0):
        added = 1.5 * (cell.step_size / STEPS[1]) ** 2
        cells.append(Cell(cell.step_size, cell.localization, cell.blocks + added, 0.0, heating=added))
    found = extrapolate(cells, reference=1.0)
    assert found.llc == pytest.approx(10.0, rel=1e-3)
    assert found.systematic_error >= 0.3 * 1.5 / 4


@pytest.mark.parametrize("value", [10.2, 11.0])
def test_an_interval_ends_at_half_of_the_parameters_and_has_width(value):
    """No λ is above d/2, but the bound alone would say that λ is known exactly."""
    found = extrapolate(cells_of(lambda pull: value, noise=0.1), bound=10.0, reference=1.0)
    assert found.llc == pytest.approx(value, abs=0.4)
    low, high = found.interval
    assert high == 10.0
    assert low == pytest.approx(min(found.llc, 10.0) - 1.96 * found.standard_error - found.systematic_error, abs=0.1)


def test_a_wide_interval_is_not_identified():
    """An error of .06 is 15 % of an estimate of .4, and half of an interval is more than that."""
    wide = extrapolate(cells_of(lambda pull: 0.4, noise=0.06), bound=20.0, reference=1.0)
    assert not wide.identified
    assert "wide" in wide.reason
    assert extrapolate(cells_of(lambda pull: 0.4, noise=0.006), bound=20.0, reference=1.0).identified


def test_small_estimates_get_no_larger_part_of_the_step():
    """Of an estimate of .4, .2 nats are half: too much to be extrapolated."""
    found = extrapolate(cells_of(lambda pull: 0.4, heating=0.2), bound=5.0, reference=1.0)
    assert not found.identified
    assert "step size" in found.reason


def test_after_foretold_heating_the_rest_is_taken_as_the_square_of_the_step():
    """At an unstable step something grows with ε². A line through both steps ends .8 nats too low."""
    cells = []
    for cell in cells_of(lambda pull: 10.0):
        added = 0.4 * (cell.step_size / STEPS[0]) ** 2
        cells.append(Cell(cell.step_size, cell.localization, cell.blocks + added, 0.0, heating=0.0))
    found = extrapolate(cells, bound=50.0, reference=1.0)
    assert found.llc == pytest.approx(10.0, abs=0.01)
    assert found.systematic_error == pytest.approx(0.4, abs=0.02)


def test_chains_that_arrive_late_at_the_smaller_step_mislead_by_a_third():
    """The larger step is right, the smaller one 9 % too low. The interval holds both."""
    cells = []
    for cell in cells_of(lambda pull: 10.0):
        late = 0.9 if cell.step_size == STEPS[0] else 0.0
        cells.append(Cell(cell.step_size, cell.localization, cell.blocks - late, 0.0, heating=0.0))
    found = extrapolate(cells, bound=50.0, reference=1.0)
    assert found.llc == pytest.approx(9.1 - 0.3, abs=0.02)
    assert found.interval[1] == pytest.approx(9.1, abs=0.02)

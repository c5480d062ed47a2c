"""Arms of a study: their names, panels and baselines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfmod_hf.errors import InputError
from selfmod_hf.experiments.arms import arm_of_row, make_arms

CONTROLS = {
    "baseline": {"aux_weight": 0.0},
    "self-model": {"aux_weight": 10.0},
    "early": {"aux_weight": 0.0, "stop_at_train_loss": "self-model"},
}


def test_a_grid_has_the_names_of_version_0_1_0():
    axes = {"hidden_sizes": [[64]], "detach_targets": [True, False], "aux_weight": [0.0, 10.0]}
    arms = {arm.name: (arm.panel, arm.baseline) for arm in make_arms(axes)}
    assert arms == {
        "h64-aw0": ("h64", "h64-aw0"),
        "h64-aw10": ("h64", "h64-aw0"),
        "h64-aw10-attached": ("h64-attached", "h64-aw0"),
    }
    for arm in make_arms(axes):
        row = {"hidden_size": 64, "aux_weight": arm.changes["aux_weight"], "detach_targets": True}
        row["detach_targets"] = arm.changes["detach_targets"]
        assert arm_of_row(row) == arm


def test_named_arms_are_compared_within_each_panel():
    arms = make_arms({"hidden_sizes": [[8], [16, 8]]}, CONTROLS)
    assert [arm.name for arm in arms] == [
        "h8-baseline", "h8-self-model", "h8-early", "h16x8-baseline", "h16x8-self-model", "h16x8-early",
    ]  # fmt: skip
    assert {arm.panel: arm.baseline for arm in arms} == {"h8": "h8-baseline", "h16x8": "h16x8-baseline"}
    assert [arm.changes.get("stop_at_train_loss") for arm in arms][2::3] == ["h8-self-model", "h16x8-self-model"]


def test_an_axis_of_one_value_is_no_part_of_a_named_arm():
    arms = make_arms({"hidden_sizes": [[8]]}, {**CONTROLS, "small": {"hidden_sizes": [4]}})
    assert [arm.name for arm in arms] == ["baseline", "self-model", "early", "small"]
    assert [arm.changes["hidden_sizes"] for arm in arms] == [[8], [8], [8], [4]]
    assert {(arm.panel, arm.baseline) for arm in arms} == {("", "baseline")}


@pytest.mark.parametrize(
    ("axes", "baseline", "expected"),
    [
        ({"aux_weight": [1.0, 10.0]}, None, "aw1"),  # the first, because there is no weight 0
        ({"learning_rate": [0.1, 0.01]}, None, "learning_rate_0.1"),
        ({"learning_rate": [0.1, 0.01]}, "0.01", "learning_rate_0.01"),
        ({"aux_weight": [0.0, 1.0], "learning_rate": [0.1, 0.01]}, "1", "aw1-learning_rate_0.1"),
        ({"augment": [True, False]}, None, "augment_True"),
        ({}, None, "all"),
    ],
)
def test_the_baseline(axes, baseline, expected):
    assert make_arms(axes, baseline=baseline)[0].baseline == expected


@pytest.mark.parametrize(
    ("axes", "named", "baseline", "message"),
    [
        ({"aux_weight": []}, {}, None, r"aux_weight=\[\]: allowed are one or more values"),
        ({"aux_weight": [1.0, 1.0]}, {}, None, "different from each other"),
        ({}, {"a/b": {}}, None, "arms='a/b': a name of an arm"),
        ({}, {"..": {}}, None, "a name of an arm"),
        ({}, {"a": 3}, None, "arms='a: 3'"),
        ({"aux_weight": [0.0, 1.0]}, {"a": {"aux_weight": 2.0}}, None, "give it in one place"),
        ({}, CONTROLS, "none", "baseline='none': allowed are the values of arms: baseline, self-model, early"),
        ({}, {"a": {"stop_at_train_loss": "b"}}, None, "stop_at_train_loss='b': allowed are numbers and other arms: a"),
        ({}, {"a": {"stop_at_train_loss": "a"}}, None, "of itself"),
    ],
)
def test_arms_that_cannot_be(axes, named, baseline, message):
    with pytest.raises(InputError, match=message):
        make_arms(axes, named, baseline)


weights = st.lists(st.sampled_from([0.0, 0.5, 1.0, 10.0]), min_size=1, unique=True)
rates = st.lists(st.sampled_from([0.1, 0.01, 0.001]), min_size=1, unique=True)
sizes = st.lists(st.sampled_from([(8,), (16,), (16, 8)]), min_size=1, unique=True)
kinds = st.lists(st.booleans(), min_size=1, unique=True)


@given(weights, rates, sizes, kinds, st.booleans())
def test_every_grid_has_different_names_and_a_baseline_for_each_arm(weight, rate, size, detach, named):
    axes = {"hidden_sizes": [list(entry) for entry in size], "detach_targets": detach, "learning_rate": rate}
    if not named:
        axes["aux_weight"] = weight
    arms = make_arms(axes, CONTROLS if named else None)
    by_name = {arm.name: arm for arm in arms}
    assert len(by_name) == len(arms)
    assert len({repr(sorted(arm.changes.items())) for arm in arms}) == len(arms)
    for arm in arms:
        assert by_name[arm.baseline].is_baseline

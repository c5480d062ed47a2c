"""Members from the settings of runs: what may differ within a population, and what may not."""

from dataclasses import fields

import pytest

from selfmod_hf.errors import InputError
from selfmod_hf.experiments.run_settings import RunSettings, default_of
from selfmod_hf.trainer.member import MEMBER_FIELDS, Member
from selfmod_hf.trainer.member_settings import common_settings, divide_settings

BASE = {"task": "digits", "aux_weight": 1.0, "seed": 0, "optim": "sgd", "optim_args": "momentum=0.9,nesterov=True"}
OTHER_VALUES = {
    "seed": 3,
    "aux_weight": 10.0,
    "detach_targets": False,
    "classification_weight": 0.5,
    "target_source": "shuffled",
    "target_normalization": "rms",
    "activation_penalty": 0.1,
    "learning_rate": 0.3,
    "weight_decay": 0.01,
    "weight_decay_parameters": ["classifier.*"],
    "stop_at_train_loss": 0.2,
    "early_stopping_patience": 4,
}


def test_each_field_of_a_member_is_a_setting_of_a_run_and_has_another_value_here():
    assert set(MEMBER_FIELDS) == set(OTHER_VALUES)
    assert {field.name for field in fields(Member)} == {*MEMBER_FIELDS, "momentum"}
    for name in MEMBER_FIELDS:
        assert default_of(name) != OTHER_VALUES[name]
        RunSettings.make(task="digits", **{name: OTHER_VALUES[name]})


@pytest.mark.parametrize("name", MEMBER_FIELDS)
def test_runs_that_differ_in_one_field_are_one_population(name):
    shared, (first, second) = divide_settings([BASE, {**BASE, name: OTHER_VALUES[name]}])
    expected = {"task": "digits", "optim": "sgd", "optim_args": BASE["optim_args"]}
    assert shared == expected
    value = OTHER_VALUES[name]
    assert getattr(second, name) == (tuple(value) if isinstance(value, list) else value)
    assert first == Member(seed=0, aux_weight=1.0)


def test_a_value_of_all_runs_is_that_of_the_population():
    runs = [{**BASE, "seed": seed, "learning_rate": 0.3, "target_source": "random"} for seed in (1, 2)]
    shared, members = divide_settings(runs)
    assert (shared["learning_rate"], shared["target_source"]) == (0.3, "random")
    assert members == [Member(1, 1.0), Member(2, 1.0)]


def test_the_momentum_is_a_member_s_own_and_nesterov_is_common():
    plain = {**BASE, "optim_args": "nesterov=True, momentum=0.5"}
    shared, members = divide_settings([plain, BASE])
    assert [member.momentum for member in members] == [0.5, 0.9]
    assert shared["optim_args"] == BASE["optim_args"]
    adam = {"optim": "adamw_torch", "optim_args": "momentum=1"}
    assert common_settings(adam) == adam


@pytest.mark.parametrize("change", [{"task": "mnist"}, {"optim_args": "momentum=0.9"}, {"optim": "adamw_torch"}])
def test_runs_of_two_populations_are_rejected(change):
    (name,) = change
    with pytest.raises(InputError, match=f"^{name}="):
        divide_settings([BASE, {**BASE, **change}])

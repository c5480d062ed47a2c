"""Grids and named arms as texts."""

import json

import pytest

from selfmod_hf.errors import InputError
from selfmod_hf.experiments.grid import parse_arms, parse_grid, parse_rlct_settings, value_of_text


def test_a_grid_of_texts_and_the_same_as_json():
    texts = ["aux_weight=0,1.5", "hidden_sizes=64,128-64", "target_layers=hidden.relu1,hidden.relu1+hidden.relu2"]
    expected = {
        "aux_weight": [0.0, 1.5],
        "hidden_sizes": [[64], [128, 64]],
        "target_layers": [["hidden.relu1"], ["hidden.relu1", "hidden.relu2"]],
    }
    assert parse_grid(texts) == expected
    assert parse_grid([json.dumps({**expected, "hidden_sizes": [[64], "128-64"]})]) == expected
    assert parse_grid(['optim_args=["momentum=0.9,nesterov=True", "momentum=0.5"]']) == {
        "optim_args": ["momentum=0.9,nesterov=True", "momentum=0.5"]
    }


def test_texts_have_the_types_of_their_settings():
    assert value_of_text("num_train_epochs", "3") == 3.0
    assert value_of_text("max_train_samples", "3") == 3
    assert value_of_text("augment", "True") is True
    assert value_of_text("weight_decay_parameters", "classifier.*") == ["classifier.*"]


def test_named_arms_read_numbers_that_yaml_takes_for_texts():
    text = '{"decay": {"weight_decay": "1e-3"}, "early": {"aux_weight": 0, "stop_at_train_loss": "decay"}}'
    assert parse_arms(text) == {
        "decay": {"weight_decay": 0.001},
        "early": {"aux_weight": 0.0, "stop_at_train_loss": "decay"},
    }
    assert parse_arms('{"early": {"stop_at_train_loss": "0.2"}}') == {"early": {"stop_at_train_loss": 0.2}}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["aux_weight"], "grid='aux_weight': allowed is NAME=VALUE,VALUE"),
        (["aux_wieght=1"], "no setting of a run has this name; did you mean aux_weight"),
        (["aux_weight=1", "aux_weight=2"], "is given twice"),
        (["aux_weight=one"], "aux_weight='one': allowed are numbers"),
        (["max_train_samples=1.5"], "allowed are integers"),
        (["augment=maybe"], "allowed are true and false"),
        (["aux_weight=nan"], "allowed are finite numbers"),
        (['aux_weight=["0"'], "allowed is a JSON list"),
        (["{3"], "allowed is a JSON object"),
    ],
)
def test_grids_that_cannot_be(entries, message):
    with pytest.raises(InputError, match=message):
        parse_grid(entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "allowed is a JSON object"),
        ('{"a": 3}', "allowed are the settings in which an arm differs"),
        ('{"a": {"aux_wieght": 3}}', "did you mean aux_weight"),
        ('{"a": {"aux_weight": [3]}}', "aux_weight="),
    ],
)
def test_arms_that_cannot_be(text, message):
    with pytest.raises(InputError, match=message):
        parse_arms(text)


def test_settings_of_rlcts_read_numbers_that_yaml_takes_for_texts():
    found = parse_rlct_settings('{"step_size": "1e-5", "nbeta": "n/log n", "batch_size": "8"}')
    assert found == {"step_size": 1e-5, "nbeta": "n/log n", "batch_size": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8", "rlct_settings='8': allowed is a JSON object"),
        ('{"batchsize": 8}', "rlct_settings='batchsize': allowed are sampler, .* did you mean batch_size"),
        ('{"num_draws": 8}', "rlct_settings='num_draws': allowed are sampler"),  # a flag of its own
        ('{"batch_size": "many"}', "batch_size='many': allowed are integers"),
        ('{"batch_size": 8.5}', "batch_size=8.5: allowed are integers"),
    ],
)
def test_settings_of_rlcts_that_cannot_be(text, message):
    with pytest.raises(InputError, match=message):
        parse_rlct_settings(text)

"""The whole card, from given facts."""

from pathlib import Path

from huggingface_hub import ModelCard

from selfmod_hf import SelfModelingConfig
from selfmod_hf.hub.card import CardFacts, model_card

EXPECTED = Path(__file__).parent / "expected_card.md"


def facts(**changes) -> CardFacts:
    config = SelfModelingConfig(hidden_sizes=[64], target_layers=["hidden.relu1"], aux_weight=10.0, num_labels=10)
    defaults = {
        "repo_id": "me/mnist-aw10",
        "config": config,
        "dataset": "ylecun/mnist",
        "dataset_title": "mnist",
        "split": "test",
        "epochs": 50.0,
        "metrics": {"accuracy": 0.94123, "weight_width": 0.23456},
        "recipe": {"optimizer": "sgd (momentum=0.9,nesterov=True)", "seed": 1},
    }
    return CardFacts(**{**defaults, **changes})


def test_the_whole_card():
    # after a wanted change:
    # python -c "from tests.hub.test_card import *; EXPECTED.write_text(str(model_card(facts())))"
    assert str(model_card(facts())) == EXPECTED.read_text()


def test_metadata_reads_back():
    data = ModelCard(str(model_card(facts()))).data
    assert {r.metric_type: r.metric_value for r in data.eval_results} == {"accuracy": 0.94123, "weight_width": 0.23456}
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")


def test_an_rlct_stands_with_its_settings():
    import torch
    from torch import nn

    from selfmod_hf.complexity import estimate_llc

    model, inputs = nn.Linear(3, 2), torch.randn(50, 3)
    rlct = estimate_llc(model, inputs, model(inputs).argmax(1), nbeta=12.5, num_draws=40, step_size=1e-3)
    card = model_card(facts(rlct=rlct))
    (found,) = [r for r in ModelCard(str(card)).data.eval_results if r.metric_type == "rlct"]
    assert found.metric_value == rlct.llc
    assert (found.metric_args["nbeta"], found.metric_args["status"]) == (12.5, rlct.status)
    assert f"| RLCT | {rlct.llc:.2f} ±" in str(card)
    assert found.metric_name == "RLCT at nβ = 12.5 (sgld)"


def test_the_baseline_and_data_off_the_hub_say_so():
    config = SelfModelingConfig(hidden_sizes=[64], num_labels=10)
    text = str(model_card(facts(config=config, dataset=None, dataset_title="digits")))
    assert "predicts none of its own activations" in text
    assert "\ndatasets:" not in text


def test_a_persons_text_is_found_or_refused():
    import pytest

    from selfmod_hf.errors import InputError
    from selfmod_hf.hub.card import BEGIN, END, merged_notes, notes_in

    text = "## Mine\n\n* {{ braces }} and <b>tags</b>"
    assert notes_in(str(model_card(facts(), text))) == text
    assert notes_in(str(model_card(facts()))) == notes_in("no markers") == ""
    assert merged_notes("", str(model_card(facts(), text))) == text
    for bad in (f"{BEGIN}\n", f"{BEGIN}\n{END}{BEGIN}\n{END}", END):
        with pytest.raises(InputError, match="allowed is one pair"):
            notes_in(bad)

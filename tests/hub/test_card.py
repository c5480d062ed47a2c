"""The whole card, from given facts."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from selfmod_hf import SelfModelingConfig
from selfmod_hf.complexity import LLCResult
from selfmod_hf.complexity.sampler_settings import SamplerSettings
from selfmod_hf.hub.card import CardFacts, model_card
from tests.models.task_models import network

EXPECTED = Path(__file__).parent / "expected_card.md"
EXPECTED_FINE_TUNED = EXPECTED.with_name("expected_card_fine_tuned.md")


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
        "weights": "5e" * 32,
    }
    return CardFacts(**{**defaults, **changes})


def test_the_whole_card():
    # after a wanted change:
    # python -c "from tests.hub.test_card import *; EXPECTED.write_text(str(model_card(facts())))"
    assert str(model_card(facts())) == EXPECTED.read_text()


@pytest.mark.parametrize(
    ("source", "predicted", "shown"),
    [
        ("shuffled", "the activations of another sample of the batch at", "target source shuffled"),
        ("random", "a fixed random projection of its input, in place of its activations at", "target source random"),
        ("network:me/other", "another network's activations at", "target source network:me/other"),
        ("network:/home/me/other", "another network's activations at", "target source network:other"),
    ],
)
def test_the_card_of_a_control_says_what_was_predicted(source, predicted, shown):
    config = facts().config
    config.target_source = source
    config.target_normalization = "rms"
    config.activation_penalty = 0.5
    card = " ".join(str(model_card(facts(config=config))).split())
    assert f"classifier learned to predict {predicted} `hidden.relu1` (weight 10 of" in card
    assert f"targets detached, {shown}, target normalization rms, activation penalty 0.5). It holds" in card
    assert "its own activations" not in card
    assert "/home/me" not in card


def fine_tuned(**settings) -> CardFacts:
    """A pretrained backbone, an RLCT, and all that lies beside its card."""
    config = SelfModelingConfig(
        backbone="timm/resnet18", base_model="timm/resnet18.a1_in1k", hidden_sizes=[64], num_labels=10,
        target_layers=["layer4", "hidden.relu1"], aux_weight=0.5, detach_targets=False,
    )  # fmt: skip
    sampler = {
        "sampler": "sghmc", "step_size": 1e-4, "localization": 100.0, "nbeta_rule": "batch/log batch", "num_chains": 2,
        "num_draws": 4, "num_burnin_steps": 2, "batch_size": 64, "num_samples": 50000, "seed": 3,
        "preset": "paper (cifar10) with sampler", "options": {"momentum": 0.9},
        "data": "uoft-cs/cifar10, plain_text, train",
    }  # fmt: skip
    rlct = LLCResult(
        llc=25.53, standard_error=0.42, llc_per_chain=np.array([25.0, 26.06]), loss_trace=np.ones((2, 4)),
        baseline_trace=np.zeros((2, 4)), init_loss=0.012345, nbeta=15.3894, rhat=1.012, ess=143.6, acceptance_rate=None,
        settings=SamplerSettings(**(sampler | settings)), status="ok", status_reason="all chains agree",
        weights_sha256="5e" * 32,
    )  # fmt: skip
    about = {"repo_id": "me/cifar10-tuned", "dataset": "uoft-cs/cifar10", "dataset_title": "cifar10", "epochs": 2.0}
    about["license"] = {"license": "apache-2.0"}
    return facts(config=config, rlct=rlct, curves=True, trace=True, dataset_config="plain_text", **about)


def test_the_whole_card_with_an_rlct_and_a_base_model():
    # after a wanted change:
    # python -c "from tests.hub.test_card import *; EXPECTED_FINE_TUNED.write_text(str(model_card(fine_tuned())))"
    assert str(model_card(fine_tuned())) == EXPECTED_FINE_TUNED.read_text()


def test_of_a_part_the_card_says_so_beside_the_figure():
    names = set()
    card = str(model_card(fine_tuned(parameters=("network.a.weight", "network.b.weight"))))
    assert "± 0.42 (standard error), of the parameters network.a.weight, network.b.weight alone |" in card
    assert "name: RLCT at nβ = 15.39 (sghmc), of network.a.weight, network.b.weight alone" in card
    assert "the parameters network.a.weight, network.b.weight alone, *not of the whole network*" in card
    for last in ("network.8", "network.9"):
        many = fine_tuned(parameters=(*(f"network.{k}" for k in range(8)), last))
        assert re.search(r"network.0, network.1, network.2 and 6 more \(\w{6}\) alone", str(model_card(many)))
        names.add(many.rlct.settings.parameter_names)
    assert len(names) == 2  # so that the metric of one never replaces that of the other


def test_metadata_reads_back():
    data = ModelCard(str(model_card(facts()))).data
    assert {r.metric_type: r.metric_value for r in data.eval_results} == {"accuracy": 0.94123, "weight_width": 0.23456}
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")


FORMS = {
    ("text-classification", "bert"): ({"num_labels": 2}, "F1 (of the second class)", {"average": "binary"}),
    ("image-classification", "vit"): ({}, "F1 (mean over classes)", {"average": "macro"}),
    ("text-classification", "gpt2"): (
        {"problem_type": "multi_label_classification"},
        "F1 (of all labels together)",
        {"average": "micro"},
    ),
    ("token-classification", "roberta"): ({}, "F1 of tokens (mean over classes)", {"average": "macro"}),
    ("question-answering", "electra"): ({}, "F1 of an answer's tokens", {}),
}


@pytest.mark.parametrize("kind", FORMS)
def test_an_f1_says_what_it_is_a_mean_of(kind):
    """F1 of tokens is not that of seqeval's entities, and the three averages of F1 are different figures."""
    inner, name, arguments = FORMS[kind]
    model = network(*kind, inner=inner)
    card = model_card(facts(config=model.config, metrics={"f1": 0.5}))
    (found,) = ModelCard(str(card)).data.eval_results
    assert (found.metric_type, found.metric_name) == ("f1", name)
    assert found.metric_args == {**arguments, "weights_sha256": "5e" * 32}
    assert f"| {name} | 0.5000 |" in str(card)


@pytest.mark.parametrize(
    ("kind", "name", "title"),
    [
        ("causal-lm", "gpt2", "Accuracy of tokens"),
        ("masked-lm", "bert", "Accuracy of tokens"),
        ("multiple-choice", "bert", "Accuracy"),
    ],
)
def test_an_accuracy_says_what_it_is_a_mean_of(kind, name, title):
    card = model_card(facts(config=network(kind, name).config, metrics={"accuracy": 0.5}))
    (found,) = ModelCard(str(card)).data.eval_results
    assert (found.metric_type, found.metric_name) == ("accuracy", title)


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
    assert "This image classifier has no self-model: it is a baseline (weight 0), or a pruned network." in text
    assert "\ndatasets:" not in text


def test_tables_of_a_card_fit_a_phone():
    """A cell is as wide as its longest word, and a phone has room for some 40 letters."""
    for card in (fine_tuned(), replace(fine_tuned(), weights=None)):
        rows = [line for line in str(model_card(card)).splitlines() if line.startswith("|")]
        assert len(rows) > 15
        for row in rows:
            assert max(map(len, row.split())) <= 40, row


def test_an_rlct_of_other_or_unknown_weights_names_its_own():
    card = str(model_card(replace(fine_tuned(), weights=None)))
    assert f"| weights | SHA-256 {'5e' * 8}... |" in card
    assert "those of the results above" not in card


def test_one_epoch_is_no_plural():
    assert "after 1 epoch:" in str(model_card(facts(epochs=1.0)))


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

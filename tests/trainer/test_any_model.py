"""The RLCT of task models of transformers, without a self-model."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import BertForSequenceClassification, BertModel

from selfmod_hf import (
    LLCResult,
    SelfModelingForCausalLM,
    SelfModelingForTokenClassification,
    calibrate_rlct,
    estimate_llc,
    estimate_rlct,
    head_masks,
)
from selfmod_hf.data import ImageTensors, TextTensors
from selfmod_hf.errors import InputError
from selfmod_hf.trainer.any_model import is_task_model
from selfmod_hf.weights import weights_sha256
from tests.trainer.tiny_models import MODELS, SIZES, tiny_model, tiny_rows

FEW = {"num_draws": 4, "num_chains": 2, "batch_size": 5, "step_size": 1e-4}


def batch_of(rows):
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


QUICK = ("vit", "bert-tokens", "gpt2")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_chains_at_once_are_chains_in_a_loop(name, monkeypatch):
    monkeypatch.setattr("selfmod_hf.stacking.replay.RECORDED_FROM", 1)  # few draws, but recorded like many
    model, rows = tiny_model(name), tiny_rows(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (at_once,) = estimate_rlct([model], rows, **FEW)
    (in_a_loop,) = estimate_rlct([model], rows, **FEW, vectorize=False)
    np.testing.assert_allclose(at_once.loss_trace, in_a_loop.loss_trace, rtol=1e-5)
    np.testing.assert_allclose(at_once.llc_per_chain, in_a_loop.llc_per_chain, rtol=1e-2, atol=1e-4)
    assert np.ptp(at_once.loss_trace - at_once.baseline_trace) > 1e-3  # the chains move
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["bert-tokens", "bert-masked", "gpt2", "llama"])
def test_the_loss_of_tokens_is_the_mean_over_all_counted_ones(name):
    """By the logits of each text alone, without its padding."""
    model, rows = tiny_model(name), tiny_rows(name)
    total, count = 0.0, 0
    for row in rows:
        real = row["attention_mask"] == 1
        with torch.no_grad():
            logits = model(input_ids=row["input_ids"][real][None]).logits[0]
        labels = row["labels"][real]
        if name in ("gpt2", "llama"):
            logits, labels = logits[:-1], labels[1:]
        total += float(functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    (result,) = estimate_rlct([model], rows, **FEW)
    assert result.init_loss == pytest.approx(total / count, rel=1e-5)
    assert result.nbeta == pytest.approx(count / math.log(count))
    assert result.settings.nbeta_rule == "n/log n, n = tokens"
    assert result.settings.num_samples == len(rows)
    assert result.loss == "cross-entropy of a token"


def test_nbeta_of_a_minibatch_counts_its_tokens():
    (result,) = estimate_rlct([tiny_model("gpt2")], tiny_rows("gpt2"), **FEW, nbeta="batch/log batch")
    tokens = (8 * 8 + 4 * 4) * 5 / 12  # of 8 complete texts and 4 shorter ones, in 5 of 12
    assert result.nbeta == pytest.approx(tokens / math.log(tokens))
    assert result.settings.nbeta_rule == "batch/log batch, batch = tokens"
    (given,) = estimate_rlct([tiny_model("gpt2")], tiny_rows("gpt2"), **FEW, nbeta=3.0)
    assert (given.nbeta, given.settings.nbeta_rule) == (3.0, "given")


def test_a_text_without_counted_tokens_is_left_out():
    rows = tiny_rows("gpt2")
    empty = rows[1] | {"labels": torch.full((9,), -100)}
    (expected,) = estimate_rlct([tiny_model("gpt2")], rows, **FEW)
    (result,) = estimate_rlct([tiny_model("gpt2")], [*rows, empty], **FEW)
    np.testing.assert_array_equal(result.loss_trace, expected.loss_trace)


def test_a_classifier_is_the_same_as_by_hand():
    model, rows = tiny_model("bert"), tiny_rows("bert")

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model

        def forward(self, **inputs):
            return self.network(**inputs).logits

    batch = batch_of(rows)
    labels = batch.pop("labels")
    (result,) = estimate_rlct([model], rows, **FEW)
    by_hand = estimate_llc(Logits(), batch, labels, **FEW, vectorize=False)
    np.testing.assert_allclose(result.loss_trace, by_hand.loss_trace, rtol=1e-5)
    assert result.settings.num_parameters == by_hand.settings.num_parameters
    assert result.loss == "cross-entropy"
    assert result.nbeta == pytest.approx(12 / math.log(12))


def test_every_input_of_the_model_is_kept():
    """Other positions than the usual ones, as a collator of left-padded texts gives them."""
    model, rows = tiny_model("bert"), tiny_rows("bert")
    for row in rows:
        row |= {"position_ids": torch.arange(9).flip(0), "idx": torch.tensor(7)}
    batch = batch_of(rows)
    del batch["idx"]
    with torch.no_grad():
        expected = float(model(**batch).loss)
        usual = float(model(**{**batch, "position_ids": None}).loss)
    assert abs(usual - expected) > 1e-4
    (result,) = estimate_rlct([model], rows, **FEW)
    assert result.init_loss == pytest.approx(expected, rel=1e-5)


def test_an_input_without_a_batch_is_named():
    def collator(rows):
        return batch_of(rows) | {"position_ids": torch.arange(9)}

    with pytest.raises(
        InputError, match=r"^data_collator\['position_ids'\]=\(9,\): must have one entry for each of 12"
    ):
        estimate_rlct([tiny_model("bert")], tiny_rows("bert"), collator, **FEW)


def test_a_classifier_without_a_token_for_padding_takes_that_of_the_end():
    model, rows = tiny_model("gpt2-classes", pad_token_id=None, eos_token_id=0), tiny_rows("gpt2-classes")
    batch = batch_of(rows)
    with torch.no_grad():
        expected = float(tiny_model("gpt2-classes")(**batch).loss)  # its padding is 0
    (result,) = estimate_rlct([model], rows, **FEW)
    assert result.init_loss == pytest.approx(expected, rel=1e-5)
    assert model.config.pad_token_id is None
    without = tiny_model("gpt2-classes", pad_token_id=None, eos_token_id=None)
    with pytest.raises(InputError, match=r"^model='GPT2ForSequenceClassification': cannot compute the loss of these"):
        estimate_rlct([without], rows, **FEW)


@pytest.mark.parametrize("changes", [{}, {"pad_token_id": None, "eos_token_id": 0}])
def test_another_token_for_padding_than_the_models_is_rejected(changes):
    rows = tiny_rows("gpt2-classes")
    for row in rows:
        row["input_ids"] = row["input_ids"].masked_fill(row["attention_mask"] == 0, 11)
    with pytest.raises(InputError, match=r"^pad_token_id=0: .* the data are padded with 11; allowed are equal ones"):
        estimate_rlct([tiny_model("gpt2-classes", **changes)], rows, **FEW)


def test_several_labels_have_the_sum_of_their_losses():
    model, rows = tiny_model("bert", problem_type="multi_label_classification"), tiny_rows("bert")
    for number, row in enumerate(rows):
        row["labels"] = torch.tensor([1.0, number % 2, 0.0])
    batch = batch_of(rows)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch).logits
    expected = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(rows)
    (result,) = estimate_rlct([model], rows, **FEW)
    assert result.init_loss == pytest.approx(float(expected), rel=1e-5)
    assert result.loss == "binary cross-entropy"


@pytest.mark.parametrize("count", [1, 2])
def test_scores_have_half_of_the_square_error(count):
    model, rows = tiny_model("bert", num_labels=count, problem_type="regression"), tiny_rows("bert")
    for number, row in enumerate(rows):
        row["labels"] = torch.tensor([0.5 * number] * count).squeeze()
    rows[1]["labels"] = torch.full_like(rows[1]["labels"], -100)  # a score like any other
    batch = batch_of(rows)
    labels = batch.pop("labels").view(len(rows), count)
    with torch.no_grad():
        errors = (model(**batch).logits - labels).square().sum() / 2 / len(rows)
    missing = {**rows[0], "labels": torch.full_like(rows[0]["labels"], torch.nan)}
    (result,) = estimate_rlct([model], [*rows, missing], **FEW)
    assert result.init_loss == pytest.approx(float(errors), rel=1e-5)
    assert result.loss == "half of the square error"


def test_images_and_texts_of_this_package_are_taken():
    pixels = torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = ImageTensors(pixels, torch.arange(12) % 3)
    model = tiny_model("vit")
    inputs, labels = images.all()
    with torch.no_grad():
        expected = float(model(pixel_values=inputs, labels=labels).loss)
    (result,) = estimate_rlct([model], images, **FEW)
    assert result.init_loss == pytest.approx(expected, rel=1e-5)
    texts = TextTensors(torch.arange(3, 27), torch.arange(0, 25, 2), torch.arange(12) % 3)
    with pytest.raises(InputError, match=r"^train_data.padded=False: task models take padded texts"):
        estimate_rlct([tiny_model("bert")], texts, **FEW)


def test_several_models_and_a_calibration():
    first, second = tiny_model("gpt2"), tiny_model("gpt2")
    with torch.no_grad():
        second.transformer.wte.weight.mul_(1.1)
    results = estimate_rlct([first, second], tiny_rows("gpt2"), **FEW)
    assert results[0].init_loss != results[1].init_loss
    found = calibrate_rlct(first, tiny_rows("gpt2"), step_sizes=[1e-4], localizations=[1.0], num_draws=40, batch_size=6)
    (cell,) = found.results
    assert found.result is cell
    assert cell.settings.nbeta_rule == found.result.settings.nbeta_rule == "n/log n, n = tokens"
    assert (cell.loss, cell.weights_sha256) == ("cross-entropy of a token", results[0].weights_sha256)
    (alone,) = estimate_rlct([second], tiny_rows("gpt2"), **FEW, members=[1])
    np.testing.assert_allclose(results[1].loss_trace, alone.loss_trace, rtol=1e-5)


def test_a_result_keeps_its_loss_and_names_its_weights(tmp_path):
    model = tiny_model("gpt2")  # its head is tied to the embeddings
    model.save_pretrained(tmp_path / "model")
    loaded = type(model).from_pretrained(tmp_path / "model")
    (result,) = estimate_rlct([loaded], tiny_rows("gpt2"), **FEW)
    assert result.weights_sha256 == weights_sha256(tmp_path / "model")
    result.save(tmp_path / "rlct.json")
    assert LLCResult.load(tmp_path / "rlct.json").loss == "cross-entropy of a token"
    assert "loss                  cross-entropy of a token" in result.summary()


@pytest.mark.parametrize("name", ["bert-tokens", "gpt2"])
def test_a_network_over_a_task_model_has_the_rlct_of_its_task_model(name):
    own = {"bert-tokens": SelfModelingForTokenClassification, "gpt2": SelfModelingForCausalLM}[name]
    layers = {"bert-tokens": "encoder.layer.1", "gpt2": "h.1"}[name]
    model = tiny_model(name)
    network = own.wrap(copy.deepcopy(model), target_layers=[layers], aux_weight=1.0)
    (plain,) = estimate_rlct([model], tiny_rows(name), **FEW)
    (pruned,) = estimate_rlct([network], tiny_rows(name), **FEW)
    np.testing.assert_array_equal(pruned.loss_trace, plain.loss_trace)
    assert pruned.settings == plain.settings
    assert head_masks(network, ["*.1:1"]).keys() == head_masks(model, ["*.1:1"]).keys()


TWO_PROCESSES = """
import sys
import torch.distributed as dist
from selfmod_hf import estimate_rlct
from tests.trainer.tiny_models import tiny_model, tiny_rows
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=int(sys.argv[1]), world_size=2)
settings = dict(num_draws=20, num_chains=3, batch_size=5, step_size=1e-4, heads=["transformer.h.0:1"])
(result,) = estimate_rlct([tiny_model("gpt2")], tiny_rows("gpt2"), **settings)
result.save(sys.argv[3] + "/" + sys.argv[1] + ".json")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    arguments = [str(tmp_path / "meeting"), str(tmp_path)]
    runs = [subprocess.Popen([sys.executable, "-c", TWO_PROCESSES, str(rank), *arguments]) for rank in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    settings = {**FEW, "num_draws": 20, "num_chains": 3}
    (alone,) = estimate_rlct([tiny_model("gpt2")], tiny_rows("gpt2"), **settings, heads=["transformer.h.0:1"])
    for rank in range(2):
        found = LLCResult.load(tmp_path / f"{rank}.json")
        np.testing.assert_allclose(found.loss_trace, alone.loss_trace, rtol=1e-5)
        assert found.settings == alone.settings
        assert found.weights_sha256 == alone.weights_sha256


class Smoothed(BertForSequenceClassification):
    """A model with a loss of its own."""

    def forward(self, labels=None, **inputs):
        output = super().forward(**inputs)
        output.logits = 10 * output.logits
        if labels is not None:
            output.loss = functional.cross_entropy(output.logits, labels, label_smoothing=0.5)
        return output


@pytest.mark.parametrize(
    ("models", "rows", "message"),
    [
        ([Smoothed(tiny_model("bert").config)], tiny_rows("bert"), "^model='Smoothed': has a loss of its own"),
        (
            [BertModel(tiny_model("bert").config)],
            tiny_rows("bert"),
            "^model='BertModel': must be a self-modeling network",
        ),
        (
            [tiny_model("bert"), BertModel(tiny_model("bert").config)],
            tiny_rows("bert"),
            "^model='BertModel': must be of one",
        ),
        ([tiny_model("bert")], tiny_rows("vit"), "must give input_ids"),
        ([tiny_model("bert")], [{"input_ids": [3, 4], "labels": 3}], "^train_data.labels=3: the model has 3 classes"),
        ([tiny_model("gpt2")], [{"input_ids": [3, 4], "labels": 3}], "allowed are integers of shape"),
        ([tiny_model("gpt2")], [{"input_ids": [3, 4], "labels": [-100, -100]}], "no sample has a label"),
        (
            [tiny_model("bert")],
            [{"input_ids": [3] * 41, "labels": 1}],
            "^max_length=None: the longest text has 41 tokens",
        ),
        (
            [tiny_model("bert", problem_type="multi_label_classification")],
            [{"input_ids": [3, 4], "labels": [1.0, 0.0]}],
            "the model has 3 outputs",
        ),
        (
            [tiny_model("bert", problem_type="multi_label_classification")],
            [{"input_ids": [3, 4], "labels": [1.0, 0.0, -100.0]}],
            "lacks some of its labels",
        ),
        (
            [tiny_model("bert", problem_type="multi_label_classification")],
            [{"input_ids": [3, 4], "labels": [1.0, 0.0, 7.0]}],
            "^train_data.labels=7.0: allowed are 0 and 1, a mark for each class",
        ),
    ],
)
def test_unusable_models_and_labels_are_named(models, rows, message):
    with pytest.raises(InputError, match=message):
        estimate_rlct(models, rows, **FEW)


def test_a_task_model_is_known_by_its_class():
    assert is_task_model(Smoothed(tiny_model("bert").config))
    assert not is_task_model(torch.nn.Linear(2, 2))
    assert SIZES["hidden_size"] == tiny_model("bert").config.hidden_size

"""Evaluation: what users of transformers' Trainer rely on, with our Trainer and with transformers' own."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingTrainer,
    SelfModelingTrainingArguments,
)
from selfmod_hf.data import ImageTensors, TextTensors
from selfmod_hf.trainer.population_trainer import PopulationTrainer
from tests.models import test_encoders as encoders

from .test_terms_trainer import MEMBERS, population
from .test_trainer import images, losses, network, trainer


def weighted(outputs, labels):
    return F.cross_entropy(outputs["logits"], labels, weight=torch.tensor([1.0, 5.0, 1.0]))


class Adds(SelfModelingTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        return (loss + 10, outputs) if return_outputs else loss + 10


class AddsInPlace(SelfModelingTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss += 10
        return (loss, outputs) if return_outputs else loss


class ItsOwn(SelfModelingTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = weighted(outputs, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


class TakesTheLabels(SelfModelingTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = weighted(outputs, labels)
        return (loss, outputs) if return_outputs else loss


class DividesByTheCount(SelfModelingTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs["logits"], inputs["labels"], reduction="sum") / num_items_in_batch + 10
        return (loss, outputs) if return_outputs else loss


def expected_loss(kind, data) -> float:
    """Return what `kind` computes of all labelled samples in batches of 10, each batch weighed by its labels."""
    model = network().eval()
    total, count = 0.0, 0
    for rows in torch.arange(len(data)).split(10):
        batch = data.take(rows)
        kept = batch["labels"] != -100
        if not kept.any():
            continue
        with torch.no_grad():
            output = model(**batch)
        if kind in (Adds, AddsInPlace):
            loss = output.loss + 10
        elif kind is DividesByTheCount:
            loss = output.classification_loss + 10
        else:
            loss = weighted(output, batch["labels"])
        total += float(loss) * int(kept.sum())
        count += int(kept.sum())
    return total / count


@pytest.mark.parametrize("kind", [Adds, AddsInPlace, ItsOwn, TakesTheLabels, DividesByTheCount])
@pytest.mark.parametrize("loss_only", [True, False])
def test_the_loss_of_an_evaluation_is_what_compute_loss_gives(tmp_path, kind, loss_only):
    data = images(41, seed=1)
    data.labels[3:14] = -100
    args = SelfModelingTrainingArguments(
        str(tmp_path), per_device_eval_batch_size=10, report_to="none", disable_tqdm=True,
        prediction_loss_only=loss_only,
    )  # fmt: skip
    metrics = kind(model=network(), args=args, eval_dataset=data).evaluate()
    assert metrics["eval_loss"] == pytest.approx(expected_loss(kind, data), rel=1e-5)
    plain = trainer(tmp_path).evaluate(data)
    for name in ("eval_classification_loss", "eval_self_modeling_loss", "eval_weighted_self_modeling_loss"):
        assert metrics[name] == pytest.approx(plain[name], rel=1e-5)
    assert ("eval_accuracy" in metrics) != loss_only


def test_the_loss_of_a_population_is_what_compute_loss_gives_averaged_over_members(tmp_path):
    class AddsToAll(PopulationTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            return (loss + 30, outputs) if return_outputs else loss + 30  # 10 for each of three members

    runs = []
    for kind in (PopulationTrainer, AddsToAll):
        args = trainer(tmp_path, num_train_epochs=1, logging_steps=2).args
        run = kind(model=population(), args=args, train_dataset=images(), eval_dataset=images(41, seed=1))
        evaluated = run.evaluate()
        run.train()
        runs.append((evaluated, losses(run)[0]))
    (plain, plain_log), (added, added_log) = runs
    assert added["eval_loss"] == pytest.approx(plain["eval_loss"] + 10, rel=1e-6)
    assert added_log["loss"] == pytest.approx(plain_log["loss"] + 10, rel=1e-6)
    assert added["eval_classification_loss"] == plain["eval_classification_loss"]


class Recorder:
    """Keeps what `compute_metrics` and `preprocess_logits_for_metrics` were given."""

    def __init__(self):
        self.predictions, self.logits = [], []

    def preprocess(self, logits, labels):
        self.logits.append(logits)
        return logits.argmax(dim=1)

    def metrics(self, prediction):
        self.predictions.append(prediction)
        return {"right": float((prediction.predictions == prediction.label_ids).mean())}


@pytest.mark.parametrize("make", [network, population])
def test_metrics_get_preprocessed_logits_inputs_and_losses_and_the_terms_stay(tmp_path, make):
    recorder, data = Recorder(), images(41, seed=1)
    args = SelfModelingTrainingArguments(
        str(tmp_path), per_device_eval_batch_size=10, include_for_metrics=["inputs", "loss"], report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    run = SelfModelingTrainer(
        model=make(), args=args, eval_dataset=data, compute_metrics=recorder.metrics,
        preprocess_logits_for_metrics=recorder.preprocess,
    )  # fmt: skip
    found = run.evaluate()
    plain = trainer(tmp_path, make(), per_device_eval_batch_size=10).evaluate()
    assert {name: found[name] for name in plain if "loss" in name} == {
        name: value for name, value in plain.items() if "loss" in name
    }
    assert [tuple(logits.shape) for logits in recorder.logits[:: len(recorder.predictions)]] == [(10, 3)] * 4 + [(1, 3)]
    names = ["eval_right"] if make is network else [f"eval_right/{member.name}" for member in MEMBERS]
    suffixes = [name.removeprefix("eval_right") for name in names]
    for suffix, prediction in zip(suffixes, recorder.predictions, strict=True):
        assert found[f"eval_right{suffix}"] == plain[f"eval_accuracy{suffix}"]
        assert prediction.predictions.shape == prediction.label_ids.shape == prediction.losses.shape == (41,)
        np.testing.assert_array_equal(prediction.inputs, data.all()[0].numpy())
        assert prediction.losses.mean() == pytest.approx(plain[f"eval_loss{suffix}"], rel=1e-5)


def test_a_preprocessor_of_a_population_may_give_several_tensors(tmp_path):
    seen = []

    def metrics(prediction):
        classes, probabilities = prediction.predictions
        seen.append((classes, probabilities))
        return {"sum": float(probabilities.sum())}

    run = SelfModelingTrainer(
        model=population(), args=trainer(tmp_path).args, eval_dataset=images(41, seed=1), compute_metrics=metrics,
        preprocess_logits_for_metrics=lambda logits, labels: (logits.argmax(1), logits.softmax(1)),
    )  # fmt: skip
    found = run.evaluate()
    for member, (classes, probabilities) in zip(MEMBERS, seen, strict=True):
        np.testing.assert_array_equal(probabilities.argmax(1), classes)
        assert found[f"eval_sum/{member.name}"] == pytest.approx(41)


def test_the_accuracy_of_classes_is_that_of_the_logits(tmp_path):
    args = trainer(tmp_path).args
    given = {"args": args, "eval_dataset": images(41, seed=1)}
    expected = SelfModelingTrainer(model=network(), **given).evaluate()["eval_accuracy"]
    for preprocess in (lambda logits, _: logits.argmax(-1), lambda logits, _: (logits, logits.sum())):
        run = SelfModelingTrainer(model=network(), preprocess_logits_for_metrics=preprocess, **given)
        assert run.evaluate()["eval_accuracy"] == expected


def test_predictions_hold_what_is_not_ignored(tmp_path):
    run, data = trainer(tmp_path), images(41, seed=1)
    logits, predictions, targets = run.predict(
        data, ignore_keys=["classification_loss", "self_modeling_loss"]
    ).predictions
    output = run.model.eval()(*data.all())
    np.testing.assert_allclose(logits, output.logits.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(predictions, output.self_model_predictions.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(targets, output.self_model_targets.numpy(), rtol=1e-6)


@pytest.mark.parametrize("make", [network, population])
def test_data_without_labels_are_predicted(tmp_path, make):
    rows = [{"pixel_values": row["pixel_values"]} for row in (images(41, seed=1)[index] for index in range(41))]
    run = trainer(tmp_path, make())
    found = run.predict(rows)
    assert found.label_ids is None
    assert not [name for name in found.metrics if "loss" in name or "accuracy" in name]
    np.testing.assert_allclose(found.predictions, run.predict(images(41, seed=1)).predictions, rtol=1e-5)
    assert not [name for name in run.evaluate(rows) if "loss" in name or "accuracy" in name]


def test_inputs_of_a_bag_are_not_given_to_metrics(tmp_path):
    offsets = torch.arange(0, 12, 2)
    data = TextTensors(torch.arange(10, dtype=torch.int32), offsets, torch.arange(5) % 3)
    model = encoders.network("embedding_bag", target_layers=["hidden.relu1"])
    run = trainer(tmp_path, model, include_for_metrics=["inputs"])
    with pytest.raises(ValueError, match=r"^include_for_metrics=\['inputs'\]: allowed with padded texts"):
        run.evaluate(data)


# ------------------------------------------------------------------------------------------ other inputs and Trainers


@pytest.mark.parametrize("name", ["mlp", "bert", "embedding_bag"])
@pytest.mark.parametrize("fields", [{}, {"output_hidden_states": True}])
def test_transformers_own_trainer_trains_evaluates_and_predicts(tmp_path, name, fields):
    if fields and name != "bert":
        pytest.skip("states are those of an encoder")
    targets = {"target_layers": ["hidden.relu1"]} if name == "embedding_bag" else {}
    model = encoders.network(name, **targets, **fields)
    batch = encoders.batch(name, [4, 2, 4, 3, 1])
    rows = [{key: value[index] for key, value in batch.items()} for index in range(5)]
    args = TrainingArguments(
        str(tmp_path), num_train_epochs=1, save_strategy="no", report_to="none", disable_tqdm=True, learning_rate=1e-3
    )
    run = Trainer(model=model, args=args, train_dataset=rows, eval_dataset=rows)
    run.train()
    expected = model.eval()(**batch)
    assert run.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    found = run.predict(rows).predictions
    np.testing.assert_allclose(found, expected.logits.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_transformers_own_trainer_takes_images_in_memory(tmp_path):
    """It collates samples, where this package's Trainer gathers whole batches."""
    pixels = torch.randint(0, 256, (10, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ImageTensors(pixels, torch.arange(10) % 3)
    config = SelfModelingConfig(
        hidden_sizes=[4], target_layers=["hidden.relu1"], aux_weight=1.0, image_size=4, num_labels=3
    )
    model = SelfModelingForImageClassification(config)
    args = TrainingArguments(str(tmp_path), num_train_epochs=1, save_strategy="no", report_to="none", disable_tqdm=True)
    run = Trainer(model=model, args=args, train_dataset=data, eval_dataset=data)
    run.train()
    expected = model.eval()(**data.batch(range(10)))
    assert run.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)


def test_embeddings_train_what_their_tokens_train(tmp_path):
    """A frozen table of embeddings: the same trajectory by tokens and by their embeddings."""
    batch = encoders.batch("bert", [4, 2, 4, 3, 1, 4])
    logs = []
    for by_tokens in (True, False):
        model = encoders.network("bert")
        table = model.get_input_embeddings()
        table.requires_grad_(False)
        inputs = dict(batch) if by_tokens else {**batch, "inputs_embeds": table(batch["input_ids"])}
        if not by_tokens:
            inputs.pop("input_ids")
        rows = [{key: value[index] for key, value in inputs.items()} for index in range(6)]
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        run = trainer(tmp_path, model, train=rows, num_train_epochs=3, per_device_train_batch_size=4)
        run.train()
        logs.append([entry["loss"] for entry in losses(run)])
    assert len(logs[0]) == 6
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)

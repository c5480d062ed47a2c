"""Samples without a label (-100): out of losses, terms, accuracy and counts, however a batch is cut."""

import json
import os
from pathlib import Path

import pytest
import torch

from selfmod_hf.data import ImageTensors

from . import test_population as many
from .test_shares import in_two_processes
from .test_trainer import images, losses, network, trainer

NAMES = ("loss", "classification_loss", "self_modeling_loss", "weighted_self_modeling_loss")


def marked(data: ImageTensors, keep: int = 3) -> ImageTensors:
    """Return the data with labels of every `keep`-th sample alone; the first 32 samples have none."""
    unlabelled = torch.arange(len(data)) % keep != 0
    unlabelled[:32] = True
    return type(data)(data.pixels, data.labels.masked_fill(unlabelled, -100))


def labelled(data: ImageTensors) -> ImageTensors:
    """Return the samples that have a label."""
    kept = data.labels != -100
    return type(data)(data.pixels[kept], data.labels[kept])


@pytest.mark.parametrize(("micro", "steps"), [(64, 1), (32, 2), (8, 8)])
def test_training_is_what_it_is_without_them_however_a_batch_is_cut(tmp_path, micro, steps):
    """One batch an epoch, which holds all samples; micro-batches of 8 without any label are among them."""
    settings = {"logging_steps": 1, "num_train_epochs": 4, "max_grad_norm": 0.5}
    data = marked(images(64))
    run = trainer(
        tmp_path, train=data, per_device_train_batch_size=micro, gradient_accumulation_steps=steps, **settings
    )
    expected = trainer(tmp_path, network(), train=labelled(data), **settings)
    for each in (run, expected):
        each.train()
    for mine, theirs in zip(losses(run), losses(expected), strict=True):
        assert {name: mine[name] for name in NAMES} == pytest.approx({name: theirs[name] for name in NAMES}, rel=1e-4)
    for mine, theirs in zip(run.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [41, 7, 1])
@pytest.mark.parametrize("in_memory", [True, False])
def test_evaluation_is_what_it_is_without_them(tmp_path, batch, in_memory):
    data = marked(images(41, seed=1))
    run = trainer(tmp_path, per_device_eval_batch_size=batch)
    expected = run.evaluate(labelled(data))
    found = run.evaluate(data if in_memory else [data[index] for index in range(len(data))])
    names = [name for name in expected if "loss" in name or name == "eval_accuracy"]
    assert len(names) == 6
    assert {name: found[name] for name in names} == pytest.approx({name: expected[name] for name in names}, rel=1e-5)


@pytest.mark.parametrize("population", [True, False])
def test_without_any_label_there_is_no_loss_and_no_accuracy(tmp_path, population):
    data = images(41, seed=1)
    data = ImageTensors(data.pixels, torch.full((41,), -100))
    model = many.population(dtype=torch.float32) if population else network()
    run = trainer(tmp_path, model)
    metrics = run.evaluate(data)
    assert not [name for name in metrics if "loss" in name or "accuracy" in name]
    assert len(run.predict(data).predictions) == 41


@pytest.mark.parametrize("population", [True, False])
def test_an_epoch_without_any_label_changes_no_weight(tmp_path, population):
    data = images(64)
    data = ImageTensors(data.pixels, torch.full((64,), -100))
    model = many.population(dtype=torch.float32) if population else network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = trainer(tmp_path, model, train=data, max_grad_norm=1.0, num_train_epochs=1, logging_steps=1)
    run.train()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert losses(run)[0]["loss"] == losses(run)[0]["self_modeling_loss"] == 0


@pytest.mark.parametrize("name", ["sgd", "accumulated"])
def test_a_member_counts_its_own_labels(tmp_path, monkeypatch, name):
    """The members' batches differ, and so do the numbers of labels in them: small batches have none at all."""
    settings = {**many.SETTINGS[name], "per_device_train_batch_size": 8}
    monkeypatch.setattr(many, "images", _with_few_labels(many.images))
    run = many.trainer(tmp_path, many.population(), **settings)
    run.train()
    metrics = run.evaluate()
    logged = {key: value for entry in run.state.log_history for key, value in entry.items()}
    for k, member in enumerate(many.MEMBERS):
        reference = many.alone(tmp_path, member, **settings)
        many.assert_same(run.model.member(k), reference.model, 1e-9)
        theirs = {key: value for entry in reference.state.log_history for key, value in entry.items()}
        for key in ("loss", "classification_loss"):
            assert logged[f"{key}/{member.name}"] == pytest.approx(theirs[key], rel=1e-5)
        expected = reference.evaluate()
        for key in ("eval_loss", "eval_classification_loss", "eval_accuracy"):
            assert metrics[f"{key}/{member.name}"] == pytest.approx(expected[key], rel=1e-9)


def _with_few_labels(make):
    return lambda *args, **kwargs: marked(make(*args, **kwargs), keep=5)


# ------------------------------------------------------------------------------------------ several processes

TWO = {
    "one network": {"max_grad_norm": 0.5},
    "means of each process": {"max_grad_norm": 0.5, "average_tokens_across_devices": False},
    "accumulated": {"gradient_accumulation_steps": 4},
    "population": {"gradient_accumulation_steps": 2},
}


def train(case: str, folder: str) -> None:
    """Train on data with few labels, evaluate, and write logs and weights; a script calls it in two processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    population = many.population(many.MEMBERS[:3], torch.float32) if case == "population" else None
    batch = 16 if population is not None else 32 // processes  # each process has whole batches of its members
    run = trainer(
        folder, population, train=marked(images(64)), use_cpu=True, num_train_epochs=2,
        per_device_train_batch_size=batch, per_device_eval_batch_size=8, **TWO[case],
    )  # fmt: skip
    run.train()
    metrics = run.evaluate(marked(images(41, seed=1)))
    if run.is_world_process_zero():
        (Path(folder) / "log.json").write_text(json.dumps([*losses(run), metrics]))
        torch.save((population or run.model).state_dict(), Path(folder) / "weights.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One folder a run: `CASE-1` by one process, `CASE-2` by two."""
    folder = tmp_path_factory.mktemp("runs")
    for case in TWO:
        train(case, f"{folder}/{case}-1")
    jobs = [(case, f"{folder}/{case}-2") for case in TWO]
    in_two_processes(jobs, "test_unlabelled")
    return folder


def log_of(folder: Path) -> list[dict[str, float]]:
    """Return the losses that were logged, and at last those of the evaluation."""
    entries = json.loads((folder / "log.json").read_text())
    return [{name: value for name, value in entry.items() if "loss" in name or "accuracy" in name} for entry in entries]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in TWO if case != "means of each process"])
def test_two_processes_leave_out_what_one_does(runs, case):
    for found, expected in zip(log_of(runs / f"{case}-2"), log_of(runs / f"{case}-1"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    weights, others = (torch.load(runs / f"{case}-{number}" / "weights.pt") for number in (1, 2))
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one network", "means of each process", "accumulated"])
@pytest.mark.parametrize("processes", [1, 2])
def test_terms_add_up_to_the_loss_on_several_processes(runs, case, processes):
    *training, evaluation = log_of(runs / f"{case}-{processes}")
    for entry, prefix in [*((entry, "") for entry in training), (evaluation, "eval_")]:
        terms = [entry[f"{prefix}weighted_{name}"] for name in ("classification_loss", "self_modeling_loss")]
        assert sum(terms) == pytest.approx(entry[f"{prefix}loss"], rel=1e-5)

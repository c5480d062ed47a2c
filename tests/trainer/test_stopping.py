"""Stopping rules: each network stops by itself, stays as it then was, and is resumed where it was."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate
from transformers import TrainerCallback, set_seed

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
from selfmod_hf.errors import InputError
from selfmod_hf.trainer import SelfModelingTrainingArguments
from selfmod_hf.trainer.callbacks import RLCTsCallback
from selfmod_hf.trainer.stopping_rules import Progress, StoppingRules

from . import test_shares as shares
from .test_population import (
    FIELDS,
    OPTIMIZERS,
    Doubles,
    Member,
    StopAt,
    assert_same,
    population,
    trainer,
)

EVALUATED = {"eval_strategy": "epoch", "num_train_epochs": 6, "weight_decay": 0.01, "lr_scheduler_type": "cosine"}
MEMBERS = [
    Member(1, 10),
    Member(1, 10, stop_at_train_loss=1.05),
    Member(2, 10, False, stop_at_train_loss=1.07),
    Member(2, 0, early_stopping_patience=1),
    Member(3, 0, early_stopping_patience=2, stop_at_train_loss=0.01, learning_rate=0.3),
]
STOPPING = ("stop_at_train_loss", "early_stopping_patience")


def alone(folder, member, fields=FIELDS, kind=Doubles, **settings):
    """Train a member's network without a population, by its rules as training arguments."""
    rules = {name: getattr(member, name) for name in STOPPING}
    if member.learning_rate is not None:
        rules["learning_rate"] = member.learning_rate
    set_seed(member.seed)
    config = SelfModelingConfig(**fields, **member.config_fields())
    model = SelfModelingForImageClassification(config).double()
    run = trainer(folder, model, kind, seed=member.seed, **{**settings, **rules})
    run.train()
    return run


def end(run):
    """Return the epoch at which each member stopped."""
    epochs = []
    for network in run.networks():
        epochs.append(None if network.stop is None else network.stop.epoch)
    return epochs


def assert_members_equal_runs_alone(folder, run, members, **settings):
    for k, (member, network) in enumerate(zip(members, run.networks(), strict=True)):
        reference = alone(folder, member, **settings)
        (expected,) = reference.networks()
        assert network.stop == expected.stop, member.name
        assert_same(run.population.member(k), reference.model, 1e-9)
        assert sorted(network.figures) == sorted(expected.figures), member.name
        last = max(expected.figures)
        for name in ("classification_loss", "eval_classification_loss", "eval_accuracy", "weight_width", "loss"):
            own, theirs = network.figures[last].get(name), expected.figures[last].get(name)
            assert own == pytest.approx(theirs, rel=1e-5), (member.name, name)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(OPTIMIZERS["sgd"], id="sgd"),
        pytest.param(OPTIMIZERS["adam"], id="adam", marks=pytest.mark.slow),
        pytest.param(
            {**OPTIMIZERS["sgd"], "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
            id="accumulated",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_each_member_stops_as_it_would_alone(tmp_path, settings):
    settings = {**EVALUATED, **settings}
    run = trainer(tmp_path, population(MEMBERS), **settings)
    run.train()
    assert len({epoch for epoch in end(run) if epoch}) > 1
    assert end(run)[0] is None
    assert_members_equal_runs_alone(tmp_path, run, MEMBERS, **settings)


def test_batch_statistics_of_a_member_that_has_stopped_stay(tmp_path):
    fields = {"backbone": "timm/test_resnet", "image_size": 32, "num_labels": 3, "target_layers": ["layer4"]}

    class Bigger(Doubles):
        def batch(self, indices):
            batch = super().batch(indices)
            return {**batch, "pixel_values": interpolate(batch["pixel_values"], 32)}

    members = [Member(1, 1.0, stop_at_train_loss=100.0), Member(2, 0.5)]
    settings = {"num_train_epochs": 2, "learning_rate": 1e-2, "kind": Bigger, "eval_strategy": "epoch"}
    run = trainer(tmp_path, population(members, fields=fields), **settings)
    run.train()
    assert end(run) == [1.0, None]
    assert_members_equal_runs_alone(tmp_path, run, members, fields=fields, **settings)


def test_later_figures_of_a_member_are_not_reported(tmp_path):
    members = [Member(1, 10, stop_at_train_loss=100.0), Member(2, 10), Member(2, 0)]
    run = trainer(tmp_path, population(members), **EVALUATED, rlct_every_n_epochs=2)
    (rlct,) = (callback for callback in run.callback_handler.callbacks if isinstance(callback, RLCTsCallback))
    rlct.settings.update(num_draws=4, num_chains=2, batch_size=16)
    run.train()
    assert [entry["epoch"] for entry in run.state.log_history if "stopped_epoch/aw10-stop100-seed1" in entry] == [1.0]
    names = [member.name for member in members]
    for entry in run.state.log_history:
        for figure in ("loss", "eval_loss", "eval_accuracy", "weight_width", "rlct", "grad_norm"):
            if f"{figure}/{names[1]}" in entry:
                logged = [f"{figure}/{name}" for name in names if f"{figure}/{name}" in entry]
                assert len(logged) == (3 if entry["epoch"] == 1 else 2)
                expected = sum(entry[name] for name in logged) / len(logged)
                assert entry[figure] == pytest.approx(expected, rel=1e-6)
    assert {"eval_loss/" + name for name in names} <= set(run.evaluate())
    assert sorted(run.networks()[0].figures) == [1]
    assert sorted(run.networks()[1].figures) == [1, 2, 3, 4, 5, 6]


def test_a_population_ends_when_all_have_stopped(tmp_path):
    members = [Member(1, 10, stop_at_train_loss=1.05), Member(1, 0)]
    run = trainer(tmp_path, population(members), **EVALUATED, stop_at_train_loss=100.0)
    run.train()
    first, second = end(run)
    assert second == 1.0 < first == run.state.epoch < 6.0
    run.train()  # a second training begins anew
    assert end(run) == [1.0, 1.0]


# ---- one network ----


def single(folder, rate=0.3, **settings):
    set_seed(3)
    model = SelfModelingForImageClassification(SelfModelingConfig(**FIELDS, aux_weight=0.0)).double()
    return trainer(folder, model, seed=3, **{**EVALUATED, "learning_rate": rate, **settings})


def test_the_loss_that_stops_is_the_logged_one(tmp_path):
    plain = single(tmp_path)
    plain.train()
    losses = {epoch: figures["classification_loss"] for epoch, figures in plain.figures().items()}
    first = min(epoch for epoch in losses if losses[epoch] <= losses[4])
    exact = single(tmp_path, stop_at_train_loss=losses[4], logging_strategy="steps", logging_steps=2)
    exact.train()
    assert end(exact) == [exact.state.epoch] == [first]
    below = single(tmp_path, stop_at_train_loss=losses[4] - 1e-9)
    below.train()
    assert below.state.epoch > first


def test_the_metric_for_the_best_model_is_followed(tmp_path):
    run = single(
        tmp_path, early_stopping_patience=1, metric_for_best_model="accuracy", save_strategy="epoch",
        load_best_model_at_end=True,
    )  # fmt: skip
    run.train()
    accuracies = [figures["eval_accuracy"] for figures in run.figures().values()]
    assert accuracies[-1] <= max(accuracies[:-1])
    assert accuracies[:-1] == sorted(set(accuracies[:-1]))
    assert run.evaluate()["eval_accuracy"] == max(accuracies)


def test_a_rule_that_never_fires_is_reported(tmp_path, caplog):
    run = single(tmp_path, stop_at_train_loss=1e-6, early_stopping_patience=50)
    with caplog.at_level(logging.WARNING):
        run.train()
    assert end(run) == [None]
    (message,) = [record.message for record in caplog.records if "did not end the training" in record.message]
    lowest = min(figures["classification_loss"] for figures in run.figures().values())
    assert "stop_at_train_loss=1e-06 and early_stopping_patience=50" in message
    assert f"lowest classification_loss of an epoch: {lowest:.4g}" in message


def test_a_rule_that_fires_is_not(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        single(tmp_path, stop_at_train_loss=100.0).train()
    assert "did not end" not in caplog.text


# ---- resuming ----


@pytest.mark.parametrize(
    ("step", "saving"),
    [(4, {"save_strategy": "steps", "save_steps": 1}), (6, {"save_strategy": "steps", "save_steps": 3}), (9, {})],
    ids=["within an epoch", "a step that ends an epoch", "after a member's end"],
)
def test_a_resumed_training_stops_where_an_uninterrupted_one_does(tmp_path, step, saving):
    settings = {**EVALUATED, "save_strategy": "epoch", **saving}
    whole = trainer(tmp_path / "whole", population(MEMBERS), **settings)
    whole.train()
    cut = trainer(tmp_path / "cut", population(MEMBERS), **settings)
    cut.add_callback(StopAt(step))
    cut.train()
    resumed = trainer(tmp_path / "cut", population(MEMBERS), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{step}"))
    assert end(resumed) == end(whole)
    assert_same(resumed.population.stacked, whole.population.stacked, 0)


def several(folder, **settings):
    return trainer(folder, population([Member(1, 10), Member(1, 0)]), **{**EVALUATED, **settings})


@pytest.mark.parametrize("make", [single, several])
def test_a_stopped_training_is_not_continued(tmp_path, make):
    settings = {"stop_at_train_loss": 100.0, "save_strategy": "epoch"}
    run = make(tmp_path, **settings)
    run.train()
    again = make(tmp_path, **settings)
    again.train(resume_from_checkpoint=True)
    assert (again.state.global_step, again.state.epoch) == (run.state.global_step, run.state.epoch) == (3, 1.0)
    assert end(again) == end(run)
    assert_same(again.model, run.model, 0)


def test_one_network_goes_on_by_another_rule_and_a_member_does_not(tmp_path):
    single(tmp_path / "one", stop_at_train_loss=100.0, save_strategy="epoch").train()
    longer = single(tmp_path / "one", save_strategy="epoch")
    longer.train(resume_from_checkpoint=True)
    assert longer.state.epoch == 6.0
    several(tmp_path / "many", stop_at_train_loss=100.0, save_strategy="epoch").train()
    other = several(tmp_path / "many", stop_at_train_loss=50.0, save_strategy="epoch")
    with pytest.raises(InputError, match=r"^resume_from_checkpoint=.*stop_at_train_loss=100.0/aw10-seed1"):
        other.train(resume_from_checkpoint=True)


# ---- several processes ----

LIMIT = 1.0  # the single network's loss falls below it in its third epoch


def train(folder: str, members: bool, stop: int = 0, resume: bool = False) -> None:
    """Train a population, or one network whose batches the processes share. `stop`: after so many steps."""
    settings = {"save_strategy": "steps", "save_steps": 1, "use_cpu": True}
    if members:
        run = trainer(Path(folder), population(MEMBERS), **EVALUATED, **settings)
    else:
        batch = 32 // int(os.environ.get("WORLD_SIZE", 1))
        run = single(folder, stop_at_train_loss=LIMIT, per_device_train_batch_size=batch, **settings)
    if stop:
        run.add_callback(StopAt(stop))
    run.train(resume_from_checkpoint=resume)
    if run.is_world_process_zero():
        result = Path(folder) / "result"
        result.mkdir(exist_ok=True)
        model = run.population if members else run.model
        save_file(model.state_dict(), result / "model.safetensors")
        log = [*run.state.log_history, {"ends": str(end(run))}]
        (Path(folder) / "log.json").write_text(json.dumps(log))


@pytest.mark.slow
def test_two_processes_stop_as_one_does(tmp_path):
    jobs = []
    for members, first, second in ((True, 8, 14), (False, 4, 7)):
        train(str(tmp_path / f"one {members}"), members)
        jobs.append((str(tmp_path / f"two {members}"), members))
        jobs.append((str(tmp_path / f"cut {members}"), members, first))
        jobs.append((str(tmp_path / f"cut {members}"), members, second, True))
    shares.in_two_processes(jobs, "test_stopping")
    for members in (True, False):
        train(str(tmp_path / f"cut {members}"), members, resume=True)
        weights, log = shares.result(tmp_path / f"one {members}")
        assert "3.0" in log[-1]["ends"]
        for folder in ("two", "cut"):
            found, other = shares.result(tmp_path / f"{folder} {members}")
            shares.assert_close(found, weights)
            assert other[-1] == log[-1]


# ---- checks ----


def test_rules_without_what_they_need_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"^early_stopping_patience=3: allowed with evaluations.*eval_strategy"):
        SelfModelingTrainingArguments(str(tmp_path), early_stopping_patience=3)
    with pytest.raises(InputError, match=r"^early_stopping_patience=2: allowed with evaluations"):
        trainer(tmp_path, population([Member(1, 1, early_stopping_patience=2)]))
    run = single(tmp_path, early_stopping_patience=1)
    run.eval_dataset = {"a": run.eval_dataset, "b": run.eval_dataset}
    with pytest.raises(InputError, match=r"^early_stopping_patience=1: .*several splits.*eval_<split>_class"):
        run.train()
    run.args.metric_for_best_model, run.args.greater_is_better = "eval_b_accuracy", True
    run.train()
    assert run.networks()[0].stop.rule == "early_stopping_patience"


def test_an_evaluation_without_the_figure_is_an_error(tmp_path):
    run = single(tmp_path, early_stopping_patience=1)
    run.eval_dataset.labels[:] = -100
    with pytest.raises(InputError, match=r"^early_stopping_patience=1: needs 'eval_classification_loss'"):
        run.train()


def test_a_data_set_without_a_length_has_no_epochs(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from ({"pixel_values": torch.zeros(1, 4, 4).double(), "labels": 0} for _ in range(8))

    run = single(tmp_path, stop_at_train_loss=1.0, max_steps=2)
    run.train_dataset = Stream()
    with pytest.raises(InputError, match=r"^stop_at_train_loss=1.0: .*has a length"):
        run.train()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stop_at_train_loss": 0.0}, "stop_at_train_loss=0.0.*above 0"),
        ({"stop_at_train_loss": float("nan")}, "stop_at_train_loss=nan.*above 0"),
        ({"early_stopping_patience": 0}, "early_stopping_patience=0.*at least 1"),
        ({"early_stopping_patience": 1.5}, "early_stopping_patience=1.5.*integers"),
    ],
)
def test_rules_outside_of_their_range_are_rejected(tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        Member(1, 1, **wrong)
    with pytest.raises(InputError, match=message):
        SelfModelingTrainingArguments(str(tmp_path), eval_strategy="epoch", **wrong)


def test_undefined_figures_are_no_improvement():
    progress = Progress(StoppingRules(stop_at_train_loss=1.0, early_stopping_patience=2))
    assert progress.after_epoch(float("nan")) is None
    found = [progress.after_evaluation(value, greater_is_better=True) for value in (float("nan"), 0.1, float("nan"))]
    assert found == [None, None, None]
    assert progress.after_evaluation(0.1, greater_is_better=True) == "early_stopping_patience"
    assert Progress.from_description(json.loads(json.dumps(progress.describe()))) == progress


class Reader(TrainerCallback):
    """Read the first member's weights after each step."""

    def __init__(self):
        self.read = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.read.append(model.stacked.get_parameter("classifier.weight")[0].clone())


def test_a_callback_reads_the_weights_of_a_members_end(tmp_path):
    run = trainer(tmp_path, population([Member(1, 10, stop_at_train_loss=100.0), Member(2, 0)]), **EVALUATED)
    reader = Reader()
    run.add_callback(reader)
    run.train()
    assert not torch.equal(reader.read[1], reader.read[2])
    for later in reader.read[3:]:
        assert torch.equal(later, reader.read[2])

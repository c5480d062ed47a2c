"""Logged terms add up to the logged loss, in each training of a Trainer."""

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from selfmod_hf import Member, SelfModelingTrainer, SelfModelingTrainingArguments
from selfmod_hf.trainer.population_trainer import PopulationTrainer
from selfmod_hf.trainer.terms import means_over_counts

from . import test_population as many
from .test_trainer import images, losses, network, trainer

MEMBERS = [Member(1, 2.0), Member(2, 0.0), Member(1, 5.0, False)]


def population(**fields):
    return many.population(MEMBERS, torch.float32, {**many.FIELDS, **fields})


def assert_terms_add_up(entries: list[dict[str, float]], prefix: str = "") -> None:
    """Check each entry's loss, of a population every member's too."""
    assert entries
    for entry in entries:
        suffixes = [name.removeprefix(f"{prefix}loss") for name in entry if name.startswith(f"{prefix}loss")]
        for suffix in suffixes:
            terms = [
                entry[f"{prefix}weighted_{name}{suffix}"] for name in ("classification_loss", "self_modeling_loss")
            ]
            assert sum(terms) == pytest.approx(entry[f"{prefix}loss{suffix}"], rel=1e-5)
        members = [entry[f"{prefix}loss{suffix}"] for suffix in suffixes if suffix]
        if members:
            assert entry[f"{prefix}loss"] == pytest.approx(np.mean(members), rel=1e-5)


class Interrupt(TrainerCallback):
    """Stops the first training by an error in the middle of what is logged next."""

    def __init__(self):
        self.done = False

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4 and not self.done:
            self.done = True
            raise KeyboardInterrupt


@pytest.mark.parametrize("make", [network, population])
@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_accumulation_steps": 3}, {"logging_nan_inf_filter": True}, {"dataloader_drop_last": True}],
)
def test_terms_add_up_to_the_loss_in_each_training_of_a_trainer(tmp_path, make, settings):
    """93 samples: 12 batches an epoch, the last one smaller; some steps are not logged before training ends."""
    run = trainer(tmp_path, make(), per_device_train_batch_size=8, logging_steps=5, num_train_epochs=2, **settings)
    run.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        run.train()
    for _ in range(2):
        run.train()
        assert_terms_add_up(losses(run))


def test_terms_add_up_where_a_loss_that_is_not_finite_is_filtered(tmp_path):
    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 8:  # two of the five steps that are logged next are finite
                torch.nn.init.constant_(model.classifier.weight, float("nan"))

    run = trainer(
        tmp_path, per_device_train_batch_size=8, logging_steps=5, num_train_epochs=1, logging_nan_inf_filter=True
    )
    run.add_callback(Poison())
    run.train()
    assert len(losses(run)) == 2
    assert np.isfinite(losses(run)[1]["loss"])
    assert_terms_add_up(losses(run))


@pytest.mark.parametrize("make", [network, population])
def test_a_batch_that_was_too_large_leaves_nothing_in_the_logs(tmp_path, make):
    class OutOfMemory:
        """Fails in the third step of the first size of batch."""

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            if self._train_batch_size == 16 and self.state.global_step == 2:
                raise RuntimeError("CUDA out of memory.")
            return loss

    kind = SelfModelingTrainer if make is network else PopulationTrainer
    run = type("Run", (OutOfMemory, kind), {})(
        model=make(),
        args=SelfModelingTrainingArguments(
            str(tmp_path), num_train_epochs=1, per_device_train_batch_size=16, logging_steps=5, save_strategy="no",
            auto_find_batch_size=True, report_to="none", disable_tqdm=True, learning_rate=1e-4,
        ),
        train_dataset=images(),
    )  # fmt: skip
    run.train()
    assert run._train_batch_size < 16
    assert_terms_add_up(losses(run))


def test_each_trial_of_a_search_logs_its_own_terms(tmp_path):
    pytest.importorskip("optuna")
    found = []

    class Keep(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                found.append(dict(logs))

    def model_init(trial):
        width = 8 if trial is None else trial.suggest_categorical("width", [4, 16])
        return network(hidden_sizes=[width])

    run = SelfModelingTrainer(
        model_init=model_init,
        args=SelfModelingTrainingArguments(
            str(tmp_path), max_steps=7, logging_steps=5, per_device_train_batch_size=8, eval_strategy="steps",
            eval_steps=3, report_to="none", disable_tqdm=True, save_strategy="no",
        ),
        train_dataset=images(),
        eval_dataset=images(41, seed=1),
        callbacks=[Keep()],
    )  # fmt: skip
    run.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1)}, n_trials=3, backend="optuna"
    )
    assert len(found) == 3
    assert_terms_add_up(found)


def test_a_loss_may_be_logged_before_the_first_step(tmp_path):
    """By a callback, between two micro-batches."""

    class Log(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == 0:
                run.log({"loss": 0.0})

    run = trainer(tmp_path, gradient_accumulation_steps=2, max_steps=2)
    run.add_callback(Log())
    run.train()
    first = losses(run)[0]
    assert first["step"] == 0
    assert 0 < first["weighted_classification_loss"] < 10


def test_means_over_many_samples_are_not_rounded():
    """In float32 a million terms of .1 add up to 100,958."""
    terms, counts = torch.full((2**20, 2, 3), 0.1), torch.ones(2**20, dtype=torch.long)
    for mean in means_over_counts(terms, counts).values():
        assert mean == pytest.approx(0.1, rel=1e-6)


def test_a_network_that_gives_tuples_logs_its_terms(tmp_path):
    run = trainer(tmp_path, network(return_dict=False), num_train_epochs=1)
    run.train()
    assert_terms_add_up(losses(run))
    assert_terms_add_up([run.evaluate()], "eval_")
    assert run.predict(images(41)).predictions.shape == (41, 3)
    trainer(tmp_path, population(return_dict=False), num_train_epochs=1).train()


def test_both_weights_enter_what_a_population_logs_and_evaluates(tmp_path):
    fields = {**many.FIELDS, "classification_weight": 0.25}
    run = many.trainer(tmp_path, many.population(MEMBERS, fields=fields))
    run.train()
    metrics = run.evaluate()
    assert_terms_add_up(losses(run))
    assert_terms_add_up([metrics], "eval_")
    logged = losses(run)[-1]
    for member in MEMBERS:
        alone = many.alone(tmp_path, member, fields=fields)
        for theirs, ours in ((losses(alone)[-1], logged), (alone.evaluate(), metrics)):
            names = [name for name in theirs if "loss" in name]
            assert len(names) in (3, 5)  # a baseline has no self-model
            own = {name: ours[f"{name}/{member.name}"] for name in names}
            assert own == pytest.approx({name: theirs[name] for name in names}, rel=1e-5)

"""A member of a population equals the same seed trained alone."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, ViTConfig, set_seed

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingTrainer,
    estimate_rlct,
    weight_width,
)
from selfmod_hf.data import ImageTensors
from selfmod_hf.trainer import SelfModelingTrainingArguments
from selfmod_hf.trainer.population import Member, SelfModelingPopulation

OPTIMIZERS = {
    "sgd": {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=True", "learning_rate": 0.1},
    "adam": {"optim": "adamw_torch", "learning_rate": 1e-2},
}
FIELDS = {"hidden_sizes": [8], "target_layers": ["hidden.relu1"], "image_size": 4, "num_labels": 3}
MEMBERS = [Member(1, 10), Member(2, 0), Member(2, 10, False), Member(1, 10, False), Member(2, 10)]


class Doubles(ImageTensors):
    """Batches in float64."""

    def batch(self, indices):
        batch = super().batch(indices)
        return {**batch, "pixel_values": batch["pixel_values"].double()}


def images(count: int = 93, seed: int = 0, kind=Doubles) -> ImageTensors:
    """93 images: the last batch of an epoch is not full."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    pixels = torch.randint(0, 200, (count, 1, 4, 4), generator=generator) + 20 * labels.view(-1, 1, 1, 1)
    return kind(pixels.to(torch.uint8), labels)


def trainer(folder, model, kind=Doubles, **settings) -> SelfModelingTrainer:
    defaults = {
        **OPTIMIZERS["sgd"],
        "lr_scheduler_type": "linear",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 32,
        "num_train_epochs": 3,
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    arguments = SelfModelingTrainingArguments(output_dir=str(folder), **{**defaults, **settings})
    return SelfModelingTrainer(
        model=model, args=arguments, train_dataset=images(kind=kind), eval_dataset=images(41, seed=1, kind=kind)
    )


def alone(folder, member: Member, kind=Doubles, fields=FIELDS, **settings) -> SelfModelingTrainer:
    """The same seed as `selfmod train` runs it; a member of weight 0 is the baseline, with no self-model."""
    own = {"target_layers": []} if member.aux_weight == 0 else {}
    set_seed(member.seed)
    config = SelfModelingConfig(**{**fields, **own}, aux_weight=member.aux_weight, detach_targets=member.detach_targets)
    model = SelfModelingForImageClassification(config)
    run = trainer(folder, model.double() if kind is Doubles else model, kind, seed=member.seed, **settings)
    run.train()
    return run


def population(members=MEMBERS, dtype=torch.float64, fields=FIELDS, **kwargs) -> SelfModelingPopulation:
    return SelfModelingPopulation(SelfModelingConfig(**fields), members, **kwargs).to(dtype)


def assert_same(model, reference, tolerance: float) -> None:
    """Every weight that the reference has; a baseline has no self-model's head."""
    weights = model.state_dict()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(
            weights[name], value, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


SETTINGS = {
    "sgd": OPTIMIZERS["sgd"],
    "adam": OPTIMIZERS["adam"],
    "clipped": {**OPTIMIZERS["sgd"], "max_grad_norm": 0.05},
    "accumulated": {**OPTIMIZERS["sgd"], "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
}


def test_a_cast_of_a_population_keeps_its_self_model_weights():
    config = SelfModelingConfig(hidden_sizes=(4,), target_layers=("hidden.relu1",), image_size=2)
    population = SelfModelingPopulation(config, [Member(0, 0.3), Member(1, 1.7)])
    assert population.to(torch.bfloat16).term_weights[1].tolist() == [0.3, 1.7]


@pytest.mark.parametrize("name", SETTINGS)
def test_each_member_equals_the_same_seed_alone(tmp_path, name):
    run = trainer(tmp_path, population(), **SETTINGS[name])
    run.train()
    metrics = run.evaluate()
    logged = {key: value for entry in run.state.log_history for key, value in entry.items()}
    for k, member in enumerate(MEMBERS):
        reference = alone(tmp_path, member, **SETTINGS[name])
        assert_same(run.model.member(k), reference.model, 1e-9)
        expected = reference.evaluate()
        own = {
            key.removesuffix(f"/{member.name}"): value for key, value in metrics.items() if key.endswith(member.name)
        }
        common = [key for key in expected if key in own]
        assert {"eval_accuracy", "eval_loss", "eval_classification_loss"} <= set(common)
        assert {key: own[key] for key in common} == pytest.approx({key: expected[key] for key in common}, rel=1e-9)
        theirs = {key: value for entry in reference.state.log_history for key, value in entry.items()}
        for key in ("weight_width", "classification_loss", "loss"):
            assert logged[f"{key}/{member.name}"] == pytest.approx(theirs[key], rel=1e-5)


def test_each_member_of_leaky_units_equals_the_same_seed_alone(tmp_path):
    """The loaded members of a saved population are leaky, too."""
    fields = {**FIELDS, "hidden_activation": "leaky_relu"}
    run = trainer(tmp_path / "run", population(fields=fields))
    run.train()
    run.model.save(tmp_path / "saved")
    loaded = SelfModelingPopulation.load(tmp_path / "saved").double()
    pixels = images(5).batch(range(5))["pixel_values"]
    for k, member in enumerate(MEMBERS):
        reference = alone(tmp_path, member, fields=fields)
        assert_same(run.model.member(k), reference.model, 1e-9)
        logits = loaded.member(k)(pixel_values=pixels).logits
        torch.testing.assert_close(logits, reference.model.eval()(pixel_values=pixels).logits, rtol=0, atol=1e-6)
    relu = alone(tmp_path, MEMBERS[0])
    assert not torch.allclose(relu.model.classifier.weight, run.model.member(0).classifier.weight, atol=1e-6)


def test_a_trainer_gives_each_network_with_what_was_logged_of_it(tmp_path):
    run = trainer(tmp_path, population(MEMBERS[:2]), eval_strategy="epoch")
    run.train()
    for k, (member, network) in enumerate(zip(MEMBERS, run.networks(), strict=False)):
        (reference,) = alone(tmp_path, member, eval_strategy="epoch").networks()
        assert sorted(network.figures) == sorted(reference.figures) == [1, 2, 3]
        for epoch in (1, 3):
            own, theirs = network.figures[epoch], reference.figures[epoch]
            for name in ("eval_accuracy", "eval_loss", "weight_width", "classification_loss"):
                assert own[name] == pytest.approx(theirs[name], rel=1e-5)
        assert_same(network.model(), run.population.member(k), 0.0)
    assert run.figures()[3]["eval_loss"] == pytest.approx(
        np.mean([run.figures_by_member()[member.name][3]["eval_loss"] for member in MEMBERS[:2]])
    )


RATES = [
    Member(1, 10, learning_rate=0.02),
    Member(1, 10, learning_rate=0.1),
    Member(2, 0, learning_rate=0.005),
    Member(2, 10, False),
]


@pytest.mark.parametrize("name", SETTINGS)
def test_each_member_has_its_own_learning_rate(tmp_path, name):
    settings = {**SETTINGS[name], "weight_decay": 0.01, "lr_scheduler_type": "cosine"}
    run = trainer(tmp_path, population(RATES), **settings)
    run.train()
    for k, member in enumerate(RATES):
        own = {} if member.learning_rate is None else {"learning_rate": member.learning_rate}
        assert_same(run.model.member(k), alone(tmp_path, member, **{**settings, **own}).model, 1e-9)


def test_a_second_training_is_each_members_own(tmp_path):
    run = trainer(tmp_path, population(RATES))
    for _ in range(2):
        run.train()
    for k, member in enumerate(RATES):
        own = {} if member.learning_rate is None else {"learning_rate": member.learning_rate}
        reference = alone(tmp_path, member, **own)
        reference.train()
        assert_same(run.model.member(k), reference.model, 1e-9)


def test_members_of_different_learning_rates_resume(tmp_path):
    whole = trainer(tmp_path / "whole", population(RATES))
    whole.train()
    trainer(tmp_path / "cut", population(RATES), save_strategy="epoch").train()
    checkpoint = sorted((tmp_path / "cut").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[0]
    resumed = trainer(tmp_path / "cut", population(RATES))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same(resumed.model.stacked, whole.model.stacked, 0)
    loaded = SelfModelingPopulation.load(checkpoint)
    assert loaded.members == tuple(RATES)


def test_a_schedule_that_ends_at_a_rate_of_its_own_is_rejected(tmp_path):
    for schedule in (
        {"lr_scheduler_type": "polynomial"},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-3}},
    ):
        with pytest.raises(ValueError, match="lr_scheduler_type"):
            trainer(tmp_path, population(RATES), **schedule)
        trainer(tmp_path, population(MEMBERS), **schedule)
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="learning_rate="):
            Member(1, 1, learning_rate=rate)


def test_threads_get_their_own_outputs():
    model = population(dtype=torch.float32).eval()
    batches = [images(count, kind=ImageTensors).all()[0] for count in (5, 6, 7)]

    def targets(pixels: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            return [model(pixels)["self_model_targets"] for _ in range(15)]

    expected = [targets(pixels)[0] for pixels in batches]
    with ThreadPoolExecutor(len(batches)) as pool:
        found = list(pool.map(targets, batches))
    for mine, theirs in zip(found, expected, strict=True):
        for each in mine:
            assert torch.equal(each, theirs)


def test_an_evaluation_does_not_depend_on_what_else_was_trained_here(tmp_path):
    run = trainer(tmp_path, population(), per_device_eval_batch_size=3)
    before = run.evaluate()
    other = alone(tmp_path, MEMBERS[0], ImageTensors)
    other.train_dataset = [images(kind=ImageTensors)[k] for k in range(33)]  # read by transformers' own loader
    other.train()
    after = run.evaluate()
    figures = [key for key in before if "loss" in key or "accuracy" in key]
    assert {key: after[key] for key in figures} == {key: before[key] for key in figures}


def test_members_equal_in_float32_up_to_the_order_of_sums(tmp_path):
    run = trainer(tmp_path, population(dtype=torch.float32), ImageTensors)
    run.train()
    for k, member in enumerate(MEMBERS):
        assert_same(run.model.member(k), alone(tmp_path, member, ImageTensors).model, 2e-6)


def test_members_do_not_depend_on_their_company(tmp_path):
    def weights(members, **kwargs):
        model = population(members, **kwargs)
        trainer(tmp_path, model).train()
        return {member: model.member(k).state_dict() for k, member in enumerate(members)}

    whole = weights(MEMBERS)
    others = weights(MEMBERS[::-1], block_size=2) | weights(MEMBERS[:1]) | weights(MEMBERS[2:4])
    for member, state in others.items():
        for name, value in state.items():
            torch.testing.assert_close(value, whole[member][name], rtol=0, atol=1e-12)


def test_the_head_of_a_baseline_stays_as_it_was_drawn(tmp_path):
    model = population()
    before = model.member(1).self_model_head.weight.clone()
    trainer(tmp_path, model, **OPTIMIZERS["adam"]).train()
    assert torch.equal(model.member(1).self_model_head.weight, before)


@pytest.mark.slow
def test_batch_statistics_are_each_members_own(tmp_path):
    fields = {"backbone": "timm/test_resnet", "image_size": 32, "num_labels": 3, "target_layers": ["layer4"]}

    class Bigger(Doubles):
        def batch(self, indices):
            batch = super().batch(indices)
            return {**batch, "pixel_values": torch.nn.functional.interpolate(batch["pixel_values"], 32)}

    members = [Member(1, 1.0), Member(2, 0.5)]
    settings = {"num_train_epochs": 1, "learning_rate": 1e-2}
    run = trainer(tmp_path, population(members, fields=fields), Bigger, **settings)
    run.train()
    for k, member in enumerate(members):
        set_seed(member.seed)
        config = SelfModelingConfig(**fields, aux_weight=member.aux_weight)
        model = SelfModelingForImageClassification(config).double()
        trainer(tmp_path, model, Bigger, seed=member.seed, **settings).train()
        assert_same(run.model.member(k), model, 1e-9)


def test_a_member_is_an_ordinary_model(tmp_path):
    model = population(dtype=torch.float32)
    trainer(tmp_path, model, ImageTensors).train()
    member = model.member(2)
    assert (member.config.aux_weight, member.config.detach_targets) == (10, False)
    member.save_pretrained(tmp_path / "member")
    loaded = SelfModelingForImageClassification.from_pretrained(tmp_path / "member")
    pixels, labels = images(41, seed=1, kind=ImageTensors).all()
    together = model.eval()(pixels, labels)
    torch.testing.assert_close(loaded.eval()(pixels).logits, together["logits"][2])
    assert loaded.prune().self_model_head is None
    assert weight_width(loaded).sd == pytest.approx(model.weight_widths()[2].item())
    (rlct,) = estimate_rlct([member], images(kind=ImageTensors), num_draws=6, num_chains=2, batch_size=16)
    assert torch.tensor(rlct.loss_trace).isfinite().all()


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("step", [3, 4])  # the end of an epoch; the middle of one
def test_a_resumed_population_equals_an_uninterrupted_one(tmp_path, step):
    settings = {"save_strategy": "steps", "save_steps": 1}
    whole = trainer(tmp_path / "whole", population(), **settings)
    whole.train()
    cut = trainer(tmp_path / "cut", population(), **settings)
    cut.add_callback(StopAt(step))
    cut.train()
    set_seed(99)
    rest = trainer(tmp_path / "cut", population(), **settings)
    rest.train(resume_from_checkpoint=True)
    for mine, theirs in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    if step == 3:  # an epoch that was cut is logged from where it went on
        logs = [[entry for entry in run.state.log_history if "loss" in entry] for run in (whole, rest)]
        assert logs[0][1:] == logs[1]  # the first epoch is logged after its last step, and so after the cut


def test_resuming_with_other_members_is_refused(tmp_path):
    trainer(tmp_path, population(), save_strategy="epoch").train()
    others = trainer(tmp_path, population([Member(m.seed + 1, 10, m.detach_targets) for m in MEMBERS[:1]]))
    with pytest.raises(ValueError, match="holds no population of these members"):
        others.train(resume_from_checkpoint=True)


def test_save_and_load(tmp_path):
    model = population()
    model.save(tmp_path)
    loaded = SelfModelingPopulation.load(tmp_path)
    assert loaded.members == model.members
    assert loaded.config.to_dict() == model.config.to_dict()
    for mine, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert json.loads((tmp_path / "population.json").read_text())["members"][1]["aux_weight"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim": "adafactor"}, "optim='adafactor': with a population allowed are sgd"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}, "lr_scheduler_type='reduce_lr"),
        ({"data_seed": 3}, "data_seed=3"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1"),
    ],
)
def test_what_would_mix_members_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, population(), **{"optim_args": None, **settings})


def test_dropout_is_refused(tmp_path):
    vit = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=4, patch_size=2,
        num_channels=1, hidden_dropout_prob=0.1,
    )  # fmt: skip
    fields = {"backbone_config": vit, "num_labels": 3, "target_layers": ["layers.0"]}
    with pytest.raises(ValueError, match="draws random numbers \\(dropout"):
        trainer(tmp_path, population([Member(1, 1.0)], torch.float32, fields), ImageTensors).train()
    without = {**fields, "backbone_config": {**vit.to_dict(), "hidden_dropout_prob": 0.0}}
    trainer(tmp_path, population([Member(1, 1.0)], torch.float32, without), ImageTensors).train()


@pytest.mark.parametrize(
    ("members", "fields", "message"),
    [
        ([], FIELDS, "one or more"),
        ([Member(1, 2), Member(1, 2)], FIELDS, "aw2-seed1.*different"),
        ([Member(1, -1)], FIELDS, "aux_weight=-1"),
        ([Member(1, 1)], {**FIELDS, "target_layers": []}, "without target_layers"),
    ],
)
def test_members_that_cannot_be_are_refused(members, fields, message):
    with pytest.raises(ValueError, match=message):
        population(members, fields=fields)


@pytest.mark.parametrize("size", [-1, 0, 1.5, "2"])
def test_blocks_of_no_member_are_refused(size):
    with pytest.raises(ValueError, match=f"^block_size={size!r}: allowed are None and integers of at least 1$"):
        population(block_size=size)


def test_bfloat16_is_each_members_own(tmp_path):
    run = trainer(tmp_path, population(MEMBERS[:3], torch.float32), ImageTensors, bf16=True, use_cpu=True)
    run.train()
    for k, member in enumerate(MEMBERS[:3]):
        reference = alone(tmp_path, member, ImageTensors, bf16=True, use_cpu=True)
        assert_same(run.model.member(k), reference.model, 5e-3)  # a rounding of bfloat16 is 4e-3


def test_tensorboard_gets_each_member(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tmp_path, population(), report_to="tensorboard", eval_strategy="epoch").train()
    (file,) = tmp_path.rglob("events.out.tfevents*")
    scalars = EventAccumulator(str(file), size_guidance={"histograms": 0}).Reload()
    for tag in ("train/weight_width/aw10-seed1", "eval/accuracy/aw0-seed2", "train/self_modeling_loss"):
        assert [event.step for event in scalars.Scalars(tag)] == [3, 6, 9]
    assert len(scalars.Histograms("classifier.weight/aw10-seed1")) == 3
    assert scalars.Tags()["images"] == []


def test_moments_of_dead_units_do_not_become_denormal(tmp_path):
    model = population([Member(1, 1.0)], torch.float32)
    settings = {"num_train_epochs": 40, "optim_args": "momentum=0.5", "logging_strategy": "no"}
    run = trainer(tmp_path, model, ImageTensors, **settings)
    with torch.no_grad():
        model.stacked.hidden.linear1.bias[0, :3] = -1e3  # three dead units

    class Push(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            if state.global_step == 1:
                for moments in optimizer.state.values():
                    moments["momentum_buffer"].add_(1e-3)

    run.add_callback(Push)
    run.train()
    moments = torch.cat([moments["momentum_buffer"].flatten() for moments in run.optimizer.state.values()])
    assert (moments == 0).sum() >= 3 * 17  # 16 weights and a bias each; 1e-3 * 0.5^120 is no zero of its own


def test_a_population_is_not_pushed_as_one_network(tmp_path):
    population = SelfModelingPopulation(SelfModelingConfig(**FIELDS), MEMBERS)
    arguments = SelfModelingTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match=r"push_to_hub='5 members': .*population\.member\(k\)\.push_to_hub"):
        SelfModelingTrainer(model=population, args=arguments).push_to_hub()

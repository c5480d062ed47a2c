"""Members with numbers and targets of their own equal the same network trained alone."""

from dataclasses import fields as fields_of

import pytest
import torch
from transformers import set_seed

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.run_settings import default_of
from selfmod_hf.trainer.member import MEMBER_FIELDS, Member, runs_of
from selfmod_hf.trainer.population import SelfModelingPopulation

from .test_population import FIELDS, OPTIMIZERS, Doubles, assert_same, images, population, trainer

OPTIMIZER_FIELDS = ("learning_rate", "weight_decay", "weight_decay_parameters")
SGD = [
    Member(1, 10),
    Member(1, 10, momentum=0.5),
    Member(2, 0, weight_decay=0.3, momentum=0.0),
    Member(2, 10, learning_rate=0.02, weight_decay=0.1, weight_decay_parameters=("classifier.*",)),
    Member(3, 1, weight_decay_parameters=("*.weight", "*.bias")),
]
ADAM = [
    Member(1, 10),
    Member(1, 10, weight_decay=0.5),
    Member(2, 0, weight_decay=0.0, learning_rate=0.002),
    Member(2, 10, weight_decay=0.1, weight_decay_parameters=("classifier.weight",)),
]
TERMS = [
    Member(1, 10),
    Member(1, 10, classification_weight=0.3),
    Member(1, 0, activation_penalty=0.5),
    Member(2, 10, False, activation_penalty=0.1, target_normalization="rms"),
    Member(2, 10, target_source="shuffled"),
    Member(1, 10, target_source="random"),
    Member(2, 10, False, target_source="random"),
]


def alone(folder, member, **settings):
    """Train a member's network without a population."""
    given = dict(settings)
    for name in OPTIMIZER_FIELDS:
        value = getattr(member, name)
        if value is not None:
            given[name] = list(value) if isinstance(value, tuple) else value
    if member.momentum is not None:
        given["optim_args"] = f"momentum={member.momentum},nesterov={member.momentum > 0}"
    config = SelfModelingConfig(**{**FIELDS, **member.config_fields()})
    set_seed(member.seed)
    model = SelfModelingForImageClassification(config).double()
    run = trainer(folder, model, seed=member.seed, **given)
    run.train()
    return run


def compare(tmp_path, members, **settings):
    run = trainer(tmp_path, population(members), **settings)
    run.train()
    metrics = run.evaluate()
    for k, member in enumerate(members):
        reference = alone(tmp_path, member, **settings)
        assert_same(run.model.member(k), reference.model, 1e-9)
        for name, value in reference.evaluate().items():
            own = metrics.get(f"{name}/{member.name}")
            if own is not None:
                assert own == pytest.approx(value, rel=1e-9), (member.name, name)
    return run


@pytest.mark.parametrize(
    ("members", "settings"),
    [
        (SGD, {**OPTIMIZERS["sgd"], "weight_decay": 0.05, "lr_scheduler_type": "cosine"}),
        (SGD, {**OPTIMIZERS["sgd"], "max_grad_norm": 0.1}),
        (ADAM, {**OPTIMIZERS["adam"], "weight_decay": 0.05}),
        (ADAM, {"optim": "adamw_torch_fused", "learning_rate": 0.01, "weight_decay": 0.05}),
        (SGD[:1] + SGD[3:], {**OPTIMIZERS["sgd"], "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}),
    ],
    ids=["sgd", "clipped", "adam", "fused", "accumulated"],
)
def test_each_member_has_the_optimizer_it_would_have_alone(tmp_path, members, settings):
    compare(tmp_path, members, **settings)


def test_each_member_has_the_loss_it_would_have_alone(tmp_path):
    run = compare(tmp_path, TERMS, eval_strategy="epoch")
    logged = run.figures()[3]
    for member in TERMS:
        penalty = member.activation_penalty or 0.0
        weighted = logged[f"weighted_activation_loss/{member.name}"]
        assert weighted == pytest.approx(penalty * logged[f"activation_loss/{member.name}"], rel=1e-6)


def test_another_networks_activations_are_predicted(tmp_path):
    set_seed(9)
    other = SelfModelingForImageClassification(SelfModelingConfig(**FIELDS, aux_weight=1.0))
    other.save_pretrained(tmp_path / "other")
    source = f"network:{tmp_path / 'other'}"
    run = compare(tmp_path, [Member(1, 10), Member(1, 10, target_source=source)])
    batch = images(5).batch([0, 1, 2, 3, 4])
    expected = other(batch["pixel_values"].float()).self_model_targets
    outside = run.outside_targets()
    assert outside is not None
    zeros, found = outside.for_members(batch, shared=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not zeros.any()


def test_another_networks_target_layers_need_not_be_these(tmp_path):
    set_seed(9)
    plain = SelfModelingForImageClassification(SelfModelingConfig(**{**FIELDS, "target_layers": []}))
    plain.save_pretrained(tmp_path / "plain")
    compare(tmp_path, [Member(1, 10, target_source=f"network:{tmp_path / 'plain'}")])


def test_a_network_of_another_size_or_none_is_rejected_before_training(tmp_path):
    wide = SelfModelingForImageClassification(SelfModelingConfig(**{**FIELDS, "hidden_sizes": [9]}))
    wide.save_pretrained(tmp_path / "wide")
    for name, problem in (("wide", "gives 9 activations.*network of 8"), ("absent", "absent")):
        member = Member(1, 10, target_source=f"network:{tmp_path / name}")
        run = trainer(tmp_path, population([member]))
        with pytest.raises(InputError, match=f"target_source=.*{problem}"):
            run.train()
        assert run.state.global_step == 0


def test_members_with_numbers_of_their_own_resume(tmp_path):
    whole = trainer(tmp_path / "whole", population(SGD), weight_decay=0.05)
    whole.train()
    trainer(tmp_path / "cut", population(SGD), weight_decay=0.05, save_strategy="epoch").train()
    checkpoint = min((tmp_path / "cut").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    resumed = trainer(tmp_path / "cut", population(SGD), weight_decay=0.05)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same(resumed.model.stacked, whole.model.stacked, 0)
    assert SelfModelingPopulation.load(checkpoint).members == tuple(SGD)


def test_a_saved_optimizer_is_that_of_complete_parameters(tmp_path):
    trainer(tmp_path, population(SGD), save_strategy="epoch").train()
    checkpoint = min(tmp_path.glob("checkpoint-*"))
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    shapes = [tuple(values["momentum_buffer"].shape) for _, values in sorted(saved["state"].items())]
    assert shapes == [tuple(parameter.shape) for parameter in population(SGD).parameters()]


def test_a_populations_memory_of_gradients_is_not_kept(tmp_path):
    run = trainer(tmp_path, population(SGD))
    run.train()
    views = [view for group in run.optimizer.param_groups for view in group["params"]]
    assert all(view.grad is None for view in views)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"momentum": 1.0}, "momentum=1.0.*below 1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1.*at least 0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0.*above 0"),
    ],
)
def test_numbers_outside_of_their_range_are_rejected(wrong, message):
    with pytest.raises(InputError, match=message):
        Member(0, 1.0, **wrong)


def test_a_momentum_of_adam_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"momentum=0.5.*optim='sgd'"):
        trainer(tmp_path, population([Member(0, 1, momentum=0.5)]), **OPTIMIZERS["adam"])


@pytest.mark.parametrize("where", ["member", "arguments"])
def test_a_pattern_without_a_parameter_is_rejected(tmp_path, where):
    patterns = ["classfier.*"]
    if where == "member":
        run = trainer(tmp_path, population([Member(0, 1, weight_decay_parameters=tuple(patterns))]))
    else:
        run = trainer(tmp_path, population([Member(0, 1)]), weight_decay_parameters=patterns)
    with pytest.raises(InputError, match=r"weight_decay_parameters='classfier.\*'.*matches no parameter"):
        run.train()


def test_decay_of_the_last_layer_moves_the_last_layer_alone(tmp_path):
    """With decay and a learning rate of AdamW, but gradients of zero."""
    set_seed(0)
    model = SelfModelingForImageClassification(SelfModelingConfig(**FIELDS, classification_weight=0.0)).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = {"weight_decay": 0.1, "weight_decay_parameters": ["classifier.*"], "lr_scheduler_type": "constant"}
    run = trainer(tmp_path, model, optim="adamw_torch", learning_rate=0.5, max_steps=1, **settings)
    run.optimizer_cls_and_kwargs = None
    run.args.learning_rate = 0.5
    run.train()
    for name, value in model.state_dict().items():
        if name.startswith("classifier"):
            torch.testing.assert_close(value, before[name] * (1 - 0.5 * 0.1))
        else:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_names_are_unique_and_have_no_slash():
    members = [
        *SGD,
        *TERMS[1:],
        Member(1, 10, target_source="network:me/other"),
        Member(1, 10, target_normalization="rms"),
    ]
    names = [member.name for member in members]
    assert len(set(names)) == len(names)
    assert not any("/" in name for name in names)
    assert Member(1, 10, target_source="network:me/other").name == "aw10-network_me_other-seed1"


def test_a_described_member_comes_back():
    for member in [*SGD, *TERMS]:
        described = member.describe()
        assert Member(**described) == member
        assert None not in described.values()
    assert {field.name for field in fields_of(Member)} >= set(Member(0, 1.0).describe())


def test_each_field_of_a_member_is_a_setting_of_a_run():
    assert {field.name for field in fields_of(Member)} == {*MEMBER_FIELDS, "momentum"}
    for name in MEMBER_FIELDS:
        default_of(name)  # else a KeyError


def test_runs():
    assert [(list(members), value) for members, value in runs_of("aabccc")] == [
        ([0, 1], "a"),
        ([2], "b"),
        ([3, 4, 5], "c"),
    ]


def test_doubles_are_doubles():
    assert images(3, kind=Doubles).batch([0])["pixel_values"].dtype == torch.float64


def test_members_of_different_sources_predict_without_labels():
    model = population([Member(0, 1), Member(0, 1, target_source="shuffled"), Member(0, 1, target_source="random")])
    pixels = images(4).batch([0, 1, 2, 3])["pixel_values"]
    output = model(pixel_values=pixels)
    assert output["logits"].shape == (3, 4, 3)
    assert "self_model_targets" not in output


def test_a_wrong_argument_of_the_optimizer_is_an_error_of_its_flag(tmp_path):
    for member in (Member(0, 1), Member(0, 1, learning_rate=0.1)):
        run = trainer(tmp_path, population([member]), optim="sgd", optim_args="momentum=-1")
        with pytest.raises(InputError, match=r"optim=.*momentum"):
            run.train()


def test_dampening_is_that_of_a_run_alone(tmp_path):
    """The first step of SGD takes the gradient undamped, also after Accelerate has loaded the optimizer's own state."""
    settings = {"optim": "sgd", "optim_args": "momentum=0.9,dampening=0.5", "learning_rate": 0.1}
    member = Member(1, 10, learning_rate=0.05)
    run = trainer(tmp_path, population([member]), **settings)
    run.train()
    reference = alone(tmp_path, member, **settings)
    assert_same(run.model.member(0), reference.model, 1e-9)

"""Numbers that go wrong: losses that are not finite, members that explode, types that overflow, data that are few."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from torch import nn

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, estimate_llc
from selfmod_hf.cli import main
from selfmod_hf.complexity import estimate_llc_many
from selfmod_hf.data import ImageTensors
from selfmod_hf.hub.upload import Target, push_model
from selfmod_hf.trainer import estimate_rlct
from selfmod_hf.trainer.population import Member
from tests.complexity.scenarios import digits, trained_digits_net
from tests.trainer.test_population import FIELDS, OPTIMIZERS, images, population, trainer

ABSURD = 1e30  # a self-modeling loss of this weight sends its network to infinity within a few steps
SWEEP = [
    "sweep", "--recipe=digits", "--max_train_samples=200", "--hidden_sizes=8", "--seeds", "1", "2",
    "--num_train_epochs=3", "--num_chains=2", "--num_draws=40", "--quiet",
]  # fmt: skip


def strict_json(path: Path):
    """Refuses NaN and Infinity, which are no JSON."""

    def refuse(name: str):
        raise ValueError(f"{path}: {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


# ---- one member explodes ----


@pytest.mark.parametrize("settings", [{}, {"max_grad_norm": 0.05}, OPTIMIZERS["adam"]], ids=["sgd", "clipped", "adam"])
def test_a_member_that_explodes_leaves_the_others_as_they_are(tmp_path, settings):
    def run(aux_weight: float):
        members = [Member(1, 10.0), Member(2, aux_weight), Member(3, 0.0), Member(2, 10.0, False)]
        model = population(members, torch.float32)
        run = trainer(tmp_path, model, ImageTensors, **settings)
        if aux_weight == ABSURD and settings:  # clipped and normalized gradients need more than a weight
            with torch.no_grad():
                model.stacked.hidden.linear1.weight[1] = ABSURD
        run.train()
        return model, run.state.log_history

    (tame, tame_log), (wild, wild_log) = run(10.5), run(ABSURD)
    assert not all(value[1].isfinite().all() for value in wild.stacked.state_dict().values())
    for name, value in tame.stacked.state_dict().items():
        for k in (0, 2, 3):
            assert torch.equal(value[k], wild.stacked.state_dict()[name][k]), (name, k)
    for before, after in zip(tame_log, wild_log, strict=True):
        for key, value in before.items():
            if key.endswith(("aw10-seed1", "aw0-seed3", "aw10-attached-seed2")):
                assert after[key] == value, key
    last = {key: value for entry in wild_log for key, value in entry.items()}
    assert not math.isfinite(last["loss/aw1e+30-seed2"])  # nor is it hidden in the log
    assert not math.isfinite(last["loss"])


def test_a_network_that_exploded_leaves_the_rlct_of_the_others_as_it_is():
    def results(broken: bool):
        nets = [trained_digits_net(), trained_digits_net(steps=300), trained_digits_net(steps=350)]
        if broken:
            nets[1] = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
            nn.init.constant_(nets[1][0].weight, math.nan)
        return estimate_llc_many(nets, *digits(), num_draws=60, batch_size=64, step_size=1e-5, nbeta=10.0)

    whole, holed = results(False), results(True)
    for k in (0, 2):
        np.testing.assert_array_equal(whole[k].loss_trace, holed[k].loss_trace)
        assert whole[k].to_dict() == holed[k].to_dict()
    assert (holed[1].status, holed[1].diverged_chains) == ("diverged", (0, 1, 2, 3))
    assert "the network itself has diverged" in holed[1].status_reason
    assert math.isnan(holed[1].llc)


def test_a_chain_that_explodes_is_named():
    result = estimate_llc(trained_digits_net(), *digits(), num_draws=40, step_size=1e3, nbeta=1e3)
    assert result.status == "diverged"
    assert result.diverged_chains == (0, 1, 2, 3)
    assert math.isnan(result.llc)


def test_an_arm_that_explodes_leaves_the_other_rows_as_they_are(tmp_path, capsys):
    for name, weights in (("tame", ["0", "10"]), ("wild", ["0", "1e30"])):
        assert main([*SWEEP, "--aux_weights", *weights, f"--output_dir={tmp_path / name}"]) == 0
    tame, wild = (strict_json(tmp_path / name / "results.json") for name in ("tame", "wild"))
    assert [row for row in tame if row["aux_weight"] == 0] == [row for row in wild if row["aux_weight"] == 0]
    for row in wild[2:]:
        assert (row["rlct_status"], row["rlct"], row["weight_width"]) == ("diverged", None, None)
    tables = [(tmp_path / name / "cells/h8-aw0-seed1/model.safetensors").read_bytes() for name in ("tame", "wild")]
    assert tables[0] == tables[1]
    capsys.readouterr()
    assert main(["report", str(tmp_path / "wild")]) == 0
    assert "1e+30" in capsys.readouterr().out


# ---- a single network ----


def test_a_training_that_diverges_says_so(tmp_path, capsys, loopback_hub):
    flags = ["train", "--task=digits", "--max_train_samples=200", "--hidden_sizes=8", "--num_train_epochs=2"]
    assert main([*flags, "--learning_rate=1e30", "--rlct_every_n_epochs=2", f"--output_dir={tmp_path}", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "nan" in printed.out
    assert "diverged" in printed.out
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert not math.isfinite(losses[-1])  # as it is, and no average in its place
    assert [entry["rlct_ok"] for entry in state["log_history"] if "rlct_ok" in entry] == [0.0]
    assert main(["rlct", f"--model={tmp_path}", "--task=digits", "--num_draws=40", "--quiet"]) == 0
    assert "diverged" in capsys.readouterr().out
    assert strict_json(tmp_path / "rlct.json")["status"] == "diverged"
    push_model(loopback_hub.api(), tmp_path, Target("me/net"))  # whose card the Hub's validator takes
    (width,) = [r for r in ModelCard.load(tmp_path / "README.md").data.eval_results if r.metric_type == "weight_width"]
    assert width.metric_value == "nan"


def model_of(**fields) -> SelfModelingForImageClassification:
    torch.manual_seed(0)
    return SelfModelingForImageClassification(SelfModelingConfig(**{**FIELDS, "aux_weight": 1.0, **fields}))


def test_float16_is_refused_where_it_would_be_float32(tmp_path, capsys):
    """Accelerate ignores it on a CPU, and says nothing."""
    if torch.accelerator.is_available():
        pytest.skip("a machine with an accelerator")
    assert main(["train", "--task=digits", "--mixed_precision=fp16", f"--output_dir={tmp_path}", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fp16=True: allowed on accelerators" in line


def test_float16_overflow_skips_the_step_and_nothing_else():
    """By torch's own scaler, as Accelerate uses it on a GPU: losses are summed in float32, where 300² is finite; a
    step whose gradients overflow changes no weight, and a later one, at a lower scale, does."""
    model = model_of(detach_targets=False)
    with torch.no_grad():
        model.hidden.linear1.bias.fill_(300.0)  # activations whose squares are more than float16 holds
    pixels, labels = images(kind=ImageTensors).all()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    skipped, moved = 0, False
    while not moved and skipped < 80:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            output = model(pixels, labels)
        assert output.loss.dtype == torch.float32
        assert torch.finfo(torch.float16).max < output.self_modeling_loss < torch.inf
        scaler.scale(output.loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert all(value.isfinite().all() for value in model.state_dict().values())
        moved = not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        skipped += not moved
    assert moved
    assert skipped > 0
    assert scaler.get_scale() == 2.0 ** (40 - skipped)


def test_activations_that_never_change(tmp_path):
    """Dead units: targets of variance zero; the network learns by its biases alone, and its RLCT is that of them."""
    model = model_of()
    with torch.no_grad():
        model.hidden.linear1.bias.fill_(-1e3)
    before = model.hidden.linear1.weight.clone()
    run = trainer(tmp_path, model, ImageTensors)
    untrained = run.evaluate()
    run.train()
    metrics = run.evaluate()
    assert torch.equal(model.hidden.linear1.weight, before)
    assert metrics["eval_self_modeling_loss"] < 0.5 * untrained["eval_self_modeling_loss"]
    assert all(math.isfinite(value) for value in metrics.values())
    (result,) = estimate_rlct([model], images(kind=ImageTensors), num_draws=400, step_size=1e-3, localization=1.0)
    assert result.status != "diverged"
    assert 0 < result.llc < 10  # three biases of the classifier move the loss, 2/2 of them is the most there can be


def test_chains_whose_loss_never_changes():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return 0 * self.w.sum() + 0 * x

    result = estimate_llc(
        Constant(), torch.zeros(8), torch.zeros(8), loss_fn=lambda outputs, targets: outputs + 1, num_draws=100,
        step_size=1e-3, localization=1.0,
    )  # fmt: skip
    assert (result.llc, result.standard_error, result.rhat) == (0.0, 0.0, 1.0)


# ---- few data ----


@pytest.mark.parametrize(("count", "batch_size"), [(7, 1), (1, 1), (5, 64)])
def test_batches_of_one_and_data_smaller_than_a_batch(tmp_path, count, batch_size):
    for model in (model_of(), population([Member(1, 1.0), Member(2, 0.0)], torch.float32)):
        run = trainer(tmp_path, model, ImageTensors, per_device_train_batch_size=batch_size, learning_rate=1e-2)
        run.train_dataset = images(count, kind=ImageTensors)
        run.train()
        assert run.state.global_step == 3 * -(-count // batch_size)
        assert all(value.isfinite().all() for value in model.state_dict().values())
        assert all(math.isfinite(value) for value in run.evaluate().values())


def test_no_full_batch_where_only_full_ones_count(tmp_path):
    run = trainer(tmp_path, model_of(), ImageTensors, per_device_train_batch_size=64, dataloader_drop_last=True)
    run.train_dataset = images(5, kind=ImageTensors)
    with pytest.raises(ValueError, match="dataloader_drop_last"):
        run.train()


def test_an_rlct_of_few_data():
    net, (inputs, targets) = trained_digits_net(), digits()
    settings = {"num_draws": 40, "step_size": 1e-5}
    few = estimate_llc(net, inputs[:50], targets[:50], batch_size=512, **settings)
    assert few.settings.batch_size == 50  # all of them, without minibatch noise
    assert (few.baseline_trace == few.baseline_trace[0, 0]).all()
    one = estimate_llc(net, inputs, targets, batch_size=1, **settings)
    assert np.isfinite(one.loss_trace).all()
    with pytest.raises(ValueError, match=r"batch_size=1: .*at least 2 for nbeta='batch/log batch'"):
        estimate_llc(net, inputs, targets, batch_size=1, nbeta="batch/log batch", **settings)
    with pytest.raises(ValueError, match=r"n=1: .*at least 2"):
        estimate_llc(net, inputs[:1], targets[:1], **settings)
    single = estimate_llc(net, inputs[:1], targets[:1], nbeta=1.0, **settings)
    assert np.isfinite(single.loss_trace).all()


def test_a_class_that_never_occurs_in_training(tmp_path):
    data = images(60, kind=ImageTensors)
    data = ImageTensors(data.pixels[data.labels < 2], data.labels[data.labels < 2])
    model = model_of()
    run = trainer(tmp_path, model, ImageTensors, num_train_epochs=10)
    run.train_dataset = data
    run.train()
    found = run.predict(data)
    metrics = run.evaluate()  # of all three classes
    assert set(found.predictions.argmax(axis=1)) <= {0, 1}
    assert metrics["eval_accuracy"] <= (run.eval_dataset.labels < 2).float().mean() + 1e-6
    assert all(math.isfinite(value) for value in metrics.values())
    (result,) = estimate_rlct([model], data, num_draws=60, step_size=1e-5)
    assert np.isfinite(result.loss_trace).all()

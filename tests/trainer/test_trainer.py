"""The Trainer: against transformers' own, and configurations that must give the same trajectory."""

import importlib.util
import json
import pickle
import sys
from shutil import which

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, SelfModelingTrainer
from selfmod_hf.data import ImageTensors, TaskData
from selfmod_hf.trainer import SelfModelingTrainingArguments

SGD = {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=True", "learning_rate": 0.1, "max_grad_norm": 0.0}


def images(count: int = 93, seed: int = 0) -> ImageTensors:
    """93 images: the last batch of 64 has 29, which 2 and 4 micro-batches split unevenly."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    pixels = torch.randint(0, 200, (count, 1, 4, 4), generator=generator) + 20 * labels.view(-1, 1, 1, 1)
    return ImageTensors(pixels.to(torch.uint8), labels)


def network(**fields) -> SelfModelingForImageClassification:
    defaults = {"hidden_sizes": [8], "target_layers": ["hidden.relu1"], "aux_weight": 2.0}
    set_seed(0)
    config = SelfModelingConfig(**{**defaults, "image_size": 4, "num_labels": 3, **fields})
    return SelfModelingForImageClassification(config)


BOTH = TaskData(images(), images(41, seed=1), ["0", "1", "2"])
VIT = ViTConfig(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=4, patch_size=2,
)  # fmt: skip


def trainer(folder, model=None, *, train=None, **settings) -> SelfModelingTrainer:
    defaults = {
        **SGD,
        "per_device_train_batch_size": 64,
        "num_train_epochs": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return SelfModelingTrainer(
        model=model or network(),
        args=SelfModelingTrainingArguments(output_dir=str(folder), **{**defaults, **settings}),
        train_dataset=train if train is not None else images(),
        eval_dataset=images(41, seed=1),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": nn.Linear(16, 3)}, "^model=Linear: allowed are self-modeling networks"),
        ({"model": ViTForImageClassification(VIT)}, "^model=ViTForImageClassification: allowed are self-modeling"),
        ({"model_init": lambda: ViTForImageClassification(VIT)}, "^model=ViTForImageClassification: allowed are"),
        ({"model": network(), "args": TrainingArguments()}, "^args=TrainingArguments: allowed are SelfModelingTr"),
        ({"model": network(), "train_dataset": BOTH}, "^train_dataset=TaskData: allowed is .* `data.train`"),
        ({"model": network(), "eval_dataset": BOTH}, "^eval_dataset=TaskData: allowed is .* `data.test`"),
    ],
)
def test_what_is_not_of_this_package_is_refused_by_name(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        SelfModelingTrainer(**given)


def losses(run: Trainer) -> list[dict[str, float]]:
    return [entry for entry in run.state.log_history if "loss" in entry]


@pytest.mark.parametrize("fields", [{}, {"target_layers": [], "aux_weight": 0}])
@pytest.mark.parametrize(("micro", "steps"), [(32, 2), (16, 4)])
def test_accumulation_gives_the_same_trajectory(tmp_path, fields, micro, steps):
    whole = trainer(tmp_path, network(**fields))
    split = trainer(tmp_path, network(**fields), per_device_train_batch_size=micro, gradient_accumulation_steps=steps)
    for run in (whole, split):
        run.train()
    assert len(losses(whole)) == len(losses(split)) == 6
    for mine, theirs in zip(losses(whole), losses(split), strict=True):
        assert {n: v for n, v in mine.items() if "loss" in n} == pytest.approx(
            {n: v for n, v in theirs.items() if "loss" in n}, rel=1e-5
        )
    for mine, theirs in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


class Plain(nn.Module):
    """The baseline's network as anyone would write it."""

    def __init__(self):
        super().__init__()
        self.linear1, self.classifier = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, pixel_values, labels=None):
        logits = self.classifier(torch.relu(self.linear1(pixel_values.flatten(1))))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_the_baseline_equals_a_plain_trainer_step_by_step(tmp_path):
    """The same data by the same sampler (here not as ImageTensors, so both take transformers' own)."""
    data = images(64)
    samples = [data[index] for index in range(len(data))]
    ours = trainer(tmp_path, network(target_layers=[], aux_weight=0), train=samples, per_device_train_batch_size=8)
    plain = Plain()
    plain.linear1.load_state_dict(ours.model.hidden.linear1.state_dict())
    plain.classifier.load_state_dict(ours.model.classifier.state_dict())
    theirs = Trainer(
        model=plain,
        args=TrainingArguments(
            output_dir=str(tmp_path / "plain"),
            **SGD,
            per_device_train_batch_size=8,
            num_train_epochs=3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=samples,
    )
    for run in (ours, theirs):
        set_seed(7)
        run.train()
    mine, reference = ([entry["loss"] for entry in losses(run)] for run in (ours, theirs))
    assert len(mine) == 24
    assert mine == pytest.approx(reference, rel=1e-6)
    torch.testing.assert_close(ours.model.classifier.weight, plain.classifier.weight, rtol=0, atol=1e-6)


def test_terms_are_logged_raw_and_weighted(tmp_path):
    model = network(classification_weight=0.5)
    run = trainer(tmp_path, model, num_train_epochs=2, logging_steps=3)
    run.train()
    entry = losses(run)[0]
    assert entry["weighted_classification_loss"] == pytest.approx(0.5 * entry["classification_loss"])
    assert entry["weighted_self_modeling_loss"] == pytest.approx(2.0 * entry["self_modeling_loss"])
    total = entry["weighted_classification_loss"] + entry["weighted_self_modeling_loss"]
    assert entry["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("batch", [41, 7])
def test_evaluation_averages_over_samples(tmp_path, batch):
    run = trainer(tmp_path, per_device_eval_batch_size=batch)
    metrics = run.evaluate()
    pixels, labels = images(41, seed=1).all()
    expected = run.model.eval()(pixels, labels)
    assert metrics["eval_classification_loss"] == pytest.approx(expected.classification_loss.item(), rel=1e-5)
    assert metrics["eval_self_modeling_loss"] == pytest.approx(expected.self_modeling_loss.item(), rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx((expected.logits.argmax(1) == labels).float().mean().item())
    assert metrics["eval_weighted_self_modeling_loss"] == pytest.approx(2 * metrics["eval_self_modeling_loss"])


def test_predict_returns_logits(tmp_path):
    run = trainer(tmp_path)
    output = run.predict(images(41, seed=1))
    assert output.predictions.shape == (41, 3)
    assert set(output.metrics) >= {"test_accuracy", "test_classification_loss", "test_self_modeling_loss"}


def test_own_metrics_see_logits_and_labels(tmp_path):
    def share_of_class_zero(prediction):
        assert prediction.predictions.shape == (41, 3)
        return {"zeros": float((prediction.label_ids == 0).mean())}

    run = trainer(tmp_path)
    assert "eval_accuracy" in run.evaluate()
    own = SelfModelingTrainer(
        model=network(), args=run.args, eval_dataset=images(41, seed=1), compute_metrics=share_of_class_zero
    )
    assert own.evaluate()["eval_zeros"] == pytest.approx(np.mean(images(41, seed=1).labels.numpy() == 0))


def test_weight_width_is_logged_after_each_epoch_beside_the_losses(tmp_path):
    run = trainer(tmp_path, logging_strategy="epoch")
    run.train()
    widths = [entry for entry in run.state.log_history if "weight_width" in entry]
    assert [entry["epoch"] for entry in widths] == [1, 2, 3]
    assert widths[-1]["weight_width"] == pytest.approx(run.model.classifier.weight.std(correction=0).item())
    assert len(losses(run)) == 3  # the callback's log must not displace the losses'
    off = trainer(tmp_path, log_weight_width=False)
    off.train()
    assert not any("weight_width" in entry for entry in off.state.log_history)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    runs = [trainer(tmp_path, seed=seed) for seed in (1, 1, 2)]
    for run in runs:
        run.model.load_state_dict(network().state_dict())
        run.train()
    weights = [run.model.classifier.weight for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("step", [2, 3])  # the end of an epoch; the middle of one
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, step):
    settings = {"save_strategy": "steps", "save_steps": 1}
    whole = trainer(tmp_path / "whole", **settings)
    whole.train()
    cut = trainer(tmp_path / "cut", **settings)
    cut.add_callback(StopAt(step))
    cut.train()
    set_seed(99)
    rest = trainer(tmp_path / "cut", **settings)
    rest.train(resume_from_checkpoint=True)
    for mine, theirs in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [entry["loss"] for entry in losses(whole)] == [entry["loss"] for entry in losses(rest)]


def test_resuming_takes_the_newest_checkpoint_written_to_its_end(tmp_path):
    whole = trainer(tmp_path / "whole", save_strategy="epoch")
    whole.train(resume_from_checkpoint=True)  # there is none: from the start
    for step, damage in ((4, '{"epoch": 2.0, "glob'), (6, None)):  # killed while writing, and before
        state = tmp_path / "whole" / f"checkpoint-{step}" / "trainer_state.json"
        state.unlink() if damage is None else state.write_text(damage)
    with pytest.raises(ValueError, match=r"checkpoint-6.*not? .*written to its end"):
        trainer(tmp_path / "whole").train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    resumed = trainer(tmp_path / "whole", network(), save_strategy="epoch")
    started_at = []

    class Start(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            started_at.append(state.global_step)

    resumed.add_callback(Start)
    resumed.train(resume_from_checkpoint=True)
    assert started_at == [2]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])


def test_saving_leaves_whole_files_and_nothing_else(tmp_path):
    (tmp_path / ".saving-killed").mkdir()
    (tmp_path / ".saving-killed" / "model.safetensors").write_bytes(b"half")
    run = trainer(tmp_path)
    run.save_model()
    assert not list(tmp_path.glob(".saving-*"))
    loaded = SelfModelingForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.classifier.weight, run.model.classifier.weight)


def events(folder):
    """What the one event file there holds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = folder.rglob("events.out.tfevents*")
    return EventAccumulator(str(file), size_guidance={"histograms": 0, "images": 0}).Reload()


def test_tensorboard_gets_each_term(tmp_path):
    run = trainer(tmp_path, report_to="tensorboard", eval_strategy="epoch", logging_strategy="epoch")
    run.train()
    found = events(tmp_path)
    for tag in ("train/self_modeling_loss", "eval/self_modeling_loss", "train/weight_width", "eval/accuracy"):
        assert [event.step for event in found.Scalars(tag)] == [2, 4, 6]


@pytest.mark.parametrize("in_memory", [True, False])
def test_tensorboard_gets_a_histogram_and_an_image(tmp_path, in_memory):
    """And the training is what it is without."""
    settings = {"tensorboard_figures_every_n_epochs": 2, "num_train_epochs": 4}
    data = images() if in_memory else [images()[index] for index in range(93)]
    plain = trainer(tmp_path / "plain", train=data, **settings)
    run = trainer(tmp_path / "run", train=data, report_to="tensorboard", **settings)
    run.eval_dataset = run.eval_dataset if in_memory else None
    for each in (plain, run):
        set_seed(3)
        each.train()
    assert torch.equal(run.model.classifier.weight, plain.model.classifier.weight)
    found = events(tmp_path / "run")
    first, last = found.Histograms("classifier.weight")
    assert [first.step, last.step] == [4, 8]
    weights = run.model.classifier.weight.detach().double()
    assert (last.histogram_value.min, last.histogram_value.max) == (weights.min(), weights.max())
    assert last.histogram_value.sum_squares == pytest.approx(weights.square().sum().item())
    assert [event.step for event in found.Images("activations")] == [4, 8]
    assert found.Images("activations")[0].encoded_image_string.startswith(b"\x89PNG")


def test_no_histogram_of_what_is_not_finite_and_no_image_of_a_baseline(tmp_path):
    trainer(tmp_path / "nan", report_to="tensorboard", learning_rate=1e30).train()
    assert events(tmp_path / "nan").Tags()["histograms"] == []
    trainer(tmp_path / "baseline", network(target_layers=[], aux_weight=0), report_to="tensorboard").train()
    tags = events(tmp_path / "baseline").Tags()
    assert (tags["histograms"], tags["images"]) == (["classifier.weight"], [])


def test_nothing_is_drawn_for_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("selfmod_hf.trainer.trackers.TrackerFigures._activations", None)  # fails if called
    trainer(tmp_path).train()


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.skipif(not which("g++"), reason="no compiler")]),
    ],
)
def test_a_compiled_network_has_the_same_losses(tmp_path, backend):
    eager = trainer(tmp_path / "eager")
    compiled = trainer(tmp_path / "compiled", network(), torch_compile=True, torch_compile_backend=backend)
    for run in (eager, compiled):
        run.train()
    for mine, theirs in zip(losses(compiled), losses(eager), strict=True):
        kept = [name for name in theirs if "loss" in name]
        assert {name: mine[name] for name in kept} == pytest.approx({name: theirs[name] for name in kept}, rel=1e-5)
    assert compiled.evaluate()["eval_loss"] == pytest.approx(eager.evaluate()["eval_loss"], rel=1e-5)
    compiled.save_model()
    loaded = SelfModelingForImageClassification.from_pretrained(tmp_path / "compiled")
    torch.testing.assert_close(loaded.classifier.weight, eager.model.classifier.weight)


def test_a_loss_that_is_not_finite_is_logged_as_it_is(tmp_path):
    run = trainer(tmp_path, learning_rate=1e30, num_train_epochs=2)
    run.train()
    assert not all(np.isfinite(entry["loss"]) for entry in losses(run))


def test_checkpoints_hold_no_pickled_weights_or_arguments(tmp_path):
    run = trainer(tmp_path, save_strategy="epoch")
    run.train()
    run.save_model()
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [name for name in files if name.endswith(".bin")]
    assert "checkpoint-6/model.safetensors" in files
    assert json.loads((tmp_path / "training_args.json").read_text())["learning_rate"] == 0.1


def test_a_step_does_not_search_for_modules_and_leaves_none_marked(tmp_path, monkeypatch):
    """Accelerate asks for lomo_optim in every step; should that end, `_known_to_be_absent` can go."""
    found, searched = importlib.util.find_spec, []

    def find_spec(name, package=None):
        searched.append((name, name in sys.modules))
        return found(name, package)

    run = trainer(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    run.train()
    assert searched.count(("lomo_optim", True)) > 1  # in each step, found marked
    assert searched.count(("lomo_optim", False)) == 1  # by us, before the first
    assert "lomo_optim" not in sys.modules


def test_resuming_from_a_pickle_is_refused(tmp_path):
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    (checkpoint / "trainer_state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin, which would be unpickled"):
        trainer(tmp_path).train(resume_from_checkpoint=str(checkpoint))

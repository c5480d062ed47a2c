"""Training of networks that keep their task model's own head: any split of a batch gives the same training."""

import json
import math
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    Trainer,
    TrainingArguments,
    set_seed,
)

from selfmod_hf import SelfModelingConfig, SelfModelingTrainer, models
from selfmod_hf.models.classifier_weights import classifier_weight
from selfmod_hf.trainer.callbacks import RLCTCallback
from tests import warm
from tests.trainer.test_gradient_checkpointing import arguments

CODE = """
import sys, torch
from tests.trainer.test_wrapped_training import run
for kind in sys.argv[2:]:
    run(kind, sys.argv[1])
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT = partial(BertConfig, **SIZES, **NO_DROPOUT, vocab_size=30, max_position_embeddings=40)
GPT2 = partial(
    GPT2Config, n_embd=12, n_layer=2, n_head=2, vocab_size=30, n_positions=40, resid_pdrop=0.0, embd_pdrop=0.0,
    attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
TOKENS = 7
# kind -> class, configuration of the task model, target layers
KINDS = {
    "classes": ("SequenceClassification", partial(BERT, num_labels=3), ["encoder.layer.*.output"]),
    "several labels": (
        "SequenceClassification",
        partial(BERT, num_labels=3, problem_type="multi_label_classification"),
        ["encoder.layer.0"],
    ),
    "scores": ("SequenceClassification", partial(BERT, num_labels=1, problem_type="regression"), ["encoder.layer.1"]),
    "tokens": ("TokenClassification", partial(BERT, num_labels=3), ["encoder.layer.*.output"]),
    "spans": ("QuestionAnswering", BERT, ["encoder.layer.0"]),
    "choices": ("MultipleChoice", BERT, ["encoder.layer.0"]),
    "next tokens": ("CausalLM", GPT2, ["h.0", "h.1.mlp"]),
    "masked tokens": ("MaskedLM", BERT, ["encoder.layer.0"]),
}


# the metrics of each kind
NAMES = {
    "classes": {"accuracy"},
    "several labels": {"f1", "accuracy"},
    "scores": {"pearson", "spearmanr", "mse"},
    "tokens": {"accuracy", "f1"},
    "spans": {"exact_match", "f1"},
    "choices": {"accuracy"},
    "next tokens": {"perplexity"},
    "masked tokens": {"perplexity"},
}
QUICK = ("tokens",)  # with two processes


def mostly_slow(*quick: str) -> list:
    return [kind if kind in quick else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


def network(kind: str, **fields):
    set_seed(0)
    head, make_config, layers = KINDS[kind]
    pooling = "tokens" if "tokens" in kind else "mean"
    given = {"target_layers": layers, "aux_weight": 2.0, "target_pooling": pooling}
    config = SelfModelingConfig(wrapped_config=make_config(), **{**given, **fields})
    return getattr(models, f"SelfModelingFor{head}")(config)


def rows(kind: str, count: int) -> list[dict]:
    """Samples of different lengths, padded. Some tokens, and one sample of tokens, have no label."""
    generator = torch.Generator().manual_seed(count)
    found = []
    for k in range(count):
        length = 3 + k % 5
        mask = (torch.arange(TOKENS) < length).long()
        ids = torch.randint(1, 30, (TOKENS,), generator=generator) * mask
        row = {"input_ids": ids, "attention_mask": mask}
        row |= labels(kind, k, ids, mask, generator)
        found.append(row)
    return found


def labels(kind: str, k: int, ids, mask, generator) -> dict:
    if kind == "several labels":
        return {"labels": torch.randint(0, 2, (3,), generator=generator).float()}
    if kind == "scores":
        return {"labels": torch.randn((), generator=generator)}
    if kind == "spans":
        start, end = (k % 3, 2) if k % 4 else (1_000_000, 1_000_000)
        return {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}
    if kind == "choices":
        other = ids.roll(1) * mask
        return {
            "input_ids": torch.stack([ids, other]),
            "attention_mask": mask.repeat(2, 1),
            "labels": torch.tensor(k % 2),
        }
    if kind == "classes":
        return {"labels": torch.tensor(k % 3)}
    counted = mask.bool() & (torch.rand(TOKENS, generator=generator) < 0.6)
    if kind == "next tokens":
        counted = mask.bool()
    if k == 1:
        counted = counted & False
    values = ids % 3 if kind == "tokens" else ids
    return {"labels": torch.where(counted, values, -100)}


def trainer(kind: str, folder, model=None, **settings) -> SelfModelingTrainer:
    defaults = {
        "optim": "sgd", "learning_rate": 0.5, "max_steps": 4, "logging_steps": 1, "per_device_eval_batch_size": 3,
        "per_device_train_batch_size": 4, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
    }  # fmt: skip
    args = arguments(folder, **{**defaults, **settings})
    data = {"train_dataset": rows(kind, 10), "eval_dataset": rows(kind, 7)}
    return SelfModelingTrainer(model=model or network(kind), args=args, **data)


def assert_close(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n} {text}")


# ------------------------------------------------------------------------------------- a step


@pytest.mark.parametrize("kind", mostly_slow("tokens", "next tokens"))
def test_any_split_of_a_batch_gives_the_same_training(tmp_path, kind):
    found = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        run = trainer(kind, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
        run.train()
        logged = [entry for entry in run.state.log_history if "classification_loss" in entry]
        losses = [(entry["loss"], entry["classification_loss"], entry["self_modeling_loss"]) for entry in logged]
        found.append((run.model.state_dict(), losses))
    (weights, losses), *others = found
    for loss, task, own in losses:
        assert loss == pytest.approx(task + 2 * own, rel=1e-5)
    for other_weights, other_losses in others:
        assert_close(other_weights, weights, 2e-5)
        np.testing.assert_allclose(other_losses, losses, rtol=1e-4)


def test_a_baseline_trains_like_its_task_model_in_the_plain_trainer(tmp_path):
    """To the bit, with one micro-batch a step. The plain Trainer is wrong for BERT with several."""
    ours = trainer("classes", tmp_path, network("classes", aux_weight=0.0))
    ours.train()
    set_seed(0)
    plain = AutoModelForSequenceClassification.from_config(KINDS["classes"][1]())
    args = ours.args.to_dict()
    kept = ("learning_rate", "max_steps", "per_device_train_batch_size", "lr_scheduler_type", "max_grad_norm", "optim")
    given = {name: args[name] for name in kept}
    theirs = Trainer(
        plain,
        TrainingArguments(
            str(tmp_path), **given, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True
        ),
        train_dataset=rows("classes", 10),
    )
    theirs.train()
    pruned = ours.model.prune().state_dict()
    assert pruned.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(pruned[name], value), name


@pytest.mark.parametrize("kind", ["tokens", "next tokens"])
def test_recomputed_activations_give_the_same_training(tmp_path, kind):
    weights = []
    for recompute in (False, True):
        run = trainer(kind, tmp_path, network(kind, detach_targets=False), gradient_checkpointing=recompute)
        run.train()
        weights.append(run.model.state_dict())
    plain, again = weights
    for name, value in plain.items():
        assert torch.equal(again[name], value), name


# ------------------------------------------------------------------------------------- other targets


@pytest.mark.parametrize("kind", ["tokens", "next tokens", "choices", "classes"])
def test_random_targets_depend_on_the_tokens_alone(tmp_path, kind):
    run = trainer(kind, tmp_path, network(kind, target_source="random"))
    before = run.evaluate()
    run.train()
    assert run.evaluate()["eval_self_modeling_loss"] < before["eval_self_modeling_loss"]
    batch = {name: torch.stack([row[name] for row in run.eval_dataset]) for name in run.eval_dataset[0]}
    targets = run.outside_targets().for_network(batch)
    torch.manual_seed(5)
    other = trainer(kind, tmp_path, network(kind, target_source="random")).outside_targets().for_network(batch)
    assert torch.equal(targets, other)
    assert targets.shape == run.model(**batch, self_model_targets=targets).self_model_predictions.shape


def test_the_targets_of_another_network_are_its_activations(tmp_path):
    set_seed(0)
    other = network("tokens")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    other.save_pretrained(tmp_path / "other")
    run = trainer("tokens", tmp_path, network("tokens", target_source=f"network:{tmp_path / 'other'}"))
    batch = {name: torch.stack([row[name] for row in run.eval_dataset]) for name in run.eval_dataset[0]}
    expected = other.eval()(**batch).self_model_targets
    torch.testing.assert_close(run.outside_targets().for_network(batch), expected)


# ------------------------------------------------------------------------------------- an evaluation


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_gives_the_means_over_counted_labels_and_the_metrics_of_the_task(tmp_path, kind):
    run = trainer(kind, tmp_path)
    found = run.evaluate()
    batch = {name: torch.stack([row[name] for row in run.eval_dataset]) for name in run.eval_dataset[0]}
    with torch.no_grad():
        whole = run.model.eval()(**batch)
    assert found["eval_classification_loss"] == pytest.approx(whole.classification_loss.item(), rel=1e-5)
    assert found["eval_self_modeling_loss"] == pytest.approx(whole.self_modeling_loss.item(), rel=1e-5)
    assert found["eval_loss"] == pytest.approx(whole.loss.item(), rel=1e-5)
    known = set.union(*NAMES.values())
    assert {name for name in known if f"eval_{name}" in found} == NAMES[kind]


@pytest.mark.parametrize("kind", ["next tokens", "several labels"])
def test_a_network_of_model_init_has_the_metrics_of_its_labels(tmp_path, kind):
    data = {"train_dataset": rows(kind, 10), "eval_dataset": rows(kind, 7)}
    expected = trainer(kind, tmp_path).evaluate()
    args = arguments(tmp_path, per_device_eval_batch_size=3)
    found = SelfModelingTrainer(model_init=lambda: network(kind), args=args, **data).evaluate()
    names = [f"eval_{name}" for name in NAMES[kind]]
    assert [found[name] for name in names] == [pytest.approx(expected[name]) for name in names]


def test_marks_of_classes_may_be_integers(tmp_path):
    def losses(kind: torch.dtype) -> list[float]:
        data = rows("several labels", 10)
        for row in data:
            row["labels"] = row["labels"].to(kind)
        run = SelfModelingTrainer(network("several labels"), arguments(tmp_path, max_steps=2), train_dataset=data)
        run.train()
        return [entry["loss"] for entry in run.state.log_history if "loss" in entry]

    assert losses(torch.int64) == losses(torch.float32)


def test_the_card_of_an_answering_network_has_its_metrics(tmp_path):
    run = trainer("spans", tmp_path)
    found = run.evaluate()
    run.save_model()
    run.create_model_card()
    assert (
        f"| Exact match of an answer's tokens | {found['eval_exact_match']:.4f} |"
        in (tmp_path / "README.md").read_text()
    )


def test_metrics_of_the_users_own_get_the_logits_of_tokens(tmp_path):
    def shape(prediction) -> dict:
        return {"classes": prediction.predictions.shape[-1], "dimensions": prediction.predictions.ndim}

    data = {"eval_dataset": rows("tokens", 7)}
    found = SelfModelingTrainer(network("tokens"), arguments(tmp_path), compute_metrics=shape, **data).evaluate()
    assert (found["eval_classes"], found["eval_dimensions"]) == (3, 3)


def test_an_rlct_is_logged_while_training_on_rows_of_tokens(tmp_path):
    run = trainer("next tokens", tmp_path, num_train_epochs=1, max_steps=-1)
    run.add_callback(RLCTCallback(run, run.train_dataset, 1, {"num_draws": 2, "num_chains": 1, "step_size": 1e-6}))
    run.train()
    assert any(math.isfinite(entry["rlct"]) for entry in run.state.log_history if "rlct" in entry)


def test_perplexity_and_accuracy_of_a_language_model(tmp_path):
    run = trainer("next tokens", tmp_path, metrics=["perplexity", "accuracy"])
    found = run.evaluate()
    right, losses = [], []
    for row in run.eval_dataset:
        logits = run.model(input_ids=row["input_ids"][None], attention_mask=row["attention_mask"][None]).logits[0, :-1]
        counted = row["labels"][1:] != -100
        right += (logits.argmax(-1) == row["labels"][1:])[counted].tolist()
        losses += F.cross_entropy(logits, row["labels"][1:], reduction="none")[counted].tolist()
    assert found["eval_accuracy"] == pytest.approx(np.mean(right))
    assert found["eval_perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


@pytest.mark.parametrize(("kind", "layer"), [("tokens", "classifier"), ("next tokens", "lm_head")])
def test_the_width_is_that_of_the_last_layer(tmp_path, kind, layer):
    run = trainer(kind, tmp_path, num_train_epochs=1, max_steps=-1)
    run.train()
    weight = run.model.prune().get_submodule(layer).weight
    assert torch.equal(classifier_weight(run.model), weight)
    widths = [entry["weight_width"] for entry in run.state.log_history if "weight_width" in entry]
    assert widths == [pytest.approx(weight.double().std(correction=0).item(), rel=1e-5)]


# ------------------------------------------------------------------------------------- processes


def run(kind: str, folder: str) -> None:
    """Train and evaluate. The last batch leaves the second process nothing, and 7 evaluated samples split unevenly."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    settings = {"per_device_train_batch_size": 4 // processes, "eval_strategy": "steps", "eval_steps": 3}
    it = trainer(kind, folder, **settings)
    it.train_dataset = rows(kind, 9)
    it.train()
    predictions = it.predict(it.eval_dataset).predictions
    if isinstance(predictions, tuple):
        predictions = predictions[0]
    name = f"{folder}/{kind}-{processes}-{it.args.process_index}"
    weights = {key: value.contiguous().clone() for key, value in it.model.state_dict().items()}
    save_file(weights, f"{name}.safetensors")
    Path(f"{name}.json").write_text(json.dumps([predictions.tolist(), it.state.log_history]))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Callable[[str], Path]:
    """Return the folder of a kind's two processes. The quick kinds run together, and so do the slow ones."""

    @cache
    def launched(quick: bool) -> Path:
        folder = tmp_path_factory.mktemp("two")
        kinds = [kind for kind in KINDS if (kind in QUICK) is quick]
        done = warm.run_two(["-c", CODE, folder, *kinds])
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return lambda kind: launched(kind in QUICK)


@pytest.mark.parametrize("kind", mostly_slow(*QUICK))
def test_two_processes_train_what_one_does(tmp_path, two_processes, kind):
    run(kind, str(tmp_path))
    one = load_file(tmp_path / f"{kind}-1-0.safetensors")
    predictions, log = json.loads((tmp_path / f"{kind}-1-0.json").read_text())
    for rank in (0, 1):
        name = two_processes(kind) / f"{kind}-2-{rank}"
        assert_close(load_file(f"{name}.safetensors"), one, 2e-5)
        other_predictions, other_log = json.loads(Path(f"{name}.json").read_text())
        np.testing.assert_allclose(other_predictions, predictions, atol=1e-3)
        for mine, theirs in zip(log, other_log, strict=True):
            kept = [key for key in mine if "loss" in key or key.removeprefix("eval_") in set.union(*NAMES.values())]
            assert {key: theirs[key] for key in kept} == pytest.approx({key: mine[key] for key in kept}, rel=1e-3)

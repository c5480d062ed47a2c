"""Two real processes (gloo) give what one process gives, in whatever order they evaluate, predict and train."""

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from selfmod_hf import SelfModelingTrainer, SelfModelingTrainingArguments
from tests import warm
from tests.models import test_encoders
from tests.trainer import test_member_numbers, test_population, test_terms_trainer, test_trainer

CODE = """
import json, sys, torch
from tests.trainer.test_processes import run
for job in json.loads(sys.argv[1]):
    run(*job)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
# kind of network and data, and what is called in which order
QUICK = [
    ("images", "evaluate train"),
    ("texts", "evaluate train predict"),
    ("batch statistics", "evaluate train"),
    ("means of each process", "train"),
    ("population", "evaluate train predict train evaluate"),
]
SLOW = [
    ("images", "train"),
    ("images", "predict train"),
    ("images", "train evaluate train predict"),
    ("images", "evaluate train predict train resume"),
    ("images in bfloat16", "evaluate train predict"),
    ("compiled", "evaluate train"),
    ("texts", "predict train evaluate train"),
    ("texts", "train resume"),
    ("population", "predict train resume"),
    ("population of own numbers", "evaluate train resume"),
]
JOBS = [*QUICK, *(pytest.param(*job, marks=pytest.mark.slow) for job in SLOW)]


def padded(samples: list[dict]) -> dict[str, torch.Tensor]:
    """A collator."""
    rows = [torch.tensor(sample["input_ids"]) for sample in samples]
    input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.tensor([sample["label"] for sample in samples])
    return {"input_ids": input_ids, "attention_mask": (input_ids > 0).long(), "labels": labels}


def texts(count: int) -> datasets.Dataset:
    generator = torch.Generator().manual_seed(count)
    rows = [torch.randint(1, 30, (2 + k % 5,), generator=generator).tolist() for k in range(count)]
    return datasets.Dataset.from_dict({"input_ids": rows, "label": [k % 3 for k in range(count)]})


def trainer(kind: str, folder: str) -> SelfModelingTrainer:
    """Global batches of 8. The last one of an epoch leaves the second process nothing: 41 images, 17 texts."""
    processes = 1 if kind.startswith("population") else int(os.environ.get("WORLD_SIZE", "1"))
    settings = {
        "num_train_epochs": 2, "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "per_device_train_batch_size": 8 // processes, "per_device_eval_batch_size": 3, "save_steps": 4,
        "average_tokens_across_devices": kind != "means of each process",
        "bf16": kind.endswith("bfloat16"), "torch_compile": kind == "compiled",
        "torch_compile_backend": "aot_eager" if kind == "compiled" else None,
    }  # fmt: skip
    args = SelfModelingTrainingArguments(folder, **test_trainer.SGD, **settings)
    data = {"train_dataset": test_trainer.images(41), "eval_dataset": test_trainer.images(7, seed=1)}
    if kind == "texts":
        model = test_encoders.network("bert").train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # processes draw their own
        data = {"train_dataset": texts(17), "eval_dataset": texts(7), "data_collator": padded}
    elif kind == "batch statistics":
        model = test_trainer.network(backbone="timm/test_resnet", image_size=64)
    elif kind.startswith("population"):
        members = test_population.MEMBERS
        if kind.endswith("own numbers"):
            members = [*test_member_numbers.SGD, *test_member_numbers.TERMS[1:]]
        model = test_population.population(members, dtype=torch.float32)
    else:
        model = test_trainer.network()
    if kind == "batch statistics":
        wide = [nn.functional.interpolate(data["train_dataset"][k]["pixel_values"][None], 64)[0] for k in range(8)]
        samples = [{"pixel_values": pixels, "labels": k % 3} for k, pixels in enumerate(wide)]
        data = {"train_dataset": samples, "eval_dataset": samples}
    return SelfModelingTrainer(model=model, args=args, **data)


def run(kind: str, order: str, folder: str) -> None:
    """Call these methods one after another. Each process writes its weights, its log and what the calls returned."""
    it = trainer(kind, folder)
    found = []
    for step in order.split():
        if step == "train":
            it.train()
        elif step == "evaluate":
            found.append(it.evaluate())
        elif step == "predict":
            output = it.predict(it.eval_dataset)
            found.append({**output.metrics, "predictions": output.predictions.tolist()})
        else:
            it = trainer(kind, folder)
            it.train(resume_from_checkpoint=f"{folder}/checkpoint-4")  # in the middle of an epoch
    rank = it.args.process_index
    network = it.population if kind.startswith("population") else it.model
    save_file(network.state_dict(), f"{folder}/rank{rank}.safetensors")
    Path(folder, f"rank{rank}.json").write_text(json.dumps([*found, *it.state.log_history]))


def numbers(path: Path) -> list[dict[str, float]]:
    unlike = ("runtime", "per_second", "total_flos", "preparation")  # times, and work as each process counts it
    return [
        {key: value for key, value in entry.items() if not any(word in key for word in unlike)}
        for entry in json.loads(path.read_text())
    ]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory) -> Callable[[str, str], Path]:
    """Where two processes wrote what a job gave; the quick jobs run together, and so do the slow ones."""

    @cache
    def launched(slow: bool) -> Path:
        folder = tmp_path_factory.mktemp("two")
        jobs = [(kind, order, f"{folder}/{kind} {order}") for kind, order in (SLOW if slow else QUICK)]
        for *_, name in jobs:
            Path(name).mkdir()
        done = warm.run_two(["-c", CODE, json.dumps(jobs)])
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return lambda kind, order: launched((kind, order) in SLOW) / f"{kind} {order}"


def assert_alike(path: Path, other: Path, tolerance: float) -> None:
    """Weights, logs and what was returned, of two processes or of two runs."""
    weights = load_file(other.with_suffix(".safetensors"))
    for name, value in load_file(path.with_suffix(".safetensors")).items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n} {text}")
    mine, theirs = (numbers(each.with_suffix(".json")) for each in (path, other))
    assert len(mine) == len(theirs)
    for entry, expected in zip(mine, theirs, strict=True):
        assert entry.keys() == expected.keys()
        for key, value in entry.items():
            found = torch.tensor(value), torch.tensor(expected[key])
            torch.testing.assert_close(
                *found, rtol=10 * tolerance, atol=10 * tolerance, msg=lambda t, k=key: f"{k} {t}"
            )


@pytest.mark.parametrize(("kind", "order"), JOBS)
def test_two_processes_give_what_one_gives(tmp_path, folder_of, kind, order):
    first, second = (folder_of(kind, order) / f"rank{rank}" for rank in (0, 1))
    assert_alike(first, second, 0)
    if kind == "means of each process":  # a last batch that is cut unevenly weighs its samples unevenly
        logged = [entry for entry in numbers(first.with_suffix(".json")) if "loss" in entry]
        assert len(logged) == 12
        test_terms_trainer.assert_terms_add_up(logged)
        return
    if kind == "batch statistics":  # each process has those of its own samples while it trains
        return
    run(kind, order, str(tmp_path))
    assert_alike(tmp_path / "rank0", first, 1e-2 if kind.endswith("bfloat16") else 1e-5)

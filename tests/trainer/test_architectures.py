"""A training of each architecture: resumed exactly, and the same by one process and by two."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from selfmod_hf import SelfModelingTrainer
from tests import warm
from tests.models.task_models import EACH, batch, inner_config, network
from tests.trainer.test_gradient_checkpointing import arguments

CODE = """
import json, sys, torch
from tests.trainer.test_architectures import run
for kind, name in json.loads(sys.argv[2]):
    run(kind, name, sys.argv[1])
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
# normalization over a batch: each process has the statistics of its own samples
BATCH_STATISTICS = {"resnet"}
ALIKE = [pair for pair in EACH if pair[1] not in BATCH_STATISTICS]
pairs = pytest.mark.parametrize(("kind", "name"), EACH)


def trainer(kind: str, folder, model, **settings) -> SelfModelingTrainer:
    given = batch(kind, rows=9)
    rows = [{name: values[k] for name, values in given.items()} for k in range(9)]
    return SelfModelingTrainer(model=model, args=arguments(folder, **settings), train_dataset=rows)


@pairs
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, kind, name):
    """With dropout, in the middle of an epoch."""
    settings = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 3}
    run = trainer(kind, tmp_path, network(kind, name), **settings)
    run.train()
    again = trainer(kind, tmp_path, network(kind, name), **settings)
    again.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")
    torch.testing.assert_close(again.model.state_dict(), run.model.state_dict(), rtol=0, atol=0)


# ------------------------------------------------------------------------------------- processes


def without_dropout(kind: str, name: str) -> dict[str, float]:
    """Return the fields that turn dropout off, because each process draws its own."""
    fields = inner_config(kind, name).to_dict()
    return {field: 0.0 for field, value in fields.items() if "drop" in field and isinstance(value, float)}


def run(kind: str, name: str, folder: str) -> None:
    """Train, and write the weights and the losses. The last batch leaves the second process nothing."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "logging_steps": 1}
    model = network(kind, name, inner=without_dropout(kind, name))
    it = trainer(kind, folder, model, per_device_train_batch_size=4 // processes, **settings)
    it.train()
    file = f"{folder}/{name}-{processes}-{it.args.process_index}"
    weights = {key: value.contiguous().clone() for key, value in it.model.state_dict().items()}
    save_file(weights, f"{file}.safetensors")
    losses = [[entry[term] for term in entry if term.endswith("loss")] for entry in it.state.log_history]
    Path(f"{file}.json").write_text(json.dumps(losses))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Return the folder where two processes trained all architectures."""
    folder = tmp_path_factory.mktemp("two")
    done = warm.run_two(["-c", CODE, folder, json.dumps(ALIKE)])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), ALIKE)
def test_two_processes_train_what_one_does(tmp_path, two_processes, kind, name):
    before = network(kind, name).state_dict()
    run(kind, name, str(tmp_path))
    weights = load_file(tmp_path / f"{name}-1-0.safetensors")
    assert not torch.equal(weights["self_model_head.weight"], before["self_model_head.weight"])
    losses = json.loads((tmp_path / f"{name}-1-0.json").read_text())
    assert len([terms for terms in losses if terms]) == 4  # three steps and their mean
    for rank in (0, 1):
        file = two_processes / f"{name}-2-{rank}"
        torch.testing.assert_close(load_file(f"{file}.safetensors"), weights, rtol=0, atol=2e-5)
        for mine, theirs in zip(losses, json.loads(Path(f"{file}.json").read_text()), strict=True):
            assert theirs == pytest.approx(mine, rel=1e-3)

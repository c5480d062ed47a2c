"""A population trained by two real processes (gloo) equals the one trained by one, however it is cut and resumed."""

import json
from pathlib import Path

import pytest
import torch

from selfmod_hf.trainer.shares import MemberShares
from tests import warm

from . import test_population as one

# members and settings by name; the script below reads them too
CASES = {
    "uneven": (one.MEMBERS, {**one.OPTIMIZERS["sgd"], "max_grad_norm": 0.05}),
    "adam": (one.MEMBERS[:2], one.OPTIMIZERS["adam"]),
    "fewer members than processes": (one.MEMBERS[:1], one.OPTIMIZERS["sgd"]),
}
CODE = """
import importlib, json, sys, torch
module = importlib.import_module(f"tests.trainer.{sys.argv[2]}")
for job in json.loads(sys.argv[1]):
    module.train(*job)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def train(case: str, folder: str, stop: int = 0, resume: bool = False) -> None:
    """Train, save the population and the log; `stop`: after so many steps; `resume`: from the last checkpoint."""
    members, settings = CASES[case]
    population = one.population(members)
    run = one.trainer(
        Path(folder), population, save_strategy="steps", save_steps=2, eval_strategy="epoch", use_cpu=True, **settings
    )
    if stop:
        run.add_callback(one.StopAt(stop))
    run.train(resume_from_checkpoint=resume)
    final = run.evaluate()
    if run.is_world_process_zero():
        population.save(Path(folder) / "result")
        (Path(folder) / "log.json").write_text(json.dumps([*run.state.log_history, final]))


def in_two_processes(jobs: list[tuple], module: str = "test_shares") -> None:
    """Call the module's `train` with the arguments of each job, in two processes."""
    done = warm.run_two(["-c", CODE, json.dumps(jobs), module])
    assert done.returncode == 0, done.stderr[-3000:]


def result(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    from safetensors.torch import load_file

    log = json.loads((folder / "log.json").read_text())
    unlike = ("runtime", "per_second", "total_flos", "preparation")
    log = [{key: value for key, value in entry.items() if not any(word in key for word in unlike)} for entry in log]
    return load_file(folder / "result" / "model.safetensors"), log


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One folder a run: `NAME-1` by one process, `NAME-2` by two, `cut` by one, then two, then one."""
    folder = tmp_path_factory.mktemp("runs")
    for case in CASES:
        train(case, f"{folder}/{case}-1")
    train("adam", f"{folder}/cut", stop=4)
    in_two_processes([*((case, f"{folder}/{case}-2") for case in CASES), ("adam", f"{folder}/cut", 6, True)])
    train("adam", f"{folder}/cut", resume=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(runs, case):
    (weights, log), (expected_weights, expected_log) = result(runs / f"{case}-2"), result(runs / f"{case}-1")
    assert_close(weights, expected_weights)
    assert len(log) == len(expected_log)
    for entry, expected in zip(log, expected_log, strict=True):
        assert entry == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_checkpoint_serves_any_number_of_processes(runs):
    assert_close(result(runs / "cut")[0], result(runs / "adam-1")[0])


def test_shares_are_even_and_complete():
    assert [list(MemberShares(5, 2, index).own) for index in range(2)] == [[0, 1, 2], [3, 4]]
    assert [list(MemberShares(2, 3, index).own) for index in range(3)] == [[0], [1], [0]]

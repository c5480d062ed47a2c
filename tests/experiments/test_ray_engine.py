"""A sweep on Ray: the same bits as in one process, without a common file system, though a machine is lost."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import psutil
import pytest

from selfmod_hf import SweepSettings, run_sweep
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.population_apart import keep, make_work, run_work
from selfmod_hf.experiments.prepared_sweep import PreparedSweep
from selfmod_hf.experiments.ray_engine import share_of_task
from tests import warm

SMALL = {"num_chains": 2, "num_draws": 20, "max_train_samples": 200}
ARMS = {
    "baseline": {"aux_weight": 0},
    "own": {"aux_weight": 10},
    "early": {"aux_weight": 0, "stop_at_train_loss": "own"},
}
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")


def ignore(line: str) -> None:
    pass


def assert_same_networks(one: Path, other: Path) -> None:
    """Rows, curves, weights and traces of RLCTs, to the last bit."""
    for table in ("results.parquet", "curves.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(one / table), pd.read_parquet(other / table), check_exact=True)
    files = {path.relative_to(one) for path in one.glob("cells/*/*")}
    assert files == {path.relative_to(other) for path in other.glob("cells/*/*")}
    for file in files:
        if file.suffix == ".safetensors":
            assert (one / file).read_bytes() == (other / file).read_bytes()


@pytest.mark.parametrize("on", ["slurm", "rays:10.0.0.1", ""])
def test_another_engine_is_rejected(tmp_path, capsys, on):
    assert main(["sweep", "--recipe=digits", f"--on={on}", f"--output_dir={tmp_path / 'new'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"selfmod: error: --on={on!r}: allowed are ray and ray:ADDRESS"
    assert not (tmp_path / "new").exists()


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_without_an_answer_is_rejected(tmp_path, capsys, address):
    assert main(["sweep", "--recipe=digits", f"--on=ray:{address}", f"--output_dir={tmp_path / 'new'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"selfmod: error: --on='ray:{address}': nothing answers at this address (")


def test_a_missing_ray_is_one_line_with_its_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "--recipe=digits", "--on=ray", f"--output_dir={tmp_path / 'new'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "selfmod: error: a sweep on Ray needs ray: pip install 'selfmod_hf[ray]'"


def test_several_processes_start_no_ray(monkeypatch):
    from selfmod_hf.experiments import ray_engine

    class Two:
        num_processes = 2

    monkeypatch.setattr(ray_engine, "join_processes", Two)
    with pytest.raises(InputError, match="on='ray': allowed in a single process"):
        run_sweep("digits", on="ray")


def test_ray_is_imported_for_a_sweep_on_ray_only():
    program = "import sys, selfmod_hf.cli.sweep, selfmod_hf.experiments.sweep; sys.exit('ray' in sys.modules)"
    assert warm.run(["-c", program]).returncode == 0


def node(cores: float, gpus: float = 0, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cores, "GPU": gpus}}


@pytest.mark.parametrize(
    ("nodes", "count", "share"),
    [
        ([node(16), node(16)], 8, (4, 0)),
        ([node(16), node(16)], 1, (16, 0)),  # a task is on one machine
        ([node(16), node(4)], 3, (4, 0)),  # it can run on every machine
        ([node(2), node(0), node(64, alive=False)], 30, (1, 0)),
        ([node(16, 4), node(16, 4)], 2, (4, 1)),
    ],
)
def test_each_task_has_its_share(nodes, count, share):
    assert tuple(share_of_task(nodes, count).values()) == share
    assert share_of_task(nodes, count, threads=2)["num_cpus"] == 2
    with pytest.raises(InputError, match="no machine of the cluster has 32 cores"):
        share_of_task(nodes, count, threads=32)


def test_a_population_in_a_folder_of_its_own_has_the_same_bits(tmp_path):
    """An arm that stops at the training loss of another one comes after it, and brings that loss along."""
    settings = SweepSettings.make("digits", arms=ARMS, seeds=[1, 2], hidden_sizes=[8], num_train_epochs=3, **SMALL)
    here = run_sweep(settings, output_dir=tmp_path / "here").path
    sweep = PreparedSweep.make(settings, tmp_path / "apart")
    populations = sweep.populations_to_open()
    assert [len(sweep.waits_for(cells)) for cells in populations] == [0, 2]
    for cells in populations:
        path = sweep.folder.open_population(cells)
        work = make_work(sweep, path, cells, tmp_path / "not there", threads=1)
        keep(sweep, run_work(work, sweep.data, ignore))
        assert [entry.name for entry in path.iterdir()] == ["members.json"]  # no checkpoint
        sweep.folder.close_population(path)
    run_sweep(settings, output_dir=tmp_path / "apart")  # only the tables are missing
    assert_same_networks(here, tmp_path / "apart")


def test_a_population_with_a_common_folder_goes_on_from_its_checkpoint(tmp_path):
    settings = SweepSettings.make("digits", aux_weights=[0, 10], seeds=[1], hidden_sizes=[8], **SMALL)
    here = run_sweep(settings, output_dir=tmp_path / "here", num_train_epochs=4).path
    sweep = PreparedSweep.make(settings.replace(num_train_epochs=4), tmp_path / "apart")
    (cells,) = sweep.populations_to_open()
    path = sweep.folder.open_population(cells)
    mark = sweep.folder.path / "mark"
    mark.touch()
    work = make_work(sweep, path, cells, mark, threads=1)

    def stop(line: str) -> None:
        if "epoch 3/4" in line:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        run_work(work, sweep.data, stop)
    assert list(path.glob("training/checkpoint-*"))
    lines: list[str] = []
    keep(sweep, run_work(work, sweep.data, lines.append))
    assert next(line for line in lines if "epoch" in line).strip().startswith("epoch 3/4")
    sweep.folder.close_population(path)
    run_sweep(settings, output_dir=tmp_path / "apart", num_train_epochs=4)
    assert_same_networks(here, tmp_path / "apart")


def test_a_worker_of_another_version_is_rejected(tmp_path):
    from dataclasses import replace

    sweep = PreparedSweep.make(SweepSettings.make("digits", **SMALL), tmp_path)
    work = make_work(sweep, tmp_path, sweep.populations_to_open()[0], tmp_path / "mark", threads=1)
    with pytest.raises(InputError, match=r"on='0\.0\.1': a worker has version"):
        run_work(replace(work, version="0.0.1"), sweep.data, ignore)


# ---- a real cluster ----


def kill(process: subprocess.Popen) -> None:
    """Kill a process and all of its descendants."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        if one.is_running():
            one.kill()
    process.wait()


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def runs_a_task(machine: subprocess.Popen) -> bool:
    """Ray names a worker's process after its task, and its own agents likewise."""
    for process in psutil.Process(machine.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            title = " ".join(process.cmdline())
            if title.startswith("ray::run_work"):
                return True
    return False


def has_started(machine: subprocess.Popen, log: Path) -> bool:
    assert machine.poll() is None, log.read_text()
    return "Ray runtime started" in log.read_text()


@contextmanager
def cluster(hidden: Path, folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """Yield the address of a cluster, and two machines of one core each. They do not see a folder, if we are root."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 << 20, "include_dashboard": False}
    head = Cluster(initialize_head=True, head_node_args={**small, "num_cpus": 0})
    ray = [str(Path(sys.executable).parent / "ray"), "start", f"--address={head.address}", "--num-cpus=1", "--block"]
    ray += [f"--object-store-memory={100 << 20}"]
    if os.getuid() == 0 and shutil.which("unshare"):
        ray = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs {hidden} && exec "$@"', "sh", *ray]
    machines = []
    try:
        for number in (1, 2):  # one after the other, because two at once choose the same sockets
            path = folder / f"machine{number}.log"
            with path.open("w") as log:
                machines.append(subprocess.Popen(ray, stdout=log, stderr=log, start_new_session=True))
            wait_until(partial(has_started, machines[-1], path))
        yield head.address, machines
    finally:
        for machine in machines:
            kill(machine)
        head.shutdown()


@needs_ray
@pytest.mark.weekly
def test_a_cluster_that_loses_one_of_two_machines_gives_the_bits_of_one_process(tmp_path, monkeypatch):
    # Ray's workers are as nice as 15: beside other tests, the one that collects the lines would wait for minutes
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("OMP_NUM_THREADS", "1"), ("RAY_worker_niceness", "0")):
        monkeypatch.setenv(name, value)
    flags = ["sweep", "--recipe=digits", "--hidden_sizes", "4", "8", "--aux_weights", "0", "10", "--seeds", "1"]
    flags += ["--num_train_epochs=200", "--num_chains=2", "--num_draws=20", "--max_train_samples=300"]
    hidden = tmp_path / "driver"
    hidden.mkdir()
    results = hidden / "sweep"
    program = "import sys; from selfmod_hf.cli import main; sys.exit(main(sys.argv[1:]))"
    with cluster(hidden, tmp_path) as (address, machines), (tmp_path / "driver.log").open("w") as log:
        argv = [sys.executable, "-c", program, *flags, f"--on=ray:{address}", f"--output_dir={results}"]
        driver = subprocess.Popen(argv, stdout=log, stderr=log)

        def lines(words: str) -> list[str]:
            return [line for line in (tmp_path / "driver.log").read_text().splitlines() if words in line]

        def both_have_begun() -> bool:
            assert driver.poll() is None, lines("")
            return len(lines(": training")) == 2

        wait_until(both_have_begun)
        kill(next(machine for machine in machines if runs_a_task(machine)))
        assert driver.wait(400) == 0, (tmp_path / "driver.log").read_text()
    assert main([*flags, "--quiet", f"--output_dir={tmp_path / 'here'}"]) == 0
    assert_same_networks(tmp_path / "here", results)
    assert not list(results.glob(".ray-*"))
    assert len(lines(": training")) == 3  # two populations, and one of them again on the other machine

"""A Hub that is busy, fails, breaks off, lies or has moved: commands try again, or end in one clear line; what is on
disk and on the Hub is whole."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from selfmod_hf.hub.upload import Target, push_model
from tests.loopback_hub import LoopbackHub, Trouble, no_faults

# runs each line of its input, a command as JSON, in an empty cache; answers with exit code, output and errors
PROGRAM = """
import contextlib, io, json, os, shutil, sys
from selfmod_hf.cli import main
from selfmod_hf.hub.connection import be_patient
be_patient()
def load_results(name):
    import selfmod_hf
    print(len(selfmod_hf.load_results(name)))
def load_pretrained(name):
    from selfmod_hf import SelfModelingForImageClassification
    print(SelfModelingForImageClassification.from_pretrained(name).config.aux_weight)
def load_dataset(name):
    from selfmod_hf import TaskSpec, load_images
    print(len(load_images(TaskSpec(name="x", dataset_name=name), max_train_samples=21, max_test_samples=20).train))
python = {f.__name__: f for f in (load_results, load_pretrained, load_dataset)}
for line in sys.stdin:
    argv = json.loads(line)
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if argv[0] in python:
            try:
                code = python[argv[0]](*argv[1:]) or 0
            except Exception as error:
                code = 1
                print(type(error).__name__, error, file=sys.stderr)
        else:
            code = main(argv)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Client:
    """One process that talks to one Hub, however often."""

    def __init__(self, hub: LoopbackHub, program: subprocess.Popen[str]) -> None:
        self.hub, self.program = hub, program

    def __call__(self, *argv: str, trouble: Trouble | None = None) -> tuple[int, str, str]:
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        if trouble is not None:
            self.hub.faults = trouble
        self.program.stdin.write(json.dumps(argv) + "\n")
        self.program.stdin.flush()
        return tuple(json.loads(self.program.stdout.readline()))


@pytest.fixture(scope="module")
def client(tmp_path_factory, hub_seed, small_model) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("faults")
    with LoopbackHub(folder / "hub", seeds=[hub_seed.path]) as hub:
        push_model(hub.api(), shutil.copytree(small_model, folder / "net"), Target("me/net"))
        command = [sys.executable, "-c", PROGRAM]
        with subprocess.Popen(
            command, env=hub.env(), cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as program:  # fmt: skip
            assert program.stdin
            yield Client(hub, program)
            program.stdin.close()


RLCT = (
    "rlct",
    "--model=me/net",
    "--task=digits",
    "--num_draws=4",
    "--num_chains=1",
    "--quiet",
    "--max_train_samples=40",
)
READS = {
    "load_results": ("load_results", "me/net"),
    "load_pretrained": ("load_pretrained", "me/net"),
    "rlct": RLCT,
    "load_dataset": ("load_dataset", "ylecun/mnist"),
}


@pytest.mark.parametrize("kind", ["busy", "failing", "overloaded", "slow", "cut"])
@pytest.mark.parametrize("read", ["rlct", "load_dataset"])
def test_what_passes_is_waited_for(client, read, kind):
    """Each request of a file or of the API meets the fault once."""
    only = "" if kind != "slow" else "/resolve/"
    trouble = Trouble(kind, only=only)
    code, _, errors = client(*READS[read], trouble=trouble)
    assert trouble.hit
    assert code == 0, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("read", ["load_results", "rlct"])
def test_another_content_than_announced_is_refused_and_not_kept(client, read):
    trouble = Trouble("corrupt", only="/resolve/", times=None)
    code, _, errors = client(*READS[read], trouble=trouble)
    assert code != 0
    assert "arrived with another content than announced" in errors.strip().splitlines()[-1]
    assert client(*READS[read], trouble=Trouble("slow", only="nothing"))[0] == 0


@pytest.mark.parametrize("read", READS)
def test_a_repository_that_moved_is_found(client, read):
    trouble = Trouble("moved", times=None, moved=("old/", "ylecun/" if read == "load_dataset" else "me/"))
    argv = [word.replace("me/net", "old/net").replace("ylecun/", "old/") for word in READS[read]]
    code, _, errors = client(*argv, trouble=trouble)
    assert trouble.hit
    assert code == 0, errors


@pytest.mark.parametrize("read", READS)
def test_an_expired_token_is_said_in_one_line(client, read):
    code, _, errors = client(*READS[read], trouble=Trouble("expired", times=None))
    assert code != 0
    assert "Traceback" not in errors
    if read == "rlct":
        (line,) = [line for line in errors.splitlines() if line.startswith("selfmod: error")]
        assert "401" in line


GIVE_UP = [(read, "busy") for read in READS]
GIVE_UP += [(read, kind) for read in ("rlct", "load_results") for kind in ("failing", "cut")]


@pytest.mark.slow  # some seconds until our client gives up; datasets and transformers try for half a minute themselves
@pytest.mark.parametrize(("read", "kind"), GIVE_UP)
def test_what_does_not_pass_is_said_in_one_line(client, read, kind):
    code, _, errors = client(*READS[read], trouble=Trouble(kind, times=None))
    assert code != 0
    assert "Traceback" not in errors


def in_seconds(seconds: float) -> tuple[str, str]:
    return ("Retry-After", formatdate(time.time() + seconds, usegmt=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asks", "least"),
    [(("Retry-After", "2"), 2), (("RateLimit", '"api";r=0;t=2'), 2), (in_seconds, 1)],
    ids=["number", "RateLimit", "date"],
)
@pytest.mark.parametrize("method", ["push", "load_results"])
def test_it_waits_for_as_long_as_the_hub_asks(client, small_model, tmp_path, method, asks, least):
    """Every request is refused for so long. (A date has whole seconds: up to one less.)"""
    folder = shutil.copytree(small_model, tmp_path / "net")
    push = ("push", str(folder), f"--repo=me/wait{time.time_ns()}", "--quiet")
    argv = push if method == "push" else READS[method]
    trouble = Trouble("busy", only="/api/", asks=asks(2.5) if callable(asks) else asks)
    start = time.monotonic()
    code, _, errors = client(*argv, trouble=trouble)
    assert trouble.hit
    assert code == 0, errors
    assert time.monotonic() - start >= least


@pytest.mark.parametrize("only", ["/api/", "/resolve/", "/commit/|/preupload/|/lfs/"])
@pytest.mark.parametrize(
    "asks", [("Retry-After", "400"), ("RateLimit", '"api";r=0;t=400'), in_seconds], ids=["number", "RateLimit", "date"]
)
def test_a_hub_that_asks_for_too_long_is_said_at_once(client, small_model, tmp_path, asks, only):
    folder = shutil.copytree(small_model, tmp_path / "net")
    push = ("push", str(folder), f"--repo=me/long{time.time_ns()}", "--quiet")
    reads = ("load_results", "rlct") if only == "/api/" else READS  # the other two can do without the API
    for argv in [push] if "commit" in only else [READS[read] for read in reads]:
        trouble = Trouble("busy", only=only, times=None, asks=asks(401) if callable(asks) else asks)
        start = time.monotonic()
        code, _, errors = client(*argv, trouble=trouble)
        assert trouble.hit, argv
        assert code != 0, argv
        assert re.search(r"asks to wait for (39|40)\d seconds", errors.strip().splitlines()[-1]), (argv, errors)
        assert time.monotonic() - start < 30


# ------------------------------------------------------------------------------------------- uploads


def files_of(hub: LoopbackHub, name: str) -> dict[str, bytes]:
    root = hub.root / "models" / name
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def stays_whole(folder: Path, before: dict[str, bytes]) -> bool:
    return all((folder / name).read_bytes() == content for name, content in before.items())


@pytest.mark.parametrize("kind", ["busy", "overloaded", "slow"])
def test_an_upload_that_meets_a_passing_fault_arrives_whole(client, small_model, tmp_path, kind):
    folder = shutil.copytree(small_model, tmp_path / "net")
    trouble = Trouble(kind, only="" if kind != "slow" else "/commit/|/resolve/")
    code, _, errors = client("push", str(folder), f"--repo=me/{kind}", "--quiet", trouble=trouble)
    assert trouble.hit
    assert code == 0, errors
    there = files_of(client.hub, f"me/{kind}")
    assert there["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("kind", "only"), [("failing", "/commit/"), ("expired", "/commit/"), ("expired", "")])
def test_an_upload_that_is_refused_is_said_in_one_line_and_goes_on_later(client, small_model, tmp_path, kind, only):
    folder = shutil.copytree(small_model, tmp_path / "net")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".safetensors", ".json")}
    name = f"me/refused-{kind}{len(only)}"
    push = ("push", str(folder), f"--repo={name}", "--quiet")
    code, _, errors = client(*push, trouble=Trouble(kind, only=only, times=None))
    assert code == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("selfmod: error")]
    assert ("401" if kind == "expired" else "500") in line
    assert not any(name.endswith(".safetensors") for name in files_of(client.hub, name))  # all or nothing
    assert stays_whole(folder, before)
    code, _, errors = client(*push, trouble=Trouble("slow", only="nothing"))
    assert code == 0, errors
    assert files_of(client.hub, name)["model.safetensors"] == before["model.safetensors"]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("rlct.json", lambda rlct: rlct.pop("nbeta"), "rlct.json': the field nbeta is missing"),
        (
            "rlct.json",
            lambda rlct: rlct["settings"].update(num_draws="9"),
            "settings.num_draws='9': allowed",
        ),
        ("run.json", lambda run: run["task"].update(name="mnist"), "no data set of the Hub; name them here"),
        ("run.json", lambda run: run["task"].update(dataset_name="/etc"), "no data set of the Hub; name them here"),
        (
            "run.json",
            lambda run: run.update(train_samples="all"),
            "train_samples='all': allowed is a valid integer",
        ),
    ],
)
def test_a_broken_published_file_is_refused_before_sampling(client, small_model, tmp_path, file, change, message):
    folder = shutil.copytree(small_model, tmp_path / "net")
    content = json.loads((folder / file).read_text())
    change(content)
    client.hub.faults, api = no_faults, client.hub.api()
    api.upload_file(path_or_fileobj=json.dumps(content).encode(), path_in_repo=file, repo_id="me/net")
    code, out, err = client("rlct", "--model=me/net", f"--output_dir={tmp_path / 'out'}", "--quiet")
    api.upload_file(path_or_fileobj=(small_model / file).read_bytes(), path_in_repo=file, repo_id="me/net")
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("selfmod: error")]
    assert message in line
    assert not (tmp_path / "out").exists()

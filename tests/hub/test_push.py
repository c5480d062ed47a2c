"""`selfmod push`: what arrives, what is kept, what goes on after a break; real clients, the loopback Hub."""

import json
import shutil
import threading
from importlib.metadata import version
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from huggingface_hub import DatasetCard, ModelCard

from selfmod_hf.cli import main
from selfmod_hf.complexity import LLCResult
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.hub.card import BEGIN
from selfmod_hf.hub.model_folder import write_model_card
from selfmod_hf.hub.upload import Target, push_model, push_space
from selfmod_hf.metrics import metric_path
from selfmod_hf.reports.on_hub import push_sweep
from tests import warm
from tests.loopback_hub import LoopbackHub

CELL = "h8-aw10-seed2"

READ_BACK = f"""
import evaluate
from datasets import load_dataset
from selfmod_hf import load_results
results, curves = (load_dataset("me/sweep", name, split="train") for name in ("results", "curves"))
assert (len(results), len(curves)) == (4, 8)
table = load_results("me/sweep").set_index("network")
assert table.loc["{CELL}", "rlct"] == results[3]["rlct"]
assert set(table["rlct_sampler"]) == {{"sgld"}} and set(table["rlct_num_draws"]) == {{40}}
assert load_results("me/net").loc[0, "rlct_num_draws"] == 60
metric = evaluate.load("me/rlct")
assert metric.compute(predictions=[[1.0] * 40] * 2, references=[[0.5] * 40] * 2, nbeta=2.0)["rlct"] == 1.0
assert evaluate.load("me/weight_width").compute(data=[1.0, 3.0])["weight_width"] == 1.0
"""
# in a process of its own: once the package was imported, transformers takes its classes
WITHOUT_PACKAGE = f"""
import sys
sys.modules["selfmod_hf"] = None  # importing it now fails
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained("me/sweep", subfolder="{CELL}", trust_remote_code=True)
assert model.config.aux_weight == 10
"""


def selfmod(hub: LoopbackHub, *argv: object, cwd: Path | None = None) -> CompletedProcess[str]:
    return warm.run([*warm.SELFMOD, *argv], hub.env(), cwd)


def uploads(hub: LoopbackHub) -> int:
    return sum(method == "PUT" and status == 200 for method, _, status in hub.requests)


def test_round_trip(loopback_hub, small_sweep, small_model):
    """Files arrive byte by byte; datasets, evaluate, transformers and this package read them."""
    api = loopback_hub.api()
    done = selfmod(loopback_hub, "push", small_sweep, "--repo", "me/sweep", "--quiet")
    assert done.returncode == 0, done.stderr
    push_model(api, small_model, Target("me/net"))
    for name in ("rlct", "weight_width"):
        push_space(api, Path(metric_path(name)), Target(f"me/{name}"))

    root = loopback_hub.root
    for file in ("model.safetensors", "config.json", "rlct.json", "rlct.safetensors"):
        assert (root / "models/me/sweep" / CELL / file).read_bytes() == (
            small_sweep / "cells" / CELL / file
        ).read_bytes()
    for file in ("results.parquet", "curves.parquet"):
        assert (root / "datasets/me/sweep" / file).read_bytes() == (small_sweep / file).read_bytes()
    shown = (small_sweep / "run.json").read_text().replace(str(small_sweep), small_sweep.name)  # in its command
    assert (root / "datasets/me/sweep/run.json").read_text() == shown
    assert (root / "models/me/sweep/figures/figure2.png").is_file()
    for file in ("model.safetensors", "rlct.json", "training.png", "rlct.png"):
        assert (root / "models/me/net" / file).read_bytes() == (small_model / file).read_bytes()
    assert (root / "spaces/me/rlct/rlct.py").read_bytes() == Path(metric_path("rlct"), "rlct.py").read_bytes()
    for program in (READ_BACK, WITHOUT_PACKAGE):
        warm.run(["-c", program], loopback_hub.env(), check=True)


def test_a_published_sweep_is_reported_on(loopback_hub, small_sweep, tmp_path):
    push_sweep(loopback_hub.api(), small_sweep, Target("me/sweep"))
    done = selfmod(loopback_hub, "report", "me/sweep", f"--output_dir={tmp_path / 'there'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    main(["report", str(small_sweep), f"--output_dir={tmp_path / 'here'}"])
    for name in ("report.txt", "figure2.png"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    here = (tmp_path / "here" / "report.html").read_text().replace(str(small_sweep), small_sweep.name)
    assert (tmp_path / "there" / "report.html").read_text() == here


@pytest.mark.slow
def test_a_sweep_private_as_a_pull_request_and_on_a_branch(loopback_hub, small_sweep, tmp_path):
    """And a person's text is kept on both cards."""
    changed = tmp_path / "changed"  # what changes nothing opens no pull request
    shutil.copytree(small_sweep, changed)
    (changed / "cells" / CELL / "note.txt").write_text("more")
    run = json.loads((small_sweep / "run.json").read_text())
    (changed / "run.json").write_text(json.dumps({**run, "git_commit": "0" * 40}))
    api = loopback_hub.api()
    push_sweep(api, small_sweep, Target("me/sweep", private=True))
    kinds = ("model", "dataset")
    assert all(api.repo_info("me/sweep", repo_type=kind).private for kind in kinds)
    for kind in kinds:
        card = (loopback_hub.root / f"{kind}s/me/sweep/README.md").read_text()
        edited = card.replace(BEGIN, f"{BEGIN}\nMine, of the {kind}.").encode()
        api.upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id="me/sweep", repo_type=kind)
    heads = [api.repo_info("me/sweep", repo_type=kind).sha for kind in kinds]
    addresses = push_sweep(api, changed, Target("me/sweep", create_pr=True))
    assert [address.rpartition("/")[2] for address in addresses] == ["1", "1"]
    push_sweep(api, changed, Target("me/sweep", revision="second"))
    assert [api.repo_info("me/sweep", repo_type=kind).sha for kind in kinds] == heads
    push_sweep(api, changed, Target("me/sweep"))
    for kind in kinds:
        assert f"Mine, of the {kind}." in (loopback_hub.root / f"{kind}s/me/sweep/README.md").read_text()
        assert api.file_exists("me/sweep", "README.md", repo_type=kind, revision="second")


@pytest.mark.skipif(version("huggingface_hub").startswith("1."), reason="huggingface_hub 1 asks huggingface.co")
def test_cards_are_valid_and_read_back(loopback_hub, small_sweep, small_model, tmp_path):
    """By the Hub's validator, which the client asks; the metadata comes back as EvalResults."""
    push_sweep(loopback_hub.api(), small_sweep, Target("me/sweep"))
    push_model(loopback_hub.api(), small_model, Target("me/net"))
    root = loopback_hub.root
    program = """
import sys
from huggingface_hub import DatasetCard, ModelCard
ModelCard.load(sys.argv[1]).validate(); ModelCard.load(sys.argv[2]).validate(); DatasetCard.load(sys.argv[3]).validate()
"""
    cards = [root / path / "README.md" for path in ("models/me/sweep", "models/me/net", "datasets/me/sweep")]
    warm.run(["-c", program, *cards], loopback_hub.env(), check=True)
    assert sum("validate-yaml" in path for _, path, status in loopback_hub.requests if status == 200) >= 3

    rlct = LLCResult.load(small_model / "rlct.json")
    (found,) = [r for r in ModelCard.load(cards[1]).data.eval_results if r.metric_type == "rlct"]
    assert (found.metric_value, found.metric_args["nbeta"]) == (rlct.llc, rlct.nbeta)
    assert found.metric_args["standard_error"] == rlct.standard_error
    arms = [r for r in ModelCard.load(cards[0]).data.eval_results if r.metric_type == "weight_width"]
    assert [r.metric_args["aux_weight"] for r in arms] == [0]  # after two epochs those of weight 10 are at chance level
    assert [c["config_name"] for c in DatasetCard.load(cards[2]).data.configs] == ["results", "curves"]


def test_a_second_push_keeps_what_a_person_wrote(loopback_hub, small_model, tmp_path):
    api, folder = loopback_hub.api(), tmp_path / "net"
    shutil.copytree(small_model, folder)
    push_model(api, folder, Target("me/net"))
    card = loopback_hub.root / "models/me/net/README.md"
    edited = card.read_text().replace(BEGIN, f"{BEGIN}\nMine: café, {{{{ braces }}}}.\n\n* two").replace("0.9", "0.1")
    api.upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id="me/net")
    before = (folder / "README.md").read_text()
    push_model(api, folder, Target("me/net"))
    assert card.read_text() == before.replace(BEGIN, f"{BEGIN}\nMine: café, {{{{ braces }}}}.\n\n* two")

    here = (folder / "README.md").read_text()
    (folder / "README.md").write_text(here.replace("Mine", "Ours"))
    with pytest.raises(InputError, match="differs here and on the Hub"):
        push_model(api, folder, Target("me/net"))
    (folder / "README.md").write_text(here.replace("<!-- to here", "<!--"))
    with pytest.raises(InputError, match="allowed is one pair"):
        push_model(api, folder, Target("me/net"))


def test_private_pull_request_and_revision(loopback_hub, small_model, tmp_path):
    api, folder = loopback_hub.api(), tmp_path / "net"
    shutil.copytree(small_model, folder)
    push_model(api, folder, Target("me/net", private=True))
    assert api.model_info("me/net").private
    head = api.model_info("me/net").sha
    (folder / "more.txt").write_text("new")
    (address,) = push_model(api, folder, Target("me/net", create_pr=True))
    assert address.endswith("/discussions/1")
    push_model(api, folder, Target("me/net", revision="refs/pr/1"))  # goes on with it
    (address,) = push_model(api, folder, Target("me/net", create_pr=True))
    assert address.endswith("/discussions/2")
    push_model(api, folder, Target("me/net", revision="second"))
    assert api.file_exists("me/net", "more.txt", revision="second")
    assert api.model_info("me/net").sha == head
    api.create_repo("me/open")
    with pytest.raises(InputError, match="exists and is public"):
        push_model(api, folder, Target("me/open", private=True))
    with pytest.raises(InputError, match="opened against main"):
        Target("me/net", create_pr=True, revision="second")


def commits(hub: LoopbackHub, name: str, kind: str = "model") -> int:
    return len(hub.api().list_repo_commits(name, repo_type=kind))


def test_many_files_are_one_commit(loopback_hub, small_model, tmp_path, monkeypatch):
    """`upload_folder` makes several where Xet is installed, as it is by default (this Hub does not speak it)."""
    monkeypatch.delattr("huggingface_hub.HfApi.upload_folder")
    folder = shutil.copytree(small_model, tmp_path / "net")
    (folder / "more").mkdir()
    for number in range(300):
        (folder / f"more/{number}.txt").write_text(f"{number}")
    api = loopback_hub.api()
    api.create_repo("me/net")
    before = commits(loopback_hub, "me/net")
    push_model(api, folder, Target("me/net"))
    assert commits(loopback_hub, "me/net") == before + 1
    assert api.file_exists("me/net", "more/299.txt")
    head = api.model_info("me/net").sha
    push_model(api, folder, Target("me/net"))  # nothing is new: no commit
    assert api.model_info("me/net").sha == head


def test_a_card_that_a_person_edits_meanwhile_is_not_overwritten(loopback_hub, small_model, tmp_path, monkeypatch):
    api, folder = loopback_hub.api(), shutil.copytree(small_model, tmp_path / "net")
    push_model(api, folder, Target("me/net"))
    card = loopback_hub.root / "models/me/net/README.md"
    edited = card.read_text().replace(BEGIN, f"{BEGIN}\nMine.")

    def edit(folder: Path, *rest: object, **more: object) -> None:
        write_model_card(folder, *rest, **more)
        api.upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id="me/net")

    (folder / "more.txt").write_text("new")
    with monkeypatch.context() as patched:
        patched.setattr("selfmod_hf.hub.upload.write_model_card", edit)
        with pytest.raises(InputError, match="changed meanwhile; give the command again"):
            push_model(api, folder, Target("me/net"))
    assert card.read_text() == edited
    push_model(api, folder, Target("me/net"))
    assert "Mine." in card.read_text()


def model_with(small_model: Path, folder: Path, file: str) -> tuple[Path, Path]:
    return shutil.copytree(small_model, folder), folder / file


def sweep_with(small_sweep: Path, folder: Path, file: str) -> tuple[Path, Path]:
    return shutil.copytree(small_sweep, folder), folder / "cells" / CELL / file


PUSH_EACH = """
import sys
from selfmod_hf.cli import main
for folder in sys.argv[1:]:
    assert main(["push", folder, "--repo", "me/refused", "--quiet"]) == 2, folder
"""


def refused(hub: LoopbackHub, messages: dict[Path, str]) -> None:
    """Each folder in one line, with exit code 2, and before anything is made on the Hub."""
    done = warm.run(["-c", PUSH_EACH, *messages], hub.env())
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("selfmod: error")]
    for line, message in zip(lines, messages.values(), strict=True):
        assert message in line
    assert not any(hub.api().repo_exists("me/refused", repo_type=kind) for kind in ("model", "dataset", "space"))


def test_links_out_of_the_folder_are_refused(loopback_hub, small_model, small_sweep, tmp_path):
    """A stranger's folder would publish files of this machine, or have them written over."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    cases = [
        model_with(small_model, tmp_path / "model", "notes.txt"),
        model_with(small_model, tmp_path / "picture", "training.png"),
        sweep_with(small_sweep, tmp_path / "sweep", "secret.txt"),
        sweep_with(small_sweep, tmp_path / "code", "modeling_self_modeling.py"),
        sweep_with(small_sweep, tmp_path / "run", "../../run.json"),
    ]
    space = shutil.copytree(metric_path("rlct"), tmp_path / "space")
    cases.append((space, space / "notes.txt"))
    messages = {}
    for folder, link in cases:
        link.unlink(missing_ok=True)
        link.symlink_to(secret)
        messages[folder] = f"file={str(link)!r}".replace("cells/" + CELL + "/../../", "")
    folder, link = model_with(small_model, tmp_path / "nowhere", "rlct.png")
    link.unlink()
    link.symlink_to(tmp_path / "made-by-the-push")
    refused(loopback_hub, messages | {folder: "is a link out of the folder"})
    assert secret.read_text() == "mine"


@pytest.mark.slow
def test_links_within_the_folder_and_a_downloaded_sweep_are_pushed(loopback_hub, small_model, small_sweep, tmp_path):
    folder, link = model_with(small_model, tmp_path / "net", "weights.txt")
    (folder / "more.txt").write_text("more")
    link.symlink_to("more.txt")
    push_model(loopback_hub.api(), folder, Target("me/net"))
    assert (loopback_hub.root / "models/me/net/weights.txt").read_text() == "more"
    push_sweep(loopback_hub.api(), small_sweep, Target("me/first"))
    program = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from selfmod_hf.reports.on_hub import pull_sweep, push_sweep
from selfmod_hf.hub.upload import Target
push_sweep(HfApi(), pull_sweep("me/first", Path("here")).path, Target("me/second"))
"""
    warm.run(["-c", program], loopback_hub.env(), tmp_path, check=True)
    first, second = (loopback_hub.root / "models/me" / name for name in ("first", "second"))
    for name in (f"{CELL}/model.safetensors", f"{CELL}/rlct.json", "modeling_self_modeling.py"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_sweep_at_work_is_only_read(loopback_hub, small_sweep, tmp_path):
    """Its tables are not there yet, its lock is held, and its own files stay as they are."""
    folder = shutil.copytree(small_sweep, tmp_path / "sweep")
    for name in ("results.json", "results.parquet", "curves.parquet"):
        (folder / name).unlink()
    with SweepFolder(folder).locked():
        before = {path: path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
        push_sweep(loopback_hub.api(), folder, Target("me/sweep"))
        assert {path: path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before
    for name in ("results.json", "results.parquet", "curves.parquet"):
        assert (loopback_hub.root / "datasets/me/sweep" / name).read_bytes() == (small_sweep / name).read_bytes()


def test_no_half_of_a_sweep_is_published(loopback_hub, small_sweep):
    """Where one of the two repositories cannot take it, nothing goes into the other."""
    api = loopback_hub.api()
    api.create_repo("me/sweep", repo_type="dataset")
    with pytest.raises(InputError, match="exists and is public"):
        push_sweep(api, small_sweep, Target("me/sweep", private=True))
    card = f"---\nlicense: mit\n---\n{BEGIN}\n"  # one marker of two
    api.create_repo("me/other", repo_type="dataset")
    api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id="me/other", repo_type="dataset")
    with pytest.raises(InputError, match="allowed is one pair"):
        push_sweep(api, small_sweep, Target("me/other"))
    for name in ("me/sweep", "me/other"):
        assert api.list_repo_files(name) == [".gitattributes"]


def test_work_in_progress_and_pickles_stay_here(loopback_hub, small_model, tmp_path):
    folder = shutil.copytree(small_model, tmp_path / "net")
    left = ["a.pkl", "a.bin", "a.pth", "a.dill", "a.part", "a.tmp", "previous-1/a.txt", "sub/previous-1/a.txt"]
    left += ["a.pickle", "a.ckpt", "sub/a.joblib", "sub/a.pt", "sub/__pycache__/a.pyc", "sub/checkpoint-3/a.txt"]
    left += ["checkpoint-3/a.txt", "__pycache__/a.txt", ".hidden", "sub/.hidden", "sub/.git/config"]
    for name in [*left, "sub/a.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    push_model(loopback_hub.api(), folder, Target("me/net"))
    there = set(loopback_hub.api().list_repo_files("me/net"))
    assert "sub/a.txt" in there
    assert not there & set(left)


def test_weights_that_are_cut_off_or_missing_are_refused(loopback_hub, small_model, small_sweep, tmp_path):
    cases = {
        "cut": model_with(small_model, tmp_path / "cut", "model.safetensors"),
        "missing": model_with(small_model, tmp_path / "missing", "model.safetensors"),
        "cut cell": sweep_with(small_sweep, tmp_path / "cut-sweep", "model.safetensors"),
        "missing cell": sweep_with(small_sweep, tmp_path / "missing-sweep", "model.safetensors"),
        "cut trace": sweep_with(small_sweep, tmp_path / "trace", "rlct.safetensors"),
    }
    for name, (_, file) in cases.items():
        whole = file.read_bytes()
        file.unlink()
        if "cut" in name:
            file.write_bytes(whole[: len(whole) // 2])
    refused(loopback_hub, {folder: file.name for folder, file in cases.values()})


@pytest.mark.slow  # the client tries for half a minute before it gives up
def test_a_broken_off_upload_goes_on(small_sweep, hub_seed, tmp_path):
    """The server dies in the middle of the uploads; started again on its folder, it is sent only what it lacks."""
    with LoopbackHub(tmp_path / "whole") as hub:
        push_sweep(hub.api(), small_sweep, Target("me/sweep"))
        all_files, whole = uploads(hub), hub.root / "models/me/sweep"
    enough = threading.Event()

    def die(request, respond):
        if request.method == "PUT" and uploads(hub) >= 3:
            enough.set()
            threading.Event().wait(1)  # until the server is gone
            raise ConnectionError
        return respond(request)

    hub = LoopbackHub(tmp_path / "hub", faults=die).start()
    push = [*warm.SELFMOD, "push", small_sweep, "--repo", "me/sweep", "--quiet"]
    first = warm.start(push, hub.env(), errors=tmp_path / "errors")
    assert enough.wait(120)
    hub.stop()
    first.join(120)
    before = uploads(hub)
    assert first.exitcode == 2
    assert "the same command goes on where this stopped" in (tmp_path / "errors").read_text().splitlines()[-1]
    assert 3 <= before < all_files
    with LoopbackHub(tmp_path / "hub") as hub:
        assert not hub.api().file_exists("me/sweep", "README.md")  # nothing half-done is to be seen
        push_sweep(hub.api(), small_sweep, Target("me/sweep"))
        assert uploads(hub) == all_files - before
        for file in whole.rglob("*"):
            if file.is_file() and "figures" not in file.parts:
                assert (hub.root / "models/me/sweep" / file.relative_to(whole)).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["push"], "--folder=None: must be given"),
        (["push", "FOLDER"], "--repo=None: must be given"),
        (["push", "FOLDER", "--repo", "me/x"], "allowed are folders of a model"),
        (["push", "FOLDER", "--repo", "me/x", "--what"], "--what: no such flag"),
    ],
)
def test_what_cannot_be_pushed_is_refused_in_one_line(tmp_path, capsys, flags, message):
    flags = [str(tmp_path) if flag == "FOLDER" else flag for flag in flags]
    assert main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_model_of_another_kind_is_refused(loopback_hub, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="model_type='bert'; allowed is 'self_modeling'"):
        push_model(loopback_hub.api(), tmp_path, Target("me/net"))
    assert not loopback_hub.api().repo_exists("me/net")

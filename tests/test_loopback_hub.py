"""The loopback Hub, through the real clients, and past them where it must refuse what they would not send."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, get_session
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.conftest import HubSeed
from tests.loopback_hub import LoopbackHub, Request, Respond, Response, card_errors

WEIGHTS = bytes(range(256)) * 1000
CARD = "---\nlicense: mit\n---\n# A model\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a push has: a card, a config, weights that go by LFS."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "sub" / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def status(call: Callable[[], object]) -> int:
    """The HTTP status with which a client's call is refused."""
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    return caught.value.response.status_code


def http(hub: LoopbackHub, method: str, path: str, token: str | None = LoopbackHub.token, **kwargs: Any) -> Any:
    """A request no client would send."""
    headers = kwargs.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    return get_session().request(method, hub.url + path, headers=headers, **kwargs)


def commit(hub: LoopbackHub, *operations: tuple[str, dict]) -> Any:
    lines = [("header", {"summary": "by hand"}), *operations]
    body = "\n".join(json.dumps({"key": key, "value": value}) for key, value in lines)
    return http(hub, "POST", "/api/models/me/x/commit/main", content=body)


def run_python(hub: LoopbackHub, program: str, token: str | None = LoopbackHub.token) -> str:
    run = subprocess.run(
        [sys.executable, "-c", program], env=hub.env(token), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


# ---------------------------------------------------------------------------------------------- up and down


def test_upload_list_download(loopback_hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """A folder comes back byte for byte, under the commit that holds it; LFS where the Hub says LFS."""
    api = loopback_hub.api()
    api.create_repo("me/x")
    commit = api.upload_folder(repo_id="me/x", folder_path=folder)

    assert api.list_repo_files("me/x") == [".gitattributes", "README.md", "config.json", "sub/model.safetensors"]
    info = api.model_info("me/x", files_metadata=True)
    assert (info.id, info.sha, info.private, info.card_data.license) == ("me/x", commit.oid, False, "mit")
    lfs = {file.rfilename: file.lfs and file.lfs.sha256 for file in info.siblings}
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert lfs == {".gitattributes": None, "README.md": None, "config.json": None, "sub/model.safetensors": sha256}

    local = Path(api.snapshot_download("me/x", cache_dir=tmp_path / "cache"))
    assert local.name == commit.oid
    for file in (path for path in folder.rglob("*") if path.is_file()):
        assert (local / file.relative_to(folder)).read_bytes() == file.read_bytes()
        assert (loopback_hub.root / "models/me/x" / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_second_download_reads_no_body(loopback_hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """The ETag spares the body: of the file, and of a new commit that leaves the file as it is."""
    api = loopback_hub.api()
    api.create_repo("me/x")
    api.upload_folder(repo_id="me/x", folder_path=folder)

    def download() -> bytes:
        return Path(api.hf_hub_download("me/x", "sub/model.safetensors", cache_dir=tmp_path / "cache")).read_bytes()

    def bodies() -> int:
        return sum(method == "GET" and "/resolve/" in path for method, path, _ in loopback_hub.requests)

    assert download() == WEIGHTS
    assert bodies() == 1
    assert download() == WEIGHTS
    api.upload_file(repo_id="me/x", path_or_fileobj=b"{}", path_in_repo="config.json")
    assert download() == WEIGHTS
    assert bodies() == 1


def test_metadata_and_ranges(loopback_hub: LoopbackHub, folder: Path) -> None:
    """Headers of both kinds of file; conditional and partial requests."""
    api = loopback_hub.api()
    api.create_repo("me/x")
    commit = api.upload_folder(repo_id="me/x", folder_path=folder)
    sha256, config = hashlib.sha256(WEIGHTS).hexdigest(), b'{"a": 1}'
    oid = hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()

    lfs = http(loopback_hub, "HEAD", "/me/x/resolve/main/sub/model.safetensors").headers
    assert (lfs["X-Repo-Commit"], lfs["X-Linked-ETag"], lfs["ETag"]) == (commit.oid, f'"{sha256}"', f'"{sha256}"')
    assert lfs["X-Linked-Size"] == lfs["Content-Length"] == str(len(WEIGHTS))
    regular = http(loopback_hub, "HEAD", "/me/x/resolve/main/config.json").headers
    assert (regular["ETag"], regular["Content-Length"], "X-Linked-ETag" in regular) == (f'"{oid}"', "8", False)

    url = "/me/x/resolve/main/config.json"
    assert http(loopback_hub, "GET", url, headers={"If-None-Match": f'"{oid}"'}).status_code == 304
    part = http(loopback_hub, "GET", url, headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, b'"a"', "bytes 1-3/8")
    assert http(loopback_hub, "GET", url, headers={"Range": "bytes=-2"}).content == b"1}"
    assert http(loopback_hub, "GET", url, headers={"Range": "bytes=8-"}).status_code == 416


def test_tree_and_paths(loopback_hub: LoopbackHub, folder: Path) -> None:
    api = loopback_hub.api()
    api.create_repo("me/x")
    api.upload_folder(repo_id="me/x", folder_path=folder)
    tree = {entry.path: isinstance(entry, RepoFile) for entry in api.list_repo_tree("me/x")}
    assert tree == {".gitattributes": True, "README.md": True, "config.json": True, "sub": False}
    assert [entry.path for entry in api.list_repo_tree("me/x", "sub")] == ["sub/model.safetensors"]
    paths = ["sub", "sub/model.safetensors", "nothing"]
    assert [entry.path for entry in api.get_paths_info("me/x", paths)] == paths[:2]
    assert api.file_exists("me/x", "config.json")
    assert not api.file_exists("me/x", "nothing")
    assert api.repo_exists("me/x")
    assert not api.repo_exists("me/y")


def test_large_and_unchanged_files(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    """Size alone sends a file by LFS; pushing the same again makes no commit and uploads nothing."""
    api = loopback_hub.api()
    api.create_repo("me/x")
    (tmp_path / "log.txt").write_bytes(os.urandom(10_000_000))
    first = api.upload_file(repo_id="me/x", path_or_fileobj=tmp_path / "log.txt", path_in_repo="log.txt")
    assert api.get_paths_info("me/x", "log.txt")[0].lfs is not None
    second = api.upload_file(repo_id="me/x", path_or_fileobj=tmp_path / "log.txt", path_in_repo="log.txt")
    assert second.oid == first.oid
    assert sum(method == "PUT" for method, _, _ in loopback_hub.requests) == 1


# ---------------------------------------------------------------------------------------------- commits and refs


def test_revisions_stay(loopback_hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    """Old commits, tags and branches keep their content; a restarted Hub knows them all."""
    api = loopback_hub.api()
    api.create_repo("me/x")
    first = api.upload_folder(repo_id="me/x", folder_path=folder).oid
    api.create_tag("me/x", tag="v1")
    api.create_branch("me/x", branch="a/b", revision=first)
    changes = [CommitOperationAdd("config.json", b"{}"), CommitOperationDelete("sub/")]
    second = api.create_commit("me/x", changes, commit_message="second", parent_commit=first).oid

    history = [(commit.commit_id, commit.title) for commit in api.list_repo_commits("me/x")]
    assert history[:2] == [(second, "second"), (first, "Upload folder using huggingface_hub")]
    assert api.list_repo_files("me/x") == [".gitattributes", "README.md", "config.json"]
    assert not (loopback_hub.root / "models/me/x/sub").exists()
    with LoopbackHub(loopback_hub.root) as restarted:
        again = restarted.api()
        for revision, content in (("main", "{}"), ("v1", '{"a": 1}'), ("a/b", '{"a": 1}'), (first, '{"a": 1}')):
            path = again.hf_hub_download("me/x", "config.json", revision=revision, cache_dir=tmp_path / "cache")
            assert Path(path).read_text() == content
        refs = again.list_repo_refs("me/x")
        assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "a/b": first}
        assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first}
        again.delete_tag("me/x", tag="v1")
        again.delete_branch("me/x", branch="a/b")
        refs = again.list_repo_refs("me/x")
        assert [ref.ref for ref in refs.branches + refs.tags] == ["refs/heads/main"]


def test_commit_ids_repeat(tmp_path: Path, folder: Path) -> None:
    """The same pushes on another machine give the same commit ids."""
    ids = []
    for name in ("one", "two"):
        with LoopbackHub(tmp_path / name) as hub:
            hub.api().create_repo("me/x")
            ids.append(hub.api().upload_folder(repo_id="me/x", folder_path=folder).oid)
    assert ids[0] == ids[1]


def test_commit_needs_its_parent(loopback_hub: LoopbackHub) -> None:
    api = loopback_hub.api()
    api.create_repo("me/x")
    parent = api.model_info("me/x").sha
    api.upload_file(repo_id="me/x", path_or_fileobj=b"1", path_in_repo="a.txt", parent_commit=parent[:8])
    stale = {"repo_id": "me/x", "path_or_fileobj": b"2", "path_in_repo": "a.txt", "parent_commit": parent}
    assert status(lambda: api.upload_file(**stale)) == 412


def test_commits_at_once(loopback_hub: LoopbackHub) -> None:
    """Commits that arrive together follow one another; none is lost."""
    api = loopback_hub.api()
    api.create_repo("me/x")
    names = [f"{number}.txt" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: api.upload_file(repo_id="me/x", path_or_fileobj=b"1", path_in_repo=name), names))
    assert api.list_repo_files("me/x") == [".gitattributes", *names]
    assert len(api.list_repo_commits("me/x")) == 9


def test_pull_request(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    """A colleague may propose what they may not push; main stays as it is."""
    loopback_hub.api().create_repo("me/x")
    api = loopback_hub.api(loopback_hub.colleague_token)
    change = {"repo_id": "me/x", "path_or_fileobj": b"1", "path_in_repo": "a.txt"}
    assert status(lambda: api.upload_file(**change)) == 403
    proposal = api.upload_file(**change, create_pr=True)
    assert proposal.pr_revision == "refs/pr/1"
    assert not api.file_exists("me/x", "a.txt")
    assert api.file_exists("me/x", "a.txt", revision="refs/pr/1")


# ---------------------------------------------------------------------------------------------- refusals


def test_unknown_things(loopback_hub: LoopbackHub) -> None:
    """404 with the Hub's error header, from which the client makes its own errors."""
    api = loopback_hub.api()
    api.create_repo("me/x")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("me/x", revision="none")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("me/x", "none.txt")
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("none.txt", "me/x")
    for path, code in (
        ("/api/models/me/none", "RepoNotFound"),
        ("/api/models/me/x/tree/none", "RevisionNotFound"),
        ("/me/x/resolve/main/none.txt", "EntryNotFound"),
        ("/me/x/resolve/main/%2e%2e/repo.json", "EntryNotFound"),
    ):
        answer = http(loopback_hub, "GET", path, token=None)
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, code)


def test_tokens(loopback_hub: LoopbackHub) -> None:
    """No or a wrong token: 401 on writes and private repositories; somebody else's: 403, and 404 on private ones."""
    me, colleague = loopback_hub.api(), loopback_hub.api(loopback_hub.colleague_token)
    nobody, wrong = loopback_hub.api(False), loopback_hub.api("hf_wrong")
    assert (me.whoami()["name"], colleague.whoami()["name"]) == ("me", "colleague")
    assert status(wrong.whoami) == 401
    me.create_repo("me/x")
    me.create_repo("me/secret", private=True)
    file = {"path_or_fileobj": b"1", "path_in_repo": "a.txt"}

    assert nobody.model_info("me/x").private is False
    assert me.model_info("me/secret").private is True
    for api, expected in ((nobody, 401), (wrong, 401), (colleague, 403)):
        assert status(lambda api=api: api.create_repo("me/y")) == expected
        assert status(lambda api=api: api.upload_file(repo_id="me/x", **file)) == expected
        assert status(lambda api=api: api.delete_repo("me/x")) == expected
    for api, expected in ((nobody, 401), (wrong, 401), (colleague, 404)):
        assert status(lambda api=api: api.model_info("me/secret")) == expected
        assert status(lambda api=api: api.list_repo_files("me/secret")) == expected
    with pytest.raises(RepositoryNotFoundError):  # whatever the status, the client sees a repository that is not there
        nobody.model_info("me/secret")


def test_create_and_delete(loopback_hub: LoopbackHub) -> None:
    api = loopback_hub.api()
    assert api.create_repo("x").repo_id == "me/x"
    assert status(lambda: api.create_repo("me/x")) == 409
    assert api.create_repo("me/x", exist_ok=True).repo_id == "me/x"
    assert api.create_repo("me/x", repo_type="dataset").repo_type == "dataset"
    api.delete_repo("me/x")
    assert not api.repo_exists("me/x")
    assert api.repo_exists("me/x", repo_type="dataset")
    assert not (loopback_hub.root / "models/me/x").exists()


@pytest.mark.parametrize("name", ["a--b", "a..b", "-a", "a.git", "a/b", "a b", "", "x" * 97])
def test_invalid_repo_names(loopback_hub: LoopbackHub, name: str) -> None:
    answer = http(loopback_hub, "POST", "/api/repos/create", json={"name": name, "organization": "me"})
    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/a", "a//b", "./a", ".git/config", "a\\b", "a\nb", ""])
def test_invalid_paths(loopback_hub: LoopbackHub, path: str) -> None:
    """The client checks some of these itself; the Hub relies on no client."""
    loopback_hub.api().create_repo("me/x")
    before = sorted(loopback_hub.root.rglob("*"))
    file = {"path": path, "content": base64.b64encode(b"1").decode(), "encoding": "base64"}
    assert commit(loopback_hub, ("file", file)).status_code == 400
    assert sorted(loopback_hub.root.rglob("*")) == before


def test_invalid_commits(loopback_hub: LoopbackHub) -> None:
    """Nothing of a refused commit is kept."""
    loopback_hub.api().create_repo("me/x")
    head = loopback_hub.api().model_info("me/x").sha
    content = base64.b64encode(b"1").decode()
    good = ("file", {"path": "a", "content": content, "encoding": "base64"})
    for bad in (
        ("file", {"path": "b", "content": "not base64!"}),
        ("file", {"path": "a/b", "content": content}),  # a file below a file
        ("lfsFile", {"path": "b.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}),  # never uploaded
        ("file", {"path": "README.md", "content": base64.b64encode(b"---\nlicense: [\n---\n").decode()}),
        ("rename", {"path": "a"}),
    ):
        assert commit(loopback_hub, good, bad).status_code == 400, bad
    assert loopback_hub.api().model_info("me/x").sha == head
    assert http(loopback_hub, "POST", "/api/models/me/x/commit/main", content=b"no json").status_code == 400
    assert http(loopback_hub, "POST", f"/api/models/me/x/commit/{head}", content=b"").status_code == 400


def test_upload_is_checked(loopback_hub: LoopbackHub) -> None:
    """An upload must be signed for, and have the digest and the size it announced."""
    loopback_hub.api().create_repo("me/x")
    data, sha256 = b"weights", hashlib.sha256(b"weights").hexdigest()

    def upload_url(size: int) -> str:
        objects = [{"oid": sha256, "size": size}]
        batch = {"operation": "upload", "transfers": ["basic"], "objects": objects}
        answer = http(loopback_hub, "POST", "/me/x.git/info/lfs/objects/batch", json=batch)
        return answer.json()["objects"][0]["actions"]["upload"]["href"].removeprefix(loopback_hub.url)

    def verified() -> bool:
        body = {"oid": sha256, "size": len(data)}
        return http(loopback_hub, "POST", "/me/x.git/info/lfs/objects/verify", json=body).status_code == 200

    url = upload_url(len(data))
    digest = http(loopback_hub, "PUT", url, token=None, content=b"weightz")
    assert (digest.status_code, "BadDigest" in digest.text) == (400, True)
    assert http(loopback_hub, "PUT", url, token=None, content=data[:-1]).status_code == 400
    assert http(loopback_hub, "PUT", upload_url(3), token=None, content=data).status_code == 400
    assert http(loopback_hub, "PUT", url[:-1] + "x", token=None, content=data).status_code == 403
    assert not verified()
    assert http(loopback_hub, "PUT", url, token=None, content=data).status_code == 200
    assert verified()
    wrong_size = ("lfsFile", {"path": "b.bin", "algo": "sha256", "oid": sha256, "size": 3})
    assert commit(loopback_hub, wrong_size).status_code == 400


def test_refs_are_checked(loopback_hub: LoopbackHub) -> None:
    api = loopback_hub.api()
    api.create_repo("me/x")
    api.create_tag("me/x", tag="v1")
    assert status(lambda: api.create_tag("me/x", tag="v1")) == 409
    assert status(lambda: api.create_tag("me/x", tag="v2", revision="none")) == 404
    assert status(lambda: api.create_branch("me/x", branch="refs/pr/1")) == 400
    assert status(lambda: api.delete_branch("me/x", branch="main")) == 403
    upload = {"repo_id": "me/x", "path_or_fileobj": b"1", "path_in_repo": "a.txt"}
    assert status(lambda: api.upload_file(**upload, revision="v1")) == 404  # a tag is no branch


# ---------------------------------------------------------------------------------------------- cards


@pytest.mark.skipif(
    version("huggingface_hub").startswith("1."), reason="it asks huggingface.co, whatever HF_ENDPOINT is"
)
def test_card(loopback_hub: LoopbackHub) -> None:
    """The client asks validate-yaml before it uploads anything."""
    loopback_hub.api().create_repo("me/x")
    program = "from huggingface_hub import ModelCard; print(ModelCard({card!r}).push_to_hub('me/x').oid)"
    oid = run_python(loopback_hub, program.format(card=CARD)).strip()
    assert loopback_hub.api().model_info("me/x").sha == oid
    bad = {"repo_id": "me/x", "path_or_fileobj": b"---\nlicense: [\n---\n", "path_in_repo": "README.md"}
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        loopback_hub.api().upload_file(**bad)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        loopback_hub.api().upload_file(**bad | {"path_or_fileobj": b"# no metadata"})


def test_card_errors() -> None:
    result = "{task: {type: t}, dataset: {type: d, name: D}, metrics: [{type: accuracy, value: 0.9}]}"
    index = "---\nmodel-index:\n- name: m\n  results: [%s]\n---\n"
    assert card_errors(index % result) == []
    assert card_errors(index % result.replace(", name: D", "")) == [
        '"model-index[0].results[0].dataset.name" is required'
    ]
    assert card_errors(index % result.replace(", value: 0.9", "")) == [
        '"model-index[0].results[0].metrics[0].value" is required'
    ]
    assert card_errors("---\nlicense: MIT License\n---\n")
    assert card_errors("---\ntags: {a: 1}\n---\n") == ['"tags" must be a string or a list of strings']
    assert card_errors("---\n- a list\n---\n") == ["YAML metadata must be a mapping"]


# ---------------------------------------------------------------------------------------------- data sets, models


@pytest.mark.parametrize("name", ["ylecun/mnist", "uoft-cs/cifar10", "stanfordnlp/imdb"])
def test_load_dataset(published_hub: LoopbackHub, published_seed: HubSeed, name: str) -> None:
    """The real `datasets` reads the seeds' parquet with its features, from an empty cache and without a token."""
    program = f"""
from datasets import load_dataset
test = load_dataset({name!r}, split="test")
print(sorted(test.features), test.features["label"].num_classes, type(test[0][test.column_names[0]]).__name__)
"""
    expected = {
        "ylecun/mnist": "['image', 'label'] 10 PngImageFile",
        "uoft-cs/cifar10": f"['img', 'label'] 10 {'JpegImageFile' if published_seed.real else 'PngImageFile'}",
        "stanfordnlp/imdb": "['label', 'text'] 2 str",
    }
    assert run_python(published_hub, program, token=None).strip() == expected[name]


@pytest.mark.slow
def test_push_dataset_and_model(loopback_hub: LoopbackHub) -> None:
    """`push_to_hub` and `from_pretrained` of the libraries on top."""
    program = """
import torch
from datasets import Dataset, load_dataset
from transformers import BertConfig, BertModel
Dataset.from_dict({"a": [1, 2]}).push_to_hub("me/d", private=True)
assert load_dataset("me/d", split="train")["a"][:] == [1, 2]
sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
model = BertModel(BertConfig(**sizes))
model.push_to_hub("me/m")
again = BertModel.from_pretrained("me/m")
assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
"""
    run_python(loopback_hub, program)
    assert loopback_hub.api().list_repo_files("me/m") == [
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_seed_is_never_written(tmp_path: Path) -> None:
    """What is pushed onto a seed lies in the root; the seed's own commit stays."""
    seed = tmp_path / "seed"
    (seed / "models/me/s").mkdir(parents=True)
    (seed / "models/me/s/a.txt").write_text("old")
    with LoopbackHub(tmp_path / "root", seeds=[seed]) as hub:
        api = hub.api()
        first = api.model_info("me/s").sha
        api.upload_file(repo_id="me/s", path_or_fileobj=b"new", path_in_repo="a.txt")
        old = api.hf_hub_download("me/s", "a.txt", revision=first, cache_dir=tmp_path / "cache")
        assert Path(old).read_text() == "old"
        assert status(lambda: api.delete_repo("me/s")) == 403
    assert (seed / "models/me/s/a.txt").read_text() == "old"
    assert (tmp_path / "root/models/me/s/a.txt").read_text() == "new"


def test_plain_folder_in_root(tmp_path: Path) -> None:
    """A folder put into the root by hand is a repository; its first content stays resolvable after a push."""
    (tmp_path / "models/me/s").mkdir(parents=True)
    (tmp_path / "models/me/s/a.txt").write_text("old")
    with LoopbackHub(tmp_path) as hub:
        first = hub.api().model_info("me/s").sha
        hub.api().upload_file(repo_id="me/s", path_or_fileobj=b"new", path_in_repo="a.txt")
        assert http(hub, "GET", f"/me/s/resolve/{first}/a.txt").text == "old"
        assert http(hub, "GET", "/me/s/resolve/main/a.txt").text == "new"


# ---------------------------------------------------------------------------------------------- by hand, and faults


def test_by_hand(tmp_path: Path) -> None:
    """`--root` on a read-only folder serves it and leaves it alone."""
    seed = tmp_path / "seed"
    (seed / "datasets/me/d").mkdir(parents=True)
    (seed / "datasets/me/d/a.txt").write_text("1")
    for path in (*seed.rglob("*"), seed):
        path.chmod(0o555 if path.is_dir() else 0o444)
    command = [sys.executable, "-m", "tests.loopback_hub", "--root", str(seed)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[0].removeprefix("HF_ENDPOINT=")
        api = HfApi(endpoint=url, token=LoopbackHub.token)
        created = api.create_repo("me/x").repo_id
        read = api.file_exists("me/d", "a.txt", repo_type="dataset")
        server.terminate()
        assert server.wait(10) == 0
    assert (created, read) == ("me/x", True)
    assert sorted(path.name for path in seed.rglob("*")) == ["a.txt", "d", "datasets", "me"]


def test_faults(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    """One hook sees each request: here it refuses once, then breaks a body off; the client recovers from both."""
    api = loopback_hub.api()
    api.create_repo("me/x")
    api.upload_file(repo_id="me/x", path_or_fileobj=WEIGHTS, path_in_repo="w.bin")
    left = ["429", "broken"]

    def faults(request: Request, respond: Respond) -> Response:
        response = respond(request)
        if request.method == "GET" and left:
            if left.pop(0) == "429":
                return Response(429, {"Retry-After": "0"})
            response.headers["Content-Length"] = str(len(response.body))
            response.body = response.body[:1000]
        return response

    loopback_hub.faults = faults
    path = api.hf_hub_download("me/x", "w.bin", cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == WEIGHTS
    assert left == []
    assert [code for method, _, code in loopback_hub.requests if method == "GET"] == [429, 200, 200]


def test_stopped_hub_is_gone(tmp_path: Path) -> None:
    """Not even connections kept alive are answered any more: this one sees its end."""
    with LoopbackHub(tmp_path) as hub:
        connection = HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
        connection.request("GET", "/api/models/me/x")
        assert connection.getresponse().read()
        hub.stop()
        assert connection.sock.recv(1) == b""
        connection.close()
        with pytest.raises(ConnectionRefusedError):
            connection.request("GET", "/api/models/me/x")

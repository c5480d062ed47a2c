"""Results of the benchmark: its tasks, the file of a model, and the Hub's table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard, parse_eval_result_entries
from huggingface_hub.errors import HfHubHTTPError

from selfmod_hf import LLCResult, estimate_rlct
from selfmod_hf.cli import main
from selfmod_hf.data import get_task, load_images, make_task
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.data_settings import DataSettings
from selfmod_hf.experiments.eval_task_settings import with_eval_task
from selfmod_hf.experiments.rlct_push import RLCTPushSettings
from selfmod_hf.experiments.rlct_settings import RLCTSettings
from selfmod_hf.hub.eval_results import benchmark_file, eval_result_file, eval_tasks, push_benchmark
from selfmod_hf.hub.push_rlct import card_with_rlct, check_repository, push_rlct
from selfmod_hf.hub.saved import SavedNetwork
from selfmod_hf.hub.upload import Target, push_model
from selfmod_hf.models import load_model

DIGITS = eval_tasks()["digits-theory-all-v1"]


@pytest.fixture
def result(small_model):
    """An estimate of a network by the settings of a task, as far as its record says."""
    found = LLCResult.load(small_model / "rlct.json")
    fixed = DIGITS.settings
    record = {name: fixed[name] for name in fixed if hasattr(found.settings, name)}
    settings = replace(
        found.settings,
        **record,
        preset="theory with batch_size",
        nbeta_rule=fixed["nbeta"],
        options=fixed["sampler_options"],
        compute_dtype=fixed["dtype"],
        num_samples=DIGITS.rows,
        data="digits, train",
    )
    return replace(found, status="ok", llc=7.5, standard_error=0.25, settings=settings)


def test_every_task_is_in_both_files():
    values = yaml.safe_load(benchmark_file("eval.yaml"))
    assert [task["id"] for task in values["tasks"]] == list(eval_tasks())
    assert with_eval_task(DataSettings(task="digits"), RLCTSettings())[0] is None


@pytest.mark.parametrize("name", eval_tasks())
def test_an_estimate_by_a_task_has_its_settings(name, small_model):
    """Those that no flag sets too: the record of an estimate with the task's keywords has them all."""
    task, data, settings = with_eval_task(DataSettings(task=name), RLCTSettings(device="cpu"))
    keywords = settings.keywords(None, data.task_spec().name, None)
    keywords |= {"num_draws": 4, "num_burnin_steps": 2, "data": data.task_spec().train_data}
    images = load_images(make_task("digits")).train
    (found,) = estimate_rlct([load_model(small_model)], images, **keywords)
    few = {**task.settings, "num_draws": 4, "num_burnin_steps": 2}
    counts = torch.bincount(images.labels).tolist()
    found = replace(found, status="ok")
    replace(task, settings=few, class_counts=counts).check_result(found)
    with pytest.raises(InputError, match=f"{name} has num_draws 4000; here it was 4"):
        task.check_result(found)


def by_cost(name: str) -> Any:
    """Estimates of the theory take many more draws than those of the paper."""
    return pytest.param(name, marks=pytest.mark.weekly if "theory" in name else pytest.mark.slow)


@pytest.mark.parametrize("name", [by_cost(name) for name in eval_tasks() if name.startswith("digits")])
def test_a_network_of_the_recipe_of_digits_can_enter(name, tmp_path):
    assert main(["train", "--task=digits", f"--output_dir={tmp_path}", "--quiet"]) == 0
    assert main(["rlct", f"--model={tmp_path}", f"--task={name}", "--quiet"]) == 0
    eval_tasks()[name].check_result(LLCResult.load(tmp_path / "rlct.json"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_draws": 7}, "num_draws=7: `task` digits-theory-all-v1 fixes it at 4000"),
        ({"parameters": ["fc.*"]}, "parameters=['fc.*']: `task` digits-theory-all-v1 fixes it at its default"),
        ({"minimize": False}, "minimize=False: `task` digits-theory-all-v1 fixes it at True"),
        ({"heads": ["h.0:0"]}, "heads=['h.0:0']: `task` digits-theory-all-v1 fixes it at its default"),
    ],
)
def test_a_setting_that_a_task_fixes_is_rejected(settings, message):
    with pytest.raises(InputError) as caught:
        with_eval_task(DataSettings(task=DIGITS.id), RLCTSettings(**settings))
    assert str(caught.value) == message


def test_the_same_setting_and_the_device_are_allowed():
    settings = RLCTSettings(num_draws=4000, memory_gib=1.0, nbeta="n/log n")
    _, _, found = with_eval_task(DataSettings(task=DIGITS.id), settings)
    assert (found.memory_gib, found.num_draws, found.sampler) == (1.0, 4000, "sghmc")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--task=digits-theory-all-v1", "--num_draws=7"],
            "--num_draws=7: --task digits-theory-all-v1 fixes it at 4000",
        ),
        (
            ["--task=digits-theory-all-v1", "--max_train_samples=9"],
            "--max_train_samples=9: --task digits-theory-all-v1",
        ),
        (
            ["--task=digits-theory-all-v1", "--calibrate"],
            "--calibrate=True: --task digits-theory-all-v1 fixes",
        ),
        (
            ["--task=digits", "--push_result", "--repo=me/net", "--calibrate"],
            "--push_result=True: allowed without",
        ),
        (
            ["--task=digits", "--push_eval_result"],
            "--push_eval_result=True: allowed with a --task of the benchmark: digits-theory-all-v1, digits-paper-all",
        ),
        (["--task=digits", "--push_result"], "--repo=None: --push_result needs the repository of the network"),
        (["--task=digits", "--repo=me/net"], "--repo='me/net': allowed with --push_result and --push_eval_result"),
    ],
)
def test_contradictions_are_one_line(small_model, capsys, flags, message):
    assert main(["rlct", f"--model={small_model}", *flags, "--quiet"]) == 2
    assert f"selfmod: error: {message}" in capsys.readouterr().err


def test_a_result_of_another_status_or_size_is_no_entry(result):
    with pytest.raises(InputError, match="only results of status ok are entries; this one is not_converged"):
        DIGITS.check_result(replace(result, status="not_converged"))


@pytest.mark.parametrize(
    ("name", "value", "there"),
    [
        ("num_samples", 10, 1437),
        ("sampler", "sgld", "sghmc"),
        ("localization", 100.0, 10.0),
        ("control_variate", False, True),
        ("minimize", False, True),
        ("seed", 1, 0),
        ("parameters", ("network.classifier.bias",), None),
    ],
)
def test_a_result_of_other_settings_is_no_entry(result, name, value, there):
    DIGITS.check_result(result)
    other = replace(result, settings=replace(result.settings, **{name: value}))
    with pytest.raises(InputError) as caught:
        DIGITS.check_result(other)
    assert str(caught.value).endswith(f": digits-theory-all-v1 has {name} {there}; here it was {value}")


def test_other_data_than_the_tasks_are_named():
    images = load_images(make_task("digits")).train
    DIGITS.check_data(images)
    with pytest.raises(InputError, match=r"^task='digits-theory-all-v1': the data set has changed"):
        DIGITS.check_data(images.first(1000))


def test_an_entry_is_in_the_table_of_the_hub(loopback_hub, small_model, result):
    api = loopback_hub.api()
    push_benchmark("me/rlct", api=api)
    push_model(api, small_model, Target("me/net"))
    content = eval_result_file(DIGITS, result, "me/net", benchmark="me/rlct", api=api)
    (entry,) = parse_eval_result_entries(yaml.safe_load(content))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("me/rlct", DIGITS.id, 7.5)
    assert entry.dataset_revision == api.dataset_info("me/rlct").sha
    assert entry.source_url == f"{loopback_hub.url}/me/net/blob/main/rlct.json"
    assert entry.notes.startswith("± 0.25 (standard error), ok, sghmc, selfmod_hf ")

    spec = get_task("digits")
    own = push_rlct(result, "me/net", spec, "image-classification", api=api, more={DIGITS.path: content}, into_own=True)
    assert not own.is_pull_request
    assert api.model_info("me/net", expand=["evalResults"]).eval_results == [entry]
    (row,) = api.get_dataset_leaderboard("me/rlct")
    assert (row.rank, row.model_id, row.value, row.pull_request) == (1, "me/net", 7.5, None)

    theirs = loopback_hub.api(loopback_hub.colleague_token)
    higher = replace(result, llc=9.0)
    content = eval_result_file(DIGITS, higher, "me/net", benchmark="me/rlct", api=theirs)
    pushed = push_rlct(
        higher, "me/net", spec, "image-classification", api=theirs, more={DIGITS.path: content}, into_own=True
    )
    assert pushed.is_pull_request
    assert [(row.value, row.pull_request) for row in api.get_dataset_leaderboard("me/rlct")] == [(9.0, 1), (7.5, None)]


def test_what_the_hub_does_not_have_is_named(loopback_hub, small_model, result):
    api = loopback_hub.api()
    spec = get_task("digits")
    with pytest.raises(InputError, match=r"^benchmark='me/rlct': no such data set on the Hub"):
        eval_result_file(DIGITS, result, "me/net", benchmark="me/rlct", api=api)
    with pytest.raises(InputError, match=r"^repo='me/net': no such repository of a model"):
        push_rlct(result, "me/net", spec, "image-classification", api=api)
    push_model(api, small_model, Target("me/net"))
    with pytest.raises(InputError, match=r"^repo='me/net': holds other weights than those of the estimate"):
        push_rlct(replace(result, weights_sha256="0" * 64), "me/net", spec, "image-classification", api=api)
    with pytest.raises(InputError, match=r"^repo='me/net': its weights cannot be compared"):
        push_rlct(replace(result, weights_sha256=None), "me/net", spec, "image-classification", api=api)
    api.create_repo("me/bin")
    api.upload_file(path_or_fileobj=b"1", path_in_repo="pytorch_model.bin", repo_id="me/bin")
    with pytest.raises(InputError, match=r"^repo='me/bin': holds no weights \(safetensors\) to compare"):
        push_rlct(result, "me/bin", spec, "image-classification", api=api)
    with pytest.raises(InputError, match=r"^repo='no id': allowed is user/name"):
        check_repository("no id", result.weights_sha256, api=api)
    with pytest.raises(InputError, match=r"^repo='me/net': a push needs a token of the Hub"):
        check_repository("me/net", result.weights_sha256, api=HfApi(loopback_hub.url, token=False))
    api.create_repo("me/empty", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="does not have a leaderboard"):
        api.get_dataset_leaderboard("me/empty")


def test_what_cannot_be_pushed_is_found_before_the_sampling(small_model, tmp_path):
    """There is no such repository, and none that could be reached."""
    flags = [f"--model={small_model}", "--task=digits-paper-all-v1", "--push_result", "--repo=me/nothing", "--quiet"]
    assert main(["rlct", *flags, f"--output_dir={tmp_path / 'out'}"]) == 2
    assert not (tmp_path / "out" / "rlct.json").exists()


def test_a_result_that_is_no_entry_is_pushed_without_one(loopback_hub, small_model, result):
    api = loopback_hub.api()
    push_model(api, small_model, Target("me/net"))
    push_benchmark("me/rlct", api=api)
    settings = RLCTPushSettings(push_result=True, push_eval_result=True, benchmark="me/rlct")
    saved = SavedNetwork(str(small_model))
    settings.check("me/net", saved, api=api)
    bad = replace(result, status="not_converged")
    pushed = settings.push(bad, "me/net", get_task("digits"), saved, DIGITS, api=api)
    assert "only results of status ok are entries" in pushed.without_entry
    assert {"rlct.json", "README.md"} <= set(api.list_repo_files("me/net"))
    assert api.model_info("me/net", expand=["evalResults"]).eval_results is None
    with pytest.raises(InputError, match="only results of status ok"):
        replace(settings, push_result=False).push(bad, "me/net", get_task("digits"), saved, DIGITS, api=api)
    with pytest.raises(InputError, match=r"^benchmark='me/other': no such data set"):
        replace(settings, benchmark="me/other").check("me/net", saved, api=api)


def test_a_metric_replaces_that_of_the_same_settings(result):
    card = "---\nlicense: mit\n---\n\n# A network\n\nWords of its owner.\n"
    spec = get_task("mnist")
    first = card_with_rlct(card, "me/net", result, spec, "image-classification")
    second = card_with_rlct(first, "me/net", replace(result, llc=8.0), spec, "image-classification")
    other = card_with_rlct(second, "me/net", replace(result, nbeta=3.0), spec, "image-classification")
    values = [entry.metric_value for entry in ModelCard(other).data.eval_results]
    assert values == [8.0, 7.5]
    assert "Words of its owner." in other
    assert ModelCard(other).data.license == "mit"

"""Results of the benchmark: its tasks, the file of a model, and the Hub's table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.errors import HfHubHTTPError

from selfmod_hf import LLCResult
from selfmod_hf.cli import main
from selfmod_hf.data import get_task
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.data_settings import DataSettings
from selfmod_hf.experiments.eval_task_settings import with_eval_task
from selfmod_hf.experiments.rlct_settings import RLCTSettings
from selfmod_hf.hub.eval_results import benchmark_file, eval_result_file, eval_tasks, push_benchmark
from selfmod_hf.hub.push_rlct import card_with_rlct, push_rlct
from selfmod_hf.hub.upload import Target, push_model

DIGITS = eval_tasks()["digits-theory-all-v1"]


@pytest.fixture
def result(small_model):
    return replace(LLCResult.load(small_model / "rlct.json"), status="ok", llc=7.5, standard_error=0.25)


def test_every_task_is_in_both_files_and_has_usable_settings():
    values = yaml.safe_load(benchmark_file("eval.yaml"))
    assert [task["id"] for task in values["tasks"]] == list(eval_tasks())
    for task in eval_tasks().values():
        found, data, settings = with_eval_task(DataSettings(task=task.id), RLCTSettings(device="cpu"))
        assert found is task
        assert data.task_spec().name == task.data["task"]
        keywords = settings.keywords(None, data.task, None)
        assert keywords["preset"].startswith(task.settings["rlct_preset"])
        fixed = set(task.settings) - {"rlct_preset", "dtype"}
        assert {name: keywords[name] for name in fixed} == {name: task.settings[name] for name in fixed}
    assert with_eval_task(DataSettings(task="digits"), RLCTSettings())[0] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_draws": 7}, "num_draws=7: `task` digits-theory-all-v1 fixes it at 4000"),
        ({"parameters": ["fc.*"]}, "parameters=['fc.*']: `task` digits-theory-all-v1 fixes it at its default"),
        ({"minimize": True}, "minimize=True: `task` digits-theory-all-v1 fixes it at its default"),
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
        (["--task=digits", "--push_eval_result"], "--push_eval_result=True: allowed with a --task of the benchmark"),
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
    few = replace(result.settings, num_samples=10)
    with pytest.raises(InputError, match="digits-theory-all-v1 has 1437 samples; here were 10"):
        DIGITS.check_result(replace(result, settings=few))


def test_an_entry_is_in_the_table_of_the_hub(loopback_hub, small_model, result):
    api = loopback_hub.api()
    push_benchmark("me/rlct", api=api)
    push_model(api, small_model, Target("me/net"))
    content = eval_result_file(DIGITS, result, "me/net", benchmark="me/rlct", api=api)
    (entry,) = parse_eval_result_entries(yaml.safe_load(content))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("me/rlct", DIGITS.id, 7.5)
    assert entry.dataset_revision == api.dataset_info("me/rlct").sha
    assert entry.source_url == f"{loopback_hub.url}/me/net/blob/main/rlct.json"
    assert entry.notes.startswith("± 0.25 (standard error), ok, sgld, selfmod_hf ")

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
    api.create_repo("me/empty", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="does not have a leaderboard"):
        api.get_dataset_leaderboard("me/empty")


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

"""A published RLCT, and a new estimate beside it."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from selfmod_hf.cli import main
from selfmod_hf.complexity import LLCResult
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.arms import make_arms
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.hub.agreement import compare_with_published
from selfmod_hf.hub.results import load_results
from selfmod_hf.hub.upload import Target, push_model
from selfmod_hf.reports.on_hub import push_sweep
from tests.hub.test_push import selfmod
from tests.reports.folders import write_study


@pytest.fixture
def estimate(small_model) -> LLCResult:
    return replace(LLCResult.load(small_model / "rlct.json"), llc=10.0, standard_error=0.3, status="ok")


def of_another_seed(estimate: LLCResult) -> LLCResult:
    return replace(estimate, settings=replace(estimate.settings, seed=estimate.settings.seed + 1))


@pytest.mark.parametrize(
    ("llc", "agrees", "text"),
    [
        (10.9, True, "agrees with the published 10.900 ± 0.400 (ok): 1.8"),
        (11.1, False, "DISAGREES"),
        (8.9, False, "2.2"),
    ],
)
def test_agreement_is_judged_by_both_errors(estimate, llc, agrees, text):
    there = replace(of_another_seed(estimate), llc=llc, standard_error=0.4)
    found = compare_with_published(estimate, LLCResult.from_dict(there.to_dict(), "rlct.json"))
    assert found.agrees is agrees
    assert text in found.text


def test_what_is_not_comparable_is_not_compared(estimate):
    other = replace(estimate, nbeta=1.0, settings=replace(estimate.settings, sampler="sghmc", seed=3))
    found = compare_with_published(estimate, other)
    assert found.agrees is None
    assert "nbeta" in found.text
    assert "sampler sgld here, sghmc there" in found.text
    assert "seed" not in found.text
    bad = compare_with_published(estimate, replace(estimate, status="not_at_minimum"))
    assert bad.agrees is None
    assert "not_at_minimum there" in bad.text


@pytest.mark.parametrize("llc", [10.0, 30.0])
@pytest.mark.parametrize("status", ["not_converged", "biased", "not_identified"])
@pytest.mark.parametrize("where", ["here", "there"])
def test_what_is_doubtful_neither_agrees_nor_disagrees(estimate, where, status, llc):
    ours, there = of_another_seed(estimate), replace(estimate, llc=llc)
    if where == "here":
        ours = replace(ours, status=status)
    else:
        there = replace(there, status=status)
    found = compare_with_published(ours, there)
    assert found.agrees is None
    assert found.text.startswith(f"neither agrees nor disagrees with the published {llc:.3f} ± 0.300 (")
    assert found.text.endswith(f": {status} {where}")


def test_what_has_not_converged_may_repeat_a_figure(estimate):
    short = replace(estimate, status="not_converged")
    assert compare_with_published(short, short).text.startswith("same seed: repeats the figure")
    other = compare_with_published(short, replace(short, llc=99.0))
    assert other.text.startswith("neither agrees nor disagrees")


def test_errors_add_up_by_their_squares(estimate):
    """.3 and .4 make .5; their sum, .7, would let 1.2 pass."""
    there = replace(of_another_seed(estimate), llc=11.2, standard_error=0.4)
    assert compare_with_published(estimate, there).agrees is False


def test_data_and_sampler_options_must_agree_where_both_are_known(estimate):
    other = replace(estimate.settings, seed=3, data="ylecun/mnist, train", options={"momentum": 0.5})
    found = compare_with_published(estimate, replace(estimate, settings=other))
    assert found.agrees is None
    assert "data digits, train here, ylecun/mnist, train there" in found.text
    assert "options {} here, {'momentum': 0.5} there" in found.text
    old = of_another_seed(estimate).to_dict()
    for name in ("data", "options", "parameters"):  # as a file from before they were kept
        del old["settings"][name]
    assert compare_with_published(estimate, LLCResult.from_dict(old, "rlct.json")).agrees


@pytest.mark.parametrize("name", ["control_variate", "minimize"])
def test_corrected_estimates_are_not_compared_with_uncorrected_ones(estimate, name):
    plain = of_another_seed(estimate).to_dict()
    del plain["settings"][name]  # as files from before it was kept: it was not used
    there = LLCResult.from_dict(plain, "rlct.json")
    assert compare_with_published(estimate, there).agrees
    ours = replace(estimate, llc=90.0, settings=replace(estimate.settings, **{name: True}))
    found = compare_with_published(ours, there)
    assert found.agrees is None
    assert f"{name} True here, False there" in found.text


def test_chains_that_continued_others_are_not_compared_with_those_from_w(estimate):
    there = replace(estimate, settings=replace(estimate.settings, seed=3, start="earlier rounds"))
    found = compare_with_published(estimate, LLCResult.from_dict(there.to_dict(), "rlct.json"))
    assert found.agrees is None
    assert "start w* here, earlier rounds there" in found.text


def test_a_file_from_before_the_data_were_kept(small_model, tmp_path):
    shutil.copytree(small_model, tmp_path, dirs_exist_ok=True)
    old = json.loads((tmp_path / "rlct.json").read_text())
    del old["settings"]["data"]
    (tmp_path / "rlct.json").write_text(json.dumps(old))
    assert LLCResult.load(tmp_path / "rlct.json").settings.data is None
    assert load_results(str(tmp_path)).loc[0, "rlct_data"] is None


def test_a_sweeps_table_has_every_setting(small_sweep):
    """Of each network what its own rlct.json has."""
    settings = LLCResult.load(small_sweep / "cells" / "h8-aw0-seed1" / "rlct.json").to_dict()["settings"]
    row = load_results(str(small_sweep)).iloc[0]
    names = ("data", "num_samples", "nbeta_rule", "compute_dtype", "options", "parameters", "num_burnin_steps", "seed")
    assert {name: row[f"rlct_{name}"] for name in names} == {name: settings[name] for name in names}
    assert (settings["data"], settings["num_samples"]) == ("digits, train", 200)


def test_arms_of_other_data_have_no_common_number_of_samples(tmp_path):
    """Only the base's are recorded."""
    named = {"baseline": {"aux_weight": 0.0}, "few": {"aux_weight": 0.0, "max_train_samples": 60}}
    SweepFolder(write_study(tmp_path, make_arms({}, named), [1], epochs=2)).write_tables()
    table = load_results(str(tmp_path)).set_index("arm")
    assert table["rlct_num_samples"].to_dict() == {"baseline": 1437, "few": None}
    assert table["rlct_data"].to_dict() == {"baseline": "digits, train", "few": None}
    assert table["rlct_num_draws"].tolist() == [40, 40]


def test_the_same_random_numbers_are_no_test(estimate):
    found = compare_with_published(estimate, estimate)
    assert found.agrees is None
    assert found.text.startswith("same seed: repeats the figure, is no test of it (published 10.000 ± 0.300 (ok))")
    assert compare_with_published(estimate, replace(estimate, llc=99.0)).agrees is False
    other = replace(estimate, settings=replace(estimate.settings, member=7))  # another network of a sweep
    assert compare_with_published(estimate, other).agrees


def test_without_a_standard_error_nothing_is_compared(estimate):
    there = of_another_seed(replace(estimate, standard_error=float("nan")))
    found = compare_with_published(estimate, there)
    assert (found.agrees, found.text) == (None, "not comparable with the published 10.000 (ok): no standard error")


def test_local_folders(small_sweep, small_model, tmp_path):
    assert list(load_results(str(small_sweep))["network"]) == [
        "h8-aw0-seed1", "h8-aw0-seed2", "h8-aw10-seed1", "h8-aw10-seed2"
    ]  # fmt: skip
    assert load_results(str(small_model)).loc[0, "rlct"] == LLCResult.load(small_model / "rlct.json").llc
    with pytest.raises(InputError, match="holds neither"):
        load_results(str(tmp_path))


@pytest.mark.slow
def test_a_published_figure_is_checked(loopback_hub, small_model, tmp_path):
    """With nothing typed but the name: the published settings and data, and other random numbers."""
    push_model(loopback_hub.api(), small_model, Target("me/net"))

    def check(*flags: str) -> list[str]:
        done = selfmod(loopback_hub, "rlct", "--model=me/net", *flags, f"--output_dir={tmp_path}")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    lines = check()
    settings = "sgld, step size 0.0001, localization 100, nβ = 82.07, 4 chains x 60"
    assert lines[0] == f"taken from me/net: {settings}; data digits, train; seed 1"
    assert re.match(r"published +neither agrees nor disagrees with the published .*: not_converged here", lines[-1])
    ours, there = LLCResult.load(tmp_path / "rlct.json"), LLCResult.load(small_model / "rlct.json")
    assert ours.settings.preset == "as published (paper (mnist) with num_draws)"
    same = {"seed": there.settings.seed, "preset": there.settings.preset, "nbeta_rule": there.settings.nbeta_rule}
    assert replace(ours.settings, **same) == there.settings
    assert ours.nbeta == there.nbeta
    assert "same seed: repeats the figure, is no test of it" in check("--seed=0", "--quiet")[-1]
    assert np.array_equal(LLCResult.load(tmp_path / "rlct.json").loss_trace, there.loss_trace)
    typed = check("--num_draws=50", "--seed=5")  # what was typed goes before what was published
    assert typed[0] == "taken from me/net: data digits, train; seed 5"
    assert "100" not in typed[-1]
    assert LLCResult.load(tmp_path / "rlct.json").settings.preset == "paper (mnist) with num_draws"
    assert main(["rlct", "--model=nowhere", "--quiet"]) == 2


def test_a_figure_of_a_published_sweep_is_checked(loopback_hub, small_sweep, tmp_path):
    """The README's command: the data are those of the sweep's run.json, with their limits."""
    push_sweep(loopback_hub.api(), small_sweep, Target("me/digits"))
    flags = ("--model=me/digits", "--subfolder=h8-aw10-seed2", "--seed=1", f"--output_dir={tmp_path}")
    done = selfmod(loopback_hub, "rlct", *flags)
    assert done.returncode == 0, done.stderr
    assert "2 chains x 40; data digits, train; seed 1" in done.stdout.splitlines()[0]
    # of the same quantity, whatever the status of so small a network
    assert re.search("nor disagrees|standard errors of the diff|which is no RLCT", done.stdout.splitlines()[-1])
    assert LLCResult.load(tmp_path / "rlct.json").settings.num_samples == 200


@pytest.mark.slow
def test_the_data_of_a_published_figure_are_found(loopback_hub, tmp_path):
    """A data set of the user's own: id, columns, number of samples, size of images."""
    folder = tmp_path / "net"
    data = ("--dataset_name=ylecun/mnist", "--max_train_samples=150", "--max_test_samples=50", "--image_size=14")
    for argv in (
        ("train", *data, "--num_train_epochs=1", "--backbone=mlp", "--hidden_sizes=8", f"--output_dir={folder}"),
        ("rlct", *data, f"--model={folder}", "--num_draws=20", "--num_chains=2"),
    ):
        done = selfmod(loopback_hub, *argv, "--quiet")
        assert done.returncode == 0, done.stderr
    push_model(loopback_hub.api(), folder, Target("me/net"))
    done = selfmod(loopback_hub, "rlct", "--model=me/net", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data ylecun/mnist, train; seed 1" in done.stdout.splitlines()[0]
    assert "disagrees with the published" in done.stdout.splitlines()[-1].lower()


def test_a_file_of_the_needed_entries_alone_is_read(tmp_path):
    settings = {
        "sampler": "sgld", "step_size": 1e-4, "localization": 100.0, "batch_size": 512, "num_chains": 4,
        "num_draws": 1000, "num_burnin_steps": 500, "seed": 0, "preset": None,
    }  # fmt: skip
    entries = {"llc": 1.0, "standard_error": 0.1, "status": "ok", "status_reason": "", "nbeta": 80.0}
    entries |= {"rhat": 1.0, "ess": 100.0, "init_loss": 0.1, "settings": settings}
    (tmp_path / "rlct.json").write_text(json.dumps(entries))
    table = load_results(tmp_path)
    assert table["rlct"].tolist() == [1.0]
    assert table["rlct_num_samples"].tolist() == [None]
    assert table["rlct_num_draws"].tolist() == [1000]

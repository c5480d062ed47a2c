"""A published RLCT, and a new estimate beside it."""

import json
import shutil
from dataclasses import replace

import pytest

from selfmod_hf.cli import main
from selfmod_hf.complexity import LLCResult
from selfmod_hf.errors import InputError
from selfmod_hf.hub.results import compare_with_published, load_results
from selfmod_hf.hub.upload import Target, push_model
from tests.hub.test_push import selfmod


@pytest.fixture
def estimate(small_model) -> LLCResult:
    return replace(LLCResult.load(small_model / "rlct.json"), llc=10.0, standard_error=0.3, status="ok")


@pytest.mark.parametrize(
    ("llc", "agrees", "text"),
    [
        (10.9, True, "agrees with the published 10.900 ± 0.400 (ok): 1.8"),
        (11.1, False, "DISAGREES"),
        (8.9, False, "2.2"),
    ],
)
def test_agreement_is_judged_by_both_errors(estimate, llc, agrees, text):
    there = replace(estimate, llc=llc, standard_error=0.4).to_dict()
    found = compare_with_published(estimate, json.loads(json.dumps(there)))
    assert found.agrees is agrees
    assert text in found.text


def test_what_is_not_comparable_is_not_compared(estimate):
    other = replace(estimate, nbeta=1.0, settings=replace(estimate.settings, sampler="sghmc", seed=3))
    found = compare_with_published(estimate, other.to_dict())
    assert found.agrees is None
    assert "nbeta" in found.text
    assert "sampler sgld here, sghmc there" in found.text
    assert "seed" not in found.text
    bad = compare_with_published(estimate, replace(estimate, status="not_at_minimum").to_dict())
    assert bad.agrees is None
    assert "not_at_minimum there" in bad.text


def test_data_and_sampler_options_must_agree_where_both_are_known(estimate):
    other = replace(estimate.settings, seed=3, data="ylecun/mnist, train", options={"momentum": 0.5})
    found = compare_with_published(estimate, replace(estimate, settings=other).to_dict())
    assert found.agrees is None
    assert "data digits, train here, ylecun/mnist, train there" in found.text
    assert "options {} here, {'momentum': 0.5} there" in found.text
    old = replace(estimate, settings=replace(estimate.settings, seed=3)).to_dict()
    for name in ("data", "options", "parameters"):  # as a file from before they were kept
        del old["settings"][name]
    assert compare_with_published(estimate, old).agrees


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


def test_local_folders(small_sweep, small_model, tmp_path):
    assert list(load_results(str(small_sweep))["network"]) == [
        "h8-aw0-seed1", "h8-aw0-seed2", "h8-aw10-seed1", "h8-aw10-seed2"
    ]  # fmt: skip
    assert load_results(str(small_model)).loc[0, "rlct"] == LLCResult.load(small_model / "rlct.json").llc
    with pytest.raises(InputError, match="holds neither"):
        load_results(str(tmp_path))


def test_a_published_figure_is_checked(loopback_hub, small_model, tmp_path):
    """The same seed gives the same number; the command says that it agrees."""
    push_model(loopback_hub.api(), small_model, Target("me/net"))
    done = selfmod(loopback_hub, "rlct", "--model=me/net", "--num_draws=60", "--quiet", f"--output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "agrees with the published" in done.stdout.splitlines()[-1]
    assert "0.0 standard errors" in done.stdout.splitlines()[-1]
    assert main(["rlct", "--model=nowhere", "--quiet"]) == 2

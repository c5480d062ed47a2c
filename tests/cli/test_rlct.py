"""`selfmod rlct` on networks trained here, and the callback that follows the RLCT while training."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from selfmod_hf.cli import main
from selfmod_hf.complexity import LLCResult
from selfmod_hf.hub.agreement import compare_with_published
from selfmod_hf.hub.model_folder import write_model_card
from selfmod_hf.hub.results import load_results
from selfmod_hf.hub.saved import SavedNetwork
from selfmod_hf.models import SelfModelingForImageClassification
from tests import warm

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "estimate_rlct.py")
QUICK = ["--task", "digits", "--num_draws", "60", "--quiet"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    flags = ["--output_dir", str(folder), "--num_train_epochs", "4", "--save_total_limit", "9", "--quiet"]
    assert main(["train", "--task", "digits", *flags]) == 0
    return folder


def test_an_old_spelling_is_accepted_with_a_line_that_names_the_new_one(run_folder, tmp_path, capsys):
    flags = ["--preset=theory", *QUICK[:2], "--num_draws=4", "--quiet", f"--output_dir={tmp_path}"]
    assert main(["rlct", "--model", str(run_folder), *flags]) == 0
    assert capsys.readouterr().err == "selfmod: --preset is an old spelling of --rlct_preset\n"
    assert LLCResult.load(tmp_path / "rlct.json").settings.preset == "theory with num_draws"


def test_writes_estimate_traces_and_plot(run_folder, tmp_path, capsys):
    assert main(["rlct", "--model", str(run_folder), *QUICK, "--output_dir", str(tmp_path)]) == 0
    result = LLCResult.load(tmp_path / "rlct.json")
    assert result.loss_trace.shape == (4, 60)
    assert (tmp_path / "rlct.png").read_bytes().startswith(b"\x89PNG")
    assert result.nbeta == pytest.approx(512 / np.log(512))
    assert result.settings.preset == "paper (mnist) with num_draws"
    assert f"RLCT                  {result.llc:.3f}" in capsys.readouterr().out
    pruned = SelfModelingForImageClassification.from_pretrained(run_folder).prune()
    assert result.settings.num_parameters == pruned.num_parameters()


def test_the_same_command_gives_the_same_bits(run_folder, tmp_path):
    for name in ("a", "b"):
        assert main(["rlct", "--model", str(run_folder), *QUICK, "--output_dir", str(tmp_path / name)]) == 0
    first, second = (LLCResult.load(tmp_path / name / "rlct.json") for name in ("a", "b"))
    assert np.array_equal(first.loss_trace, second.loss_trace)


@pytest.mark.slow
def test_a_killed_command_goes_on_with_the_same_bits(run_folder, tmp_path):
    state = tmp_path / "state"
    flags = ["--model", str(run_folder), *QUICK[:2], "--num_draws=800", "--quiet"]
    resumed = [*flags, f"--resume_from={state}", f"--output_dir={tmp_path / 'resumed'}"]
    command = warm.start([SCRIPT, *resumed])
    while not list(state.glob("*.safetensors")):
        assert command.is_alive()
        time.sleep(0.02)
    command.kill()
    command.join()
    assert command.exitcode == -9
    assert not (tmp_path / "resumed" / "rlct.json").exists()
    assert main(["rlct", *resumed]) == 0
    assert not state.exists()
    assert main(["rlct", *flags, f"--resume_from={state}", f"--output_dir={tmp_path / 'whole'}"]) == 0
    first, second = (LLCResult.load(tmp_path / name / "rlct.json") for name in ("resumed", "whole"))
    assert np.array_equal(first.loss_trace, second.loss_trace)
    assert first.settings == second.settings


def test_the_rlct_of_a_part_is_told_apart(run_folder, tmp_path, capsys):
    """In the table, in rlct.json, on the card, and where it is compared with one of the whole network."""
    folder = shutil.copytree(run_folder, tmp_path / "net")
    assert main(["rlct", "--model", str(folder), *QUICK]) == 0
    whole = LLCResult.load(folder / "rlct.json")
    assert (whole.settings.data, whole.settings.parameters) == ("digits, train", None)
    assert "data                  digits, train, 1437 samples" in capsys.readouterr().out
    assert main(["rlct", "--model", str(folder), *QUICK, "--parameters", "network.classifier.*"]) == 0
    part, names = LLCResult.load(folder / "rlct.json"), "network.classifier.weight, network.classifier.bias"
    assert f"of                    the parameters {names} alone" in capsys.readouterr().out
    found = compare_with_published(replace(part, settings=replace(part.settings, seed=1)), whole)
    assert found.agrees is None
    assert f"parameters {names} here, all there" in found.text

    write_model_card(folder, "me/net")
    card = (folder / "README.md").read_text()
    assert f"(standard error), of the parameters {names} alone |" in card
    assert "not of the whole network" in card
    (metric,) = [r for r in ModelCard(card).data.eval_results if r.metric_type == "rlct"]
    assert metric.metric_args["parameters"] == names.split(", ")
    assert (metric.metric_args["data"], metric.metric_args["options"]) == ("digits, train", {})
    row = load_results(str(folder)).loc[0]
    assert (row["rlct_parameters"], row["rlct_data"]) == (names.split(", "), "digits, train")


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(run_folder, tmp_path):
    flags = ["--model", str(run_folder), *QUICK, "--output_dir"]
    for name, start in (("one", warm.run), ("two", warm.run_two)):
        done = start([SCRIPT, *flags, tmp_path / name])
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("RLCT  ") == 1
    one, two = (LLCResult.load(tmp_path / name / "rlct.json") for name in ("one", "two"))
    np.testing.assert_allclose(one.loss_trace, two.loss_trace, rtol=1e-3)
    assert one.llc == pytest.approx(two.llc, rel=1e-3)


def test_checkpoints_of_a_run(run_folder, tmp_path, capsys):
    assert main(["rlct", "--checkpoints", str(run_folder), *QUICK, "--output_dir", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "rlct_checkpoints.json").read_text())
    assert [row["step"] for row in rows] == [23, 46, 69, 92]
    assert capsys.readouterr().out.count("\n") == 6
    one = tmp_path / "one"
    flags = ["--model", f"{run_folder}/checkpoint-46", *QUICK, "--output_dir", str(one)]
    assert main(["rlct", *flags]) == 0
    assert rows[1]["llc"] == pytest.approx(LLCResult.load(one / "rlct.json").llc, rel=1e-3)


def test_checkpoints_of_a_run_that_is_not_at_its_end_name_their_data(run_folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(run_folder / "checkpoint-46", run / "checkpoint-46")
    assert main(["rlct", "--checkpoints", str(run), "--num_draws", "4", "--quiet"]) == 0
    assert LLCResult.load(run / "checkpoint-46" / "rlct.json").settings.data == "digits, train"


def test_other_folders_beside_the_checkpoints_are_passed_over(run_folder, tmp_path, capsys):
    """One that a killed run left half-written, and one that a person named."""
    run = tmp_path / "run"
    for step in ("23", "46"):
        shutil.copytree(run_folder / f"checkpoint-{step}", run / f"checkpoint-{step}")
    shutil.copytree(run_folder / "checkpoint-46", run / "checkpoint-best")
    (run / "checkpoint-69").mkdir()
    (run / "checkpoint-69" / "config.json").write_text("{}")
    assert main(["rlct", "--checkpoints", str(run), *QUICK]) == 0
    rows = json.loads((run / "rlct_checkpoints.json").read_text())
    assert [row["step"] for row in rows] == [23, 46]
    for step in ("23", "46"):
        shutil.rmtree(run / f"checkpoint-{step}")
    capsys.readouterr()
    assert main(["rlct", "--checkpoints", str(run), *QUICK]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfmod: error")]
    assert "no folder checkpoint-<step> in it that was written to its end" in line


@pytest.mark.parametrize(
    ("sampler", "preset", "batch_size"), [("preconditioned", "theory", 512), ("mala", "paper", 600)]
)
def test_a_sampler_brings_the_settings_that_no_preset_fits(run_folder, tmp_path, sampler, preset, batch_size):
    flags = ["--sampler", sampler, "--rlct_preset", preset, "--num_draws", "4", "--quiet"]
    part = ["--parameters", "network.classifier.bias", "--max_train_samples", "600", "--output_dir", str(tmp_path)]
    assert main(["rlct", "--model", str(run_folder), *flags, *part]) == 0
    settings = LLCResult.load(tmp_path / "rlct.json").settings
    assert (settings.sampler, settings.batch_size) == (sampler, batch_size)
    assert settings.step_size > 0.01
    assert settings.preset.endswith("step_size")  # not the preset's


@pytest.mark.slow
def test_calibrate_chooses_a_cell(run_folder, tmp_path, capsys):
    few = ["--max_train_samples=300", "--num_chains=2"]
    flags = ["--model", str(run_folder), *QUICK, *few, "--calibrate", "--output_dir", str(tmp_path)]
    assert main(["rlct", *flags]) == 0
    found = json.loads((tmp_path / "rlct_calibration.json").read_text())
    (chosen,) = [row for row in found["table"] if row["chosen"]]
    assert (chosen["step_size"], chosen["localization"]) == (found["step_size"], found["localization"])
    assert found["reason"] in capsys.readouterr().out
    assert (tmp_path / "rlct_calibration.png").is_file()
    settings = json.loads((tmp_path / "rlct.json").read_text())["settings"]
    assert settings["sampler"] == found["sampler"] != "sgld"
    assert settings["preset"].endswith("sampler, step_size")  # not the preset's
    assert main(["rlct", *flags, "--step_size", "1e-4", "--sampler", "sgld"]) == 0
    found = json.loads((tmp_path / "rlct_calibration.json").read_text())
    assert ({row["step_size"] for row in found["table"]}, found["sampler"]) == ({1e-4}, "sgld")


def test_a_calibration_in_bfloat16_has_no_trial(run_folder, tmp_path, capsys):
    few = ["--max_train_samples=300", "--num_chains=2", "--dtype=bfloat16"]
    assert main(["rlct", "--model", str(run_folder), *QUICK, *few, "--calibrate", "--output_dir", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "rlct_calibration.json").read_text())
    assert {row["sampler"] for row in found["table"]} == {"sghmc"}
    assert "no trial of 'preconditioned': it does not take dtype=torch.bfloat16" in capsys.readouterr().out


def test_a_network_is_measured_on_the_data_it_was_trained_on(run_folder, small_sweep, tmp_path, capsys):
    """As its run.json has them, or its sweep's (200 samples); what is typed goes before."""
    cell = small_sweep / "cells" / "h8-aw10-seed1"
    for folder, typed, samples in ((run_folder, [], 1437), (cell, [], 200), (cell, ["--max_train_samples=90"], 90)):
        flags = ["--model", str(folder), "--num_draws", "4", "--output_dir", str(tmp_path), *typed]
        assert main(["rlct", *flags]) == 0
        assert "data digits, train" in capsys.readouterr().out
        assert LLCResult.load(tmp_path / "rlct.json").settings.num_samples == samples


def test_an_estimate_of_a_sweeps_network_leaves_the_sweep_as_it_is(small_sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = small_sweep / "cells" / "h8-aw10-seed1"
    before = (cell / "rlct.json").read_bytes()
    assert main(["rlct", "--model", str(cell), "--num_draws", "4", "--quiet"]) == 0
    assert (cell / "rlct.json").read_bytes() == before
    assert (tmp_path / f"runs/rlct/{small_sweep.name}--h8-aw10-seed1/rlct.json").is_file()


def test_images_are_normalized_as_in_training(small_model, tmp_path):
    folder, losses = tmp_path / "model", []
    shutil.copytree(small_model, folder)
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    for mean in (0.5, 0.25):
        (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"image_mean": [mean]}))
        assert main(["rlct", "--model", str(folder), "--num_draws", "4", "--quiet"]) == 0
        losses.append(LLCResult.load(folder / "rlct.json").init_loss)
    assert losses[0] == pytest.approx(LLCResult.load(small_model / "rlct.json").init_loss)
    assert losses[1] > losses[0] + 0.01


def test_a_typed_split_is_not_cut_to_the_size_of_the_runs_own(small_model):
    saved = SavedNetwork(str(small_model))
    for given, limited in (({}, True), ({"train_split": "test"}, False)):
        assert ("max_train_samples" in saved.data_entries(given)) == limited


def test_data_that_nothing_names_are_asked_for(small_model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(small_model, folder)
    (folder / "run.json").unlink()
    assert main(["rlct", "--model", str(folder)]) == 2
    assert "--task, --dataset_name=None: name the training data; no run.json" in capsys.readouterr().err


def test_data_of_other_weights_are_not_taken(run_folder, tmp_path, capsys):
    """Weights were put into the folder of another run, whose run.json names other data perhaps."""
    folder = tmp_path / "net"
    shutil.copytree(run_folder, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert main(["rlct", f"--model={folder}", "--quiet"]) == 2
    assert "no run.json beside the network, of its own weights, does" in capsys.readouterr().err


def test_a_folder_of_data_that_only_its_owner_knows_must_be_named(small_model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(small_model, folder)
    run = json.loads((folder / "run.json").read_text())
    for name in (None, "/etc"):
        run["task"] |= {"name": "mine", "dataset_name": name}
        (folder / "run.json").write_text(json.dumps(run))
        assert main(["rlct", "--model", str(folder)]) == 2
        problem = f"--task, --dataset_name={name!r}: the network's own data, mine, are no data set"
        assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "{run}", "--step_size", "-1"], "step_size=-1.0"),
        (["--model", "{run}", "--nbeta", "n/2"], "nbeta='n/2'"),
        (["--model", "{run}", "--rlct_preset", "papers"], "preset='papers'"),
        (["--model", "{run}", "--sampler", "hmc"], "sampler='hmc'"),
        (["--model", "{run}", "--parameters", "nothing.*"], "parameters='nothing.*'"),
        (["--model", "{run}", "--memory_gib", "0"], "--memory_gib=0.0"),
        (["--model", "{empty}"], "no config.json"),
        (["--checkpoints", "{empty}"], "no folder checkpoint-<step>"),
        ([], "--model, --checkpoints"),
        (["--model", "{run}", "--task", "minst"], "--task='minst'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(run_folder, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    filled = [flag.format(run=run_folder, empty=tmp_path) for flag in flags]
    assert main(["rlct", *filled]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfmod: error")]
    assert message in line


def test_training_follows_the_rlct_without_being_changed_by_it(tmp_path):
    flags = ["--task", "digits", "--num_train_epochs", "2", "--max_train_samples", "200", "--quiet"]
    assert main(["train", *flags, "--output_dir", str(tmp_path / "plain")]) == 0
    watched = [
        *flags,
        "--rlct_every_n_epochs",
        "1",
        "--report_to",
        "tensorboard",
        "--output_dir",
        str(tmp_path / "seen"),
    ]
    assert main(["train", *watched]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "seen")]
    assert weights[0] == weights[1]
    history = json.loads((tmp_path / "seen" / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in history if "rlct" in entry]
    assert [entry["epoch"] for entry in entries] == [1, 2]
    assert set(entries[0]) >= {"rlct", "rlct_standard_error", "rlct_nbeta", "rlct_ok"}
    assert sum("loss" in entry for entry in history) == 2  # the callback's log displaces no other

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = (tmp_path / "seen").rglob("events.out.tfevents*")
    logs = [EventAccumulator(str(file)).Reload() for file in files]
    (curve,) = [log.Scalars("train/rlct") for log in logs if "train/rlct" in log.Tags()["scalars"]]
    assert [event.value for event in curve] == pytest.approx([entry["rlct"] for entry in entries])


@pytest.mark.weekly
def test_the_papers_collapsed_network_is_not_at_a_minimum(published_hub, published_seed, tmp_path):
    """MNIST, h = 64, AW 50: it never learns its task (ten epochs show as much as fifty)."""
    if not published_seed.real:
        pytest.skip("the real MNIST is not beside this checkout")
    flags = ["--recipe=mnist", "--hidden_sizes=64", "--aux_weights=50", "--seeds=1", "--num_train_epochs=10", "--quiet"]
    done = warm.run([*warm.SELFMOD, "sweep", *flags, f"--output_dir={tmp_path}"], published_hub.env())
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert row["accuracy"] < 0.2
    assert row["rlct"] < 0
    assert row["rlct_status"] == "not_at_minimum"

"""Studies: named arms, grids over any setting, further measures, on data and networks of the user's own."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from selfmod_hf import SelfModelingForImageClassification, SelfModelingTrainer, SweepSettings, load_results, run_sweep
from selfmod_hf.cli import main
from selfmod_hf.errors import InputError
from selfmod_hf.experiments import sweep_population
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.experiments.plan import Plan, left_to_members
from selfmod_hf.hub.model_folder import write_model_card
from selfmod_hf.json_records import SweepRun
from selfmod_hf.trainer.stopping_rules import StoppingRules

FEW = {"num_train_epochs": 2, "num_chains": 2, "num_draws": 20, "max_train_samples": 200}
STUDY = """
task: digits
hidden_sizes: [8]
num_train_epochs: 2
num_chains: 2
num_draws: 20
max_train_samples: 200
seeds: 2
arms:
  baseline: {aux_weight: 0}
  self-model: {aux_weight: 10}
  decay: {aux_weight: 0, weight_decay: 1e-2, weight_decay_parameters: "classifier.*"}
  shuffled: {aux_weight: 10, target_source: shuffled}
"""
AS_FLAGS = {
    "baseline": ["--aux_weight=0"],
    "decay": ["--aux_weight=0", "--weight_decay=1e-2", "--weight_decay_parameters", "classifier.*"],
    "shuffled": ["--aux_weight=10", "--target_source=shuffled"],
}


@pytest.fixture(scope="module")
def controls(tmp_path_factory) -> Path:
    """A finished study of four named arms."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(STUDY)
    assert main(["sweep", f"--config={folder / 'study.yaml'}", "--quiet", f"--output_dir={folder / 'sweep'}"]) == 0
    return folder / "sweep"


def test_named_arms_are_rows_and_are_recorded(controls):
    folder = SweepFolder(controls)
    rows = folder.rows()
    names = [*["baseline"] * 2, *["decay"] * 2, *["self-model"] * 2, *["shuffled"] * 2]
    assert sorted(rows["arm"]) == names
    assert rows["seed"].tolist() == [1, 2] * 4
    assert [arm.name for arm in folder.arms()] == ["baseline", "self-model", "decay", "shuffled"]
    assert {arm.baseline for arm in folder.arms()} == {"baseline"}
    run = SweepRun.read(controls / "run.json")
    assert run.axes == ["aux_weight", "weight_decay", "weight_decay_parameters", "target_source"]
    decay = rows[rows["arm"] == "decay"].iloc[0]
    assert (decay["weight_decay"], decay["weight_decay_parameters"], decay["target_source"]) == (
        0.01, "classifier.*", "own",
    )  # fmt: skip
    assert list(run.sessions[0].seconds) == ["baseline-seed1"]  # all eight networks in one population


@pytest.mark.parametrize("arm", list(AS_FLAGS))
def test_a_network_of_a_named_arm_equals_the_one_trained_alone(controls, tmp_path, arm):
    flags = ["--task=digits", "--hidden_sizes=8", "--seed=2", "--num_train_epochs=2", "--max_train_samples=200"]
    assert main(["train", *flags, *AS_FLAGS[arm], "--quiet", f"--output_dir={tmp_path}"]) == 0
    alone = SelfModelingForImageClassification.from_pretrained(tmp_path).state_dict()
    member = SelfModelingForImageClassification.from_pretrained(controls / "cells" / f"{arm}-seed2").state_dict()
    for name, value in alone.items():
        torch.testing.assert_close(member[name], value, rtol=0, atol=1e-5)


def test_an_arm_of_the_same_name_and_other_settings_is_rejected(controls):
    settings = SweepSettings.make(
        task="digits",
        hidden_sizes=[8],
        seeds=2,
        arms={"baseline": {"aux_weight": 0}, "decay": {"weight_decay": 0.5}},
        **FEW,
    )
    with pytest.raises(InputError, match="was begun with arm decay = "):
        run_sweep(settings, output_dir=controls)


def test_an_arm_stops_at_the_training_loss_of_another(tmp_path):
    arms = {
        "early": {"aux_weight": 0, "stop_at_train_loss": "late"},
        "late": {"aux_weight": 20},
        "never": {"aux_weight": 0, "stop_at_train_loss": 1e-9},
    }
    settings = {**FEW, "num_train_epochs": 5, "hidden_sizes": [8], "seeds": 2}
    folder = run_sweep("digits", arms=arms, output_dir=tmp_path / "study", **settings)
    rows = folder.rows().set_index(["arm", "seed"])
    curves = folder.curves().set_index(["arm", "seed", "epoch"]).sort_index()["classification_loss"]
    for seed in (1, 2):
        own, goal = curves["early", seed], float(curves["late", seed, 5])
        assert own.iloc[-1] <= goal < own.iloc[:-1].min()
        assert rows.loc[("early", seed), ["num_epochs", "stopped_epoch"]].tolist() == [own.index[-1]] * 2
        assert rows.loc[("early", seed), "num_epochs"] < 5
        assert rows.loc[("never", seed), "num_epochs"] == 5
        assert math.isnan(rows.loc[("never", seed), "stopped_epoch"])
        alone = {"early": {"aux_weight": 0, "stop_at_train_loss": goal}}
        again = run_sweep("digits", arms=alone, output_dir=tmp_path / f"{seed}", **settings | {"seeds": [seed]})
        width = again.rows()["weight_width"].item()
        assert width == pytest.approx(rows.loc[("early", seed), "weight_width"], rel=1e-5)


def test_measures_are_added_to_a_finished_study_without_training(controls, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_population, "make_trainer", None)
    before = SweepFolder(controls).rows()

    def largest_weight(model, data):
        assert len(data.test) == 360
        return {"largest_weight": float(model.classifier.weight.detach().abs().max())}

    yaml = tmp_path / "study.yaml"
    yaml.write_text(STUDY + "measures: [dead_units, modelability_from_other]\n")
    assert main(["sweep", f"--config={yaml}", "--quiet", f"--output_dir={controls}"]) == 0
    arms = {arm.name: arm.changes for arm in SweepFolder(controls).arms()}
    folder = run_sweep(
        task="digits", hidden_sizes=[8], seeds=2, arms=arms, measures=[largest_weight], output_dir=controls, **FEW
    )
    rows = folder.rows()
    pd.testing.assert_frame_equal(rows[before.columns], before)
    added = ["modelability_from_other", "dead_units", "largest_weight"]
    assert set(rows.columns) - set(before.columns) == {*added, "modelability_from_other_seed"}
    assert rows["largest_weight"].gt(0).all()
    assert rows["dead_units"].between(0, 1).all()
    run = folder.read_run()
    assert sorted(run.measures) == sorted(added)
    assert set(added) <= set(load_results(str(controls)).columns)


def test_a_grid_over_layers_and_a_training_setting(tmp_path):
    folder = run_sweep(
        task="digits",
        aux_weight=1,
        grid={"hidden_sizes": ["8", "8-4"], "train_batch_size": [32, 64]},
        target_layers=["hidden.relu1"],
        seeds=[3],
        output_dir=tmp_path,
        **FEW,
    )
    rows = folder.rows().set_index("arm")
    assert rows["hidden_sizes"].to_dict() == {
        "h8-train_batch_size_32": "8",
        "h8-train_batch_size_64": "8",
        "h8x4-train_batch_size_32": "8-4",
        "h8x4-train_batch_size_64": "8-4",
    }
    assert rows["batch_size"].tolist() == [int(name[-2:]) for name in rows.index]
    assert rows["hidden_size"].tolist() == [4 if "x4" in name else 8 for name in rows.index]
    assert rows["aux_weight"].eq(1).all()


def test_a_population_that_version_0_1_0_began_goes_on(tmp_path, monkeypatch):
    settings = {"hidden_sizes": [8], "aux_weights": [0, 10], "seeds": [1], **FEW}
    whole = run_sweep("digits", output_dir=tmp_path / "whole", **settings)

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SelfModelingTrainer, "save_model", cut)
        with pytest.raises(KeyboardInterrupt):
            run_sweep("digits", output_dir=tmp_path / "cut", **settings)
    (members,) = (tmp_path / "cut" / "populations").glob("*/members.json")
    old = [{"hidden_size": 8, "aux_weight": w, "seed": 1, "detach_targets": True} for w in (0.0, 10.0)]
    members.write_text(json.dumps(old))
    run = json.loads((tmp_path / "cut" / "run.json").read_text())
    for name in ("arms", "axes", "measures"):
        del run[name]
    (tmp_path / "cut" / "run.json").write_text(json.dumps(run))
    finished = run_sweep("digits", output_dir=tmp_path / "cut", **settings)
    pd.testing.assert_frame_equal(finished.rows(), whole.rows())


def write_images(folder: Path, *, side: int = 12) -> Path:
    """Two classes of images in folders, told apart by their colour."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("test", 4)):
        for channel, name in enumerate(("cat", "dog")):
            place = folder / split / name
            place.mkdir(parents=True)
            for k in range(count):
                pixels = torch.randint(0, 120, (side, side, 3), generator=generator, dtype=torch.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels.numpy()).save(place / f"{k}.png")
    return folder


def write_texts(folder: Path) -> Path:
    """Two classes of texts in CSV files."""
    words = {"good": "great fine good", "bad": "poor awful bad"}
    folder.mkdir()
    for split, count in (("train", 16), ("test", 8)):
        lines = ["text,label"]
        for k in range(count):
            label = "good" if k % 2 else "bad"
            lines.append(f"{words[label]} {k},{label}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


SMALL = ["--num_train_epochs=1", "--num_chains=2", "--num_draws=4", "--train_batch_size=8", "--quiet"]


def test_a_timm_network_on_images_of_the_user(tmp_path, capsys):
    photos = write_images(tmp_path / "photos")
    kwargs = '{"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}'
    flags = ["--backbone=timm/resnet18", f"--backbone_kwargs={kwargs}", "--target_layers=backbone.layer4"]
    study = [f"--dataset_name={photos}", "--aux_weights", "0", "1", "--seeds", "1", "2", *flags, *SMALL]
    assert main(["sweep", *study, f"--output_dir={tmp_path / 'sweep'}"]) == 0
    rows = SweepFolder(tmp_path / "sweep").rows()
    assert rows["arm"].tolist() == ["aw0", "aw0", "aw1", "aw1"]
    assert rows["hidden_size"].isna().all()
    run = (tmp_path / "sweep" / "run.json").read_text()
    assert json.loads(run)["settings"]["network"]["backbone"] == "timm/resnet18"
    assert main(["report", str(tmp_path / "sweep")]) == 0
    assert len(load_results(str(tmp_path / "sweep"))) == 4


def test_networks_that_draw_random_numbers_train_one_by_one(tmp_path, capsys):
    texts = write_texts(tmp_path / "texts")
    config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"intermediate_size": 8, "vocab_size": 60, "max_position_embeddings": 32}
    encoder = [f"--backbone_config={json.dumps(config)}", "--target_layers=backbone.encoder.layer.0.output"]
    study = [f"--dataset_name={texts}", "--aux_weights", "0", "1", "--seeds=1", *encoder, *SMALL[:-1]]
    tokenizer = tmp_path / "tokenizer"
    save_tokenizer(tokenizer)
    flags = [*study, f"--tokenizer_name={tokenizer}", f"--output_dir={tmp_path / 'sweep'}"]
    assert main(["sweep", *flags]) == 0
    assert "they draw random numbers while they train (dropout): one at a time" in capsys.readouterr().out
    rows = SweepFolder(tmp_path / "sweep").rows()
    assert rows["aux_weight"].tolist() == [0, 1]
    assert rows["accuracy"].map(math.isfinite).all()


def save_tokenizer(folder: Path) -> None:
    """A small tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "great", "fine", "good", "poor", "awful", "bad"]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe=digits", "--task=mnist"], "--recipe='digits': allowed without --task"),
        (["--seed=3"], "a sweep has --seeds"),
        (["--push_to_hub"], "push a finished sweep with"),
        (["--grid", "aux_wieght=1"], "did you mean aux_weight"),
        (["--grid", "aux_weight=1", "--aux_weights", "1"], "give it in one place"),
        (["--arms={"], "--arms='{': allowed is a JSON object"),
        (
            ['--arms={"a": {"aux_weight": 0}, "b": {"aux_weight": 0, "weight_decay": 0}}'],
            "--arms='a, b': have the same",
        ),
        (["--measures", "dead_unit"], "--measures='dead_unit': allowed are"),
        (["--baseline=3"], "--baseline='3': allowed are the values of aux_weight"),
        (["--per_device_train_batch_size=8", "--train_batch_size=8"], "allowed without --per_device_train_batch_size"),
        (['--arms={"a": {"max_steps": 1}}'], "a sweep trains complete epochs"),
        (['--arms={"a": {"num_train_epochs": 1.5}}'], "--num_train_epochs=1.5: allowed are integers"),
        (['--arms={"a": {"rlct_preset": "theory"}}'], "is the same for all arms"),
        (["--grid", "seed=1,2"], "a sweep has --seeds"),
        (["--log_weight_width", "False"], "a sweep follows the weight width"),
        (["--eval_delay=5"], "a sweep evaluates after each epoch"),
        (["--aux_weight=3", "--aux_weights", "0", "1"], "--aux_weight=3.0: is an axis of the study as well"),
        (["--aux_weights", "0.1234567", "0.1234568"], "is the name of"),
        (['--arms={"a": {}, "b": {"target_source": "shuffled"}}'], "--arms='a, b': have the same settings"),
        (['--arms={"a": {"weight_decay": 1, "weight_decay_parameters": ["clasifier.*"]}}'], "matches no parameter"),
        (['--arms={"a": {"aux_weight": 1, "target_source": "network:nothing/here"}}'], "target_source"),
        ([f'--arms={{"{"x" * 300}": {{}}}}'], "allowed are names of at most"),
        (["--hidden_sizes", "8-x"], "--hidden_sizes='8-x': allowed are integers"),
        (["--num_train_epochs=0.5"], "--num_train_epochs=0.5: allowed are integers"),
    ],
)
def test_what_a_study_cannot_use_is_one_line(tmp_path, capsys, flags, message):
    assert main(["sweep", *flags, f"--output_dir={tmp_path / 'new'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_named_arm_is_a_plain_network_unless_it_names_a_weight():
    plan = SweepSettings.make("mnist", arms={"decay": {"weight_decay": 1e-3}, "own": {"aux_weight": 5}}).plan()
    assert [plan.run_of(arm).network.aux_weight for arm in plan.arms][:2] == [0.0, 5.0]


def test_a_batch_of_each_process_is_the_batch_of_a_network():
    training = SweepSettings.make("digits", per_device_train_batch_size=7).plan().settings["training"]
    assert training["per_device_train_batch_size"] == 7


def test_a_grid_of_one_and_of_several_layers():
    plan = SweepSettings.make(task="digits", grid={"hidden_sizes": [64, [128, 64]]}).plan()
    assert [arm.changes["hidden_sizes"] for arm in plan.arms] == [[64], [128, 64]] * 2


def test_a_setting_of_the_network_is_remembered_by_the_folder(tmp_path):
    settings = {"hidden_sizes": [8], "aux_weights": [0, 1], "seeds": [1], **FEW, "num_train_epochs": 1}
    run_sweep("digits", classification_weight=0.5, output_dir=tmp_path / "half", **settings)
    with pytest.raises(InputError, match=r"was begun with classification_weight=0\.5, not None"):
        run_sweep("digits", output_dir=tmp_path / "half", **settings)
    run_sweep("digits", output_dir=tmp_path / "whole", **settings)
    with pytest.raises(InputError, match=r"was begun with classification_weight=None, not 0\.5"):
        run_sweep("digits", classification_weight=0.5, output_dir=tmp_path / "whole", **settings)


def test_an_arm_that_joins_a_folder_completes_its_columns_and_its_baseline(tmp_path):
    settings = {"hidden_sizes": [8], "seeds": [1], **FEW, "num_train_epochs": 1}
    arms = {"x": {"aux_weight": 0}, "own": {"aux_weight": 1}}
    run_sweep("digits", arms=arms, baseline="x", output_dir=tmp_path, **settings)
    more = {**arms, "decay": {"weight_decay": 0.1}}
    folder = run_sweep("digits", arms=more, baseline="own", output_dir=tmp_path, **settings)
    rows = folder.rows().set_index("arm")
    assert rows["weight_decay"].to_dict() == {"x": 0.0, "own": 0.0, "decay": 0.1}
    assert {arm.baseline for arm in folder.arms()} == {"own"}
    with pytest.raises(InputError, match="has the networks of arm h8-x by the name x"):
        run_sweep("digits", arms=arms, output_dir=tmp_path, **{**settings, "hidden_sizes": [8, 16]})


def test_a_name_can_be_mended_before_its_arm_has_a_network(tmp_path):
    settings = {"hidden_sizes": [8], "seeds": [1], **FEW, "num_train_epochs": 1}
    run_sweep("digits", arms={"x": {}}, output_dir=tmp_path, **settings)
    run = json.loads((tmp_path / "run.json").read_text())
    run["arms"].append({"name": "decay", "changes": {"weight_decay": 5.0}, "panel": "", "baseline": "x"})
    (tmp_path / "run.json").write_text(json.dumps(run))
    folder = run_sweep("digits", arms={"x": {}, "decay": {"weight_decay": 0.1}}, output_dir=tmp_path, **settings)
    assert folder.arms()[1].changes["weight_decay"] == 0.1


def test_an_interrupted_population_goes_on_beside_a_new_arm(tmp_path, monkeypatch):
    base = {"weight_decay": 0.01, "weight_decay_parameters": ["classifier.*"]}
    settings = {"hidden_sizes": [8], "seeds": [1], **FEW, **base}
    arms = {"x": {"aux_weight": 0}, "own": {"aux_weight": 1}}

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweep_population, "measure_population", cut)
        patched.setattr("selfmod_hf.experiments.sweep.measure_population", cut)
        with pytest.raises(KeyboardInterrupt):
            run_sweep("digits", arms=arms, output_dir=tmp_path, **settings)
    more = {**arms, "all": {"aux_weight": 1, "weight_decay_parameters": ["*"]}}
    assert len(run_sweep("digits", arms=more, output_dir=tmp_path, **settings).rows()) == 3


def test_a_sweep_takes_every_flag_of_train():
    from selfmod_hf.cli import sweep, train
    from selfmod_hf.cli.arguments import make_parser

    def flags(command):
        parser = make_parser("any", *command.flag_classes())
        return {action.dest for action in parser._actions}

    of_processes = {"accelerate_config", "num_processes"}  # those of a sweep come from `accelerate launch` or --on
    assert flags(train) - of_processes <= flags(sweep)


def test_a_network_of_the_users_own_has_two_weights_and_three_seeds():
    plan = SweepSettings.make(task="digits").plan()
    assert isinstance(plan, Plan)
    assert [cell.name for cell in plan.cells] == [f"aw{weight}-seed{seed}" for weight in (0, 1) for seed in (1, 2, 3)]


def test_an_arm_without_a_rule_of_the_base_has_none():
    arms = {"stopped": {"aux_weight": 0}, "complete": {"aux_weight": 0, "stop_at_train_loss": None}}
    plan = SweepSettings.make("digits", arms=arms, seeds=[1], stop_at_train_loss=0.5).plan()
    stopped, complete = plan.members(plan.cells, {arm.name: arm for arm in plan.arms}, {})
    shared = plan.shape_run(plan.arms[0], plan.arms)
    args = shared.replace(**left_to_members(plan.arms)).training
    assert StoppingRules.of(args, stopped).stop_at_train_loss == 0.5
    assert StoppingRules.of(args, complete).stop_at_train_loss is None


def test_units_kept_alive_are_arms_of_a_study(tmp_path):
    """Arms of another activation are networks of their own population. None of their units is dead."""
    arms = {
        "baseline": {"aux_weight": 0},
        "alive": {"aux_weight": 0, "hidden_activation": "leaky_relu"},
        "own-alive": {"aux_weight": 50, "hidden_activation": "leaky_relu"},
    }
    settings = {**FEW, "hidden_sizes": [8], "seeds": [1], "measures": ["dead_units"]}
    folder = run_sweep("digits", arms=arms, output_dir=tmp_path / "sweep", **settings)
    rows = folder.rows().set_index("arm")
    assert rows["hidden_activation"].to_dict() == {"baseline": "relu", "alive": "leaky_relu", "own-alive": "leaky_relu"}
    assert rows.loc[["alive", "own-alive"], "dead_units"].tolist() == [0, 0]
    assert len(rows["weight_width"].unique()) == 3
    run = tmp_path / "run"
    flags = ["--task=digits", "--hidden_sizes=8", "--aux_weight=50", "--hidden_activation=leaky_relu", "--seed=1"]
    flags += ["--num_train_epochs=2", "--max_train_samples=200", "--quiet", f"--output_dir={run}"]
    assert main(["train", *flags]) == 0
    assert "leaky_relu" in write_model_card(run, "me/alive").read_text()
    alone = SelfModelingForImageClassification.from_pretrained(run)
    member = SelfModelingForImageClassification.from_pretrained(folder.cells / "own-alive-seed1")
    assert torch.allclose(alone.classifier.weight, member.classifier.weight, atol=1e-5)


def test_an_unknown_activation_is_rejected_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--task=digits", "--hidden_activation=gelu", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--hidden_activation='gelu'" in line
    assert "relu, leaky_relu" in line

"""Runs that differ have default folders that differ."""

import re
from types import SimpleNamespace

import pytest

from selfmod_hf import RunSettings
from selfmod_hf.experiments.folder_names import default_folder, text_of_value

RUN = {
    "task": "mnist", "dataset_name": None, "dataset_config": None, "backbone": "mlp", "backbone_name": None,
    "backbone_config": None, "hidden_sizes": [64], "aux_weight": 10.0, "detach_targets": True, "seed": 42,
}  # fmt: skip


def folder(**changes) -> str:
    return default_folder(SimpleNamespace(**{**RUN, **changes}))


def test_a_folder_names_its_run():
    assert folder() == "runs/mnist-h64-aw10-seed42"
    assert folder(task=None, dataset_name="a/b", backbone="timm/resnet18") == "runs/a--b-resnet18-h64-aw10-seed42"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"aux_weight": 0.0}, {"aux_weight": 10.0}),
        ({"detach_targets": True}, {"detach_targets": False}),
        ({"seed": 1}, {"seed": 2}),
        ({"hidden_sizes": [64]}, {"hidden_sizes": [6, 4]}),
        ({"dataset_name": "a/data"}, {"dataset_name": "b/data"}),
        ({"dataset_config": "de"}, {"dataset_config": "en"}),
        ({"backbone_name": "a/vit"}, {"backbone_name": "b/vit"}),
        ({"backbone_config": '{"model_type": "vit"}'}, {"backbone_config": '{"model_type": "beit"}'}),
    ],
)
def test_runs_that_differ_have_folders_that_differ(one, other):
    assert folder(**one) != folder(**other)


@pytest.mark.parametrize("field", ["dataset_name", "backbone_name"])
def test_local_folders_of_one_name_differ(tmp_path, field):
    for parent in ("a", "b"):
        (tmp_path / parent / "same").mkdir(parents=True)
    one, other = (folder(**{field: str(tmp_path / parent / "same")}) for parent in ("a", "b"))
    assert one != other
    assert "same" in one
    assert str(tmp_path) not in one


@pytest.mark.parametrize(
    ("value", "start"),
    [
        ("network:/home/ann/private/net", "network_net-"),
        ("network:~/private/net/", "network_net-"),
        ("../private/my net", "my_net-"),
        ("network:home/private/net", "network_net-"),
        (["x", "/home/private/net"], "__x___net__-"),
        ("network:me/net", "network_me_net-"),
        ("batch/log batch", "batch_log_batch-"),
    ],
)
def test_a_name_has_the_last_part_of_a_path(value, start):
    assert re.fullmatch(re.escape(start) + "[0-9a-f]{6}", text_of_value(value))


def test_a_folder_names_each_field_of_the_targets_and_of_the_decay_that_changes():
    def made(**fields):
        return RunSettings.make(task="digits", **fields).training.output_dir

    plain = made()
    assert plain == "runs/digits-h64-aw1-seed42"
    assert made(target_source="own", activation_penalty=0, weight_decay=0) == plain
    found = [
        made(target_source="shuffled"),
        made(target_source="network:me/net"),
        made(target_source="network:me_net"),
        made(target_source="network:" + "x" * 300),
        made(target_normalization="rms"),
        made(activation_penalty=0.5),
        made(weight_decay=0.1),
        made(weight_decay_parameters=["classifier.*"]),
        made(weight_decay_parameters=["classifier.?"]),
    ]
    assert found[0] == "runs/digits-h64-aw1-target_source_shuffled-seed42"
    assert len({plain, *found}) == len(found) + 1
    for name in found:
        assert name.count("/") == 1
        assert ":" not in name
        assert len(name) < 200

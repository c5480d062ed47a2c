"""Runs that differ have default folders that differ."""

from types import SimpleNamespace

import pytest

from selfmod_hf.experiments.folder_names import default_folder

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

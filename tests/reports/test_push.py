"""`push` finds out what a folder is."""

import pytest

from selfmod_hf import SelfModelingConfig, load_results, push
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.arms import make_arms
from selfmod_hf.metrics import metric_path
from tests.reports.folders import write_study


@pytest.mark.parametrize("kind", ["network", "sweep", "space"])
def test_each_kind_of_folder_is_pushed(loopback_hub, small_model, small_sweep, kind):
    folder = {"network": small_model, "sweep": small_sweep, "space": metric_path("rlct")}[kind]
    api = loopback_hub.api()
    addresses = push(folder, f"me/{kind}", license="apache-2.0" if kind != "space" else None, api=api)
    assert len(addresses) == (2 if kind == "sweep" else 1)
    repo_type = "space" if kind == "space" else "model"
    assert f"me/{kind}" in addresses[0]
    files = api.list_repo_files(f"me/{kind}", repo_type=repo_type)
    assert {"network": "model.safetensors", "sweep": "modeling_self_modeling.py", "space": "app.py"}[kind] in files


def test_another_folder_is_rejected(tmp_path):
    with pytest.raises(InputError, match="allowed are folders of a model"):
        push(tmp_path, "me/net")


def test_what_is_no_identifier_of_a_license_is_rejected(small_model):
    with pytest.raises(InputError, match="license='My License'"):
        push(small_model, "me/net", license="My License")


def test_a_study_of_named_arms_is_published_without_paths(loopback_hub, tmp_path):
    """Its answer, arms and license are in the cards, and the networks are found by their names."""
    teacher = tmp_path / "private" / "teacher"
    named = {
        "baseline": {"aux_weight": 0.0},
        "teacher": {"aux_weight": 1.0, "target_source": f"network:{teacher}"},
    }
    folder = write_study(tmp_path / "study", make_arms({}, named), [1, 2], measures=["dead_units"], epochs=3)
    config = SelfModelingConfig(hidden_sizes=[8], image_size=8, target_layers=["hidden.relu1"], aux_weight=1.0)
    for cell in (folder / "cells").iterdir():
        config.save_pretrained(cell)
    push(folder, "me/study", license="apache-2.0", api=loopback_hub.api())
    published = loopback_hub.root / "datasets" / "me" / "study"
    networks = loopback_hub.root / "models" / "me" / "study"
    for file in [*published.rglob("*.*"), *networks.rglob("*.json"), networks / "README.md"]:
        assert b"private" not in file.read_bytes()
    for card in (published / "README.md", networks / "README.md"):
        text = card.read_text()
        assert "license: apache-2.0" in text
        assert "between teacher and the baseline" in text or "in teacher the RLCT" in text
    assert "](figures/arms.png)" in (networks / "README.md").read_text()
    assert (networks / "figures" / "arms.png").is_file()
    table = load_results(str(published)).set_index("network")
    assert table.loc["teacher-seed2", "target_source"] == "network:teacher"
    assert "dead_units" in table

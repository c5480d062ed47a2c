"""`push` finds out what a folder is."""

import pytest

from selfmod_hf import push
from selfmod_hf.errors import InputError
from selfmod_hf.metrics import metric_path


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

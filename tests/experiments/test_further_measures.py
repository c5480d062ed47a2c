"""The further measures of a study, added in several calls."""

import pytest

from selfmod_hf import run_sweep

FEW = {"num_train_epochs": 1, "num_chains": 2, "num_draws": 4, "max_train_samples": 100, "hidden_sizes": [8]}


def test_measures_from_another_seed_do_not_depend_on_how_seeds_were_added(tmp_path):
    name = "modelability_from_other"
    settings = {"arms": {"baseline": {"aux_weight": 0}, "own": {"aux_weight": 1}}, "measures": [name], **FEW}
    whole = run_sweep("digits", seeds=[1, 2, 3], output_dir=tmp_path / "whole", **settings).rows()
    partners = []
    for seeds in ([1], [1, 2], [1, 2, 3]):
        folder = run_sweep("digits", seeds=seeds, output_dir=tmp_path / "grown", **settings)
        baseline = folder.rows().query("arm == 'baseline'")
        partners.append(baseline[f"{name}_seed"].fillna(0).tolist())
    assert partners == [[0], [2, 1], [2, 3, 1]]
    grown = folder.rows()
    assert grown[f"{name}_seed"].tolist() == whole[f"{name}_seed"].tolist()
    assert grown[name].tolist() == pytest.approx(whole[name].tolist(), rel=1e-3)
    assert folder.read_run().measures == [name]
    again = run_sweep("digits", seeds=[2], output_dir=tmp_path / "grown", **settings).rows()
    assert again[name].tolist() == grown[name].tolist()


def test_a_changed_function_does_not_fill_half_a_column(tmp_path):
    def measure(value):
        def one(model, data):
            return {"one": value}

        return one

    settings = {**FEW, "aux_weights": [0], "output_dir": tmp_path}
    run_sweep("digits", seeds=[1], measures=[measure(1)], **settings | {"hidden_sizes": [8, 16]})
    rows = run_sweep("digits", seeds=[1], measures=[measure(2)], **settings | {"hidden_sizes": [8, 16]}).rows()
    assert rows["one"].tolist() == [1, 1]
    rows = run_sweep("digits", seeds=[1, 2], measures=[measure(3)], **settings).rows()
    assert dict(zip(zip(rows["hidden_size"], rows["seed"], strict=True), rows["one"], strict=True)) == {
        (8, 1): 1,
        (8, 2): 3,
        (16, 1): 1,
    }

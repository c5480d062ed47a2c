"""scripts/theory_rlct.py: its lines name settings and seeds, and no run goes on behind those of another one."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import theory_rlct

from selfmod_hf import SelfModelingConfig, SelfModelingForImageClassification, get_task, load_images

OLD = {
    "arm": "h64-aw0", "step_size": 4e-6, "llc": [1.5], "standard_error": [0.1], "interval": [[1.3, 1.7]],
    "status": ["ok"], "reason": [""], "lowered_by": [0.1], "summary": [""], "seconds": 60.0,
}  # fmt: skip


@pytest.fixture
def estimates(tmp_path):
    """A file with a line of an earlier version."""
    file = tmp_path / "estimates.jsonl"
    theory_rlct.append_rows(file, [OLD])
    return file


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["theory_rlct.py", *map(str, arguments)])
    theory_rlct.main()


def test_lines_of_an_earlier_version_are_printed_alone(estimates, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--only_print", "--file", estimates)
    assert "| h64-aw0 | 4e-06 | 1.5 | 1.5 ± 0.1 ok | 60 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, tmp_path, "--file", estimates)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(
        "its row of h64-aw0 is of an earlier version, without seeds; allowed is another file, or --only_print"
    )


def test_a_line_names_its_seeds_and_settings(tmp_path, monkeypatch, capsys):
    for seed in (3, 4):
        network = SelfModelingForImageClassification(SelfModelingConfig(hidden_sizes=[4], image_size=8, num_labels=10))
        network.save_pretrained(tmp_path / "cells" / f"h4-seed{seed}")
    args = Namespace(
        sweep=tmp_path, seeds=[3, 4], sampler="sghmc", step_sizes=[1e-5, 5e-6], localization=100.0, num_draws=8,
        batch_size=64, max_train_samples=None,
    )  # fmt: skip
    rows = theory_rlct.measure(args, "h4", load_images(get_task("digits"), max_train_samples=100).train)
    assert [row["step_size"] for row in rows] == [1e-5, 5e-6]
    for row in rows:
        assert row["seeds"] == [3, 4]
        assert row["settings"]["num_draws"] == 8
        assert len(row["llc"]) == 2
    file = tmp_path / "estimates.jsonl"
    theory_rlct.append_rows(file, rows)
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert theory_rlct.problem_of(kept, theory_rlct.about(args)) is None
    fewer = theory_rlct.about(Namespace(**{**vars(args), "max_train_samples": 100}))
    assert "has max_train_samples 100" in theory_rlct.problem_of([{**OLD, **fewer}], theory_rlct.about(args))
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, tmp_path, "--file", file, "--seeds", 3, 5)
    assert "its row of h4 has seeds [3, 4], here they are [3, 5]" in capsys.readouterr().err

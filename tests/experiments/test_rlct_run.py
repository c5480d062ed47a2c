"""What `selfmod rlct` writes."""

import json

from selfmod_hf.cli import main
from selfmod_hf.complexity import LLCResult


def test_the_chosen_cell_of_a_calibration_that_is_not_ok_says_so(tmp_path):
    """rlct.json alone is read by reports and cards."""
    run = tmp_path / "run"
    few = ["--max_train_samples=200", "--hidden_sizes=4", "--num_train_epochs=1", "--quiet"]
    assert main(["train", "--task=digits", *few, f"--output_dir={run}"]) == 0
    flags = ["--calibrate", "--localization=100", "--num_draws=40", "--quiet"]
    assert main(["rlct", f"--model={run}", *flags]) == 0
    calibration = json.loads((run / "rlct_calibration.json").read_text())
    cell = LLCResult.load(run / "rlct.json")
    assert calibration["status"] != "ok"
    assert (cell.status, cell.status_reason) == (calibration["status"], calibration["status_reason"])

"""A machine with torch, transformers and accelerate trains and samples without the packages for reading and reports.

tests/scripts/test_gpu.py runs sweeps there.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from tests.without_packages import hide

absent = ("datasets", "evaluate", "plotly", "statsmodels", "tensorboard")
hide(*absent)
from selfmod_hf.cli import main

few = ["--num_train_epochs=1", "--max_train_samples=100", "--quiet"]
assert main(["train", "--task=digits", *few, f"--output_dir={sys.argv[1]}/train"]) == 0
assert main(["rlct", f"--model={sys.argv[1]}/train", "--num_draws=6", "--quiet"]) == 0
assert not set(absent) & set(sys.modules)
"""


@pytest.mark.slow
def test_commands(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"selfmod_hf"' in (tmp_path / "train" / "run.json").read_text()
    assert (tmp_path / "train" / "rlct.json").is_file()

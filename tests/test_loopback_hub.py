"""The loopback Hub, through the real clients."""

import subprocess
import sys


def test_load_dataset(loopback_hub, hub_seed):
    """The real `datasets` reads parquet and its features, from an empty cache."""
    program = "from datasets import load_dataset\nd = load_dataset('ylecun/mnist')\nprint(len(d['train']), d['test'][1])"
    run = subprocess.run(
        [sys.executable, "-c", program], env=loopback_hub.env(), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("60000" if hub_seed.real else "400")

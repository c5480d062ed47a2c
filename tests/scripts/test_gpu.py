"""scripts/gpu.sh on the CPU with tiny settings, on a machine without the packages for reading and reports."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from selfmod_hf import TaskSpec, load_images
from selfmod_hf.data import ImageFile
from tests.conftest import generate_seed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import gpu

ROOT = Path(__file__).resolve().parents[2]
HIDE = """from tests.without_packages import hide

hide("datasets", "evaluate", "plotly", "statsmodels", "tensorboard")
"""
PARTS = {"benchmark", "compare", "cpu", "figure2", "gpu", "ground_truth"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 10
    pictures = torch.randint(256, (10, 1, 28, 28), generator=generator, dtype=torch.uint8)
    images = pictures[labels]
    plain = folder / "plain"
    ImageFile(images, labels, images, labels, [str(k) for k in range(10)]).write(plain)
    with gzip.open(folder / "mnist.safetensors.gz", "wb") as packed:
        packed.write(plain.read_bytes())
    return folder


def run_script(files: Path, out: Path, hidden: Path, **environment: str) -> str:
    (hidden / "sitecustomize.py").write_text(HIDE)
    settings = {"TINY": "1", "PYTHON": sys.executable, "PYTHONPATH": str(hidden), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "gpu.sh", files, out],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.weekly
def test_all_parts_without_a_gpu(files, tmp_path):
    out = tmp_path / "out"
    cut = run_script(files, out, tmp_path, MINUTES="0")
    assert "cpu: no time left" in cut
    printed = run_script(files, out, tmp_path)
    assert {path.name for path in (out / "done").iterdir()} == PARTS, printed
    table = pd.read_parquet(out / "tables" / "figure2" / "results.parquet")
    assert len(table) == 2
    assert "| h8-aw0-seed1 | 0 | 0.0000 |" in printed  # the same device twice
    measured = [json.loads(line) for line in (out / "benchmark.jsonl").read_text().splitlines()]
    assert all(row["value"] > 0 for row in measured)
    assert "== " not in run_script(files, out, tmp_path)  # nothing runs twice


def test_packed_files(tmp_path):
    data = generate_seed(tmp_path / "seed") / "datasets"
    gpu.pack_images("mnist", str(data / "ylecun" / "mnist"), tmp_path)
    gpu.pack_images("cifar10", str(data / "uoft-cs" / "cifar10"), tmp_path, train=30, test=20)
    for task, shape in (("mnist", (400, 1, 28, 28)), ("cifar10", (30, 3, 32, 32))):
        plain = tmp_path / f"{task}.safetensors"
        plain.write_bytes(gzip.decompress((tmp_path / f"{task}.safetensors.gz").read_bytes()))
        read = load_images(TaskSpec(name=task, dataset_name=str(plain)))
        assert tuple(read.train.pixels.shape) == shape

"""Fixtures that tests share, and the isolation all of them rely on.

The Hugging Face clients read their environment when they are imported, so it is set here, before any test
module: an empty cache, no token, no telemetry, no Xet, and an endpoint where nobody listens. A test
that wants a Hub asks for `loopback_hub`.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import headless_chromium
from tests.loopback_hub import LoopbackHub, client_environment

_HOME = tempfile.mkdtemp(prefix="selfmod-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
_ENVIRONMENT = client_environment(_HOME) | {"HF_ENDPOINT": "http://127.0.0.1:9"}
# an empty folder of certificates, because reading the system's takes half of a short command's time
_ENVIRONMENT["SSL_CERT_DIR"] = tempfile.mkdtemp(dir=_HOME)
_ENVIRONMENT.pop("SSL_CERT_FILE", None)
os.environ.clear()
os.environ.update(_ENVIRONMENT)

SHARED_HUB = Path(__file__).resolve().parents[2] / "shared" / "hub"
CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def pytest_collection_finish() -> None:
    """Leave all that was imported out of later garbage collections. Each training begins with one."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class HubSeed:
    """Read-only data sets in Hub layout: `path/datasets/<org>/<name>/...`."""

    path: Path
    real: bool  # whether these are the published data sets, or small generated ones of the same layout


@pytest.fixture(scope="session")
def hub_seed(tmp_path_factory: pytest.TempPathFactory) -> HubSeed:
    """Small data sets under the names ylecun/mnist, uoft-cs/cifar10, stanfordnlp/imdb."""
    return HubSeed(generate_seed(tmp_path_factory.mktemp("hub-seed")), real=False)


@pytest.fixture(scope="session")
def published_seed(hub_seed: HubSeed) -> HubSeed:
    """The published data sets where they lie beside the checkout, else `hub_seed`.

    Each process reads them anew, which takes many seconds. So this is for tests of the data sets themselves.
    """
    if SHARED_HUB.is_dir():
        return HubSeed(SHARED_HUB, real=True)
    return hub_seed


@pytest.fixture
def loopback_hub(tmp_path: Path, hub_seed: HubSeed) -> Iterator[LoopbackHub]:
    """A Hub of this test's own, with `hub_seed` underneath: `.url`, `.root`, `.token`, `.requests`, ...

    `HF_ENDPOINT` is read at import and so cannot change within this process. Hence: `loopback_hub.api()`, an
    HfApi with endpoint and token, where that is enough; for all else (`from_pretrained`, `load_dataset`, the
    Trainer's pushes, scripts) a process with `env=loopback_hub.env()`: a whole environment, empty cache; see `warm`.
    """
    with LoopbackHub(tmp_path / "hub", seeds=[hub_seed.path]) as hub:
        yield hub


@pytest.fixture
def published_hub(tmp_path: Path, published_seed: HubSeed) -> Iterator[LoopbackHub]:
    """As `loopback_hub`, with `published_seed` underneath."""
    with LoopbackHub(tmp_path / "hub", seeds=[published_seed.path]) as hub:
        yield hub


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; a test that asks for it is skipped where there is none."""
    yield from headless_chromium()


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn, for tests of all else in a report: drawing them takes most of its time."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: file.write(b"blank"))


# ------------------------------------------------------------------------------ results to publish and report


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of four networks; only to be read."""
    folder = tmp_path_factory.mktemp("sweep")
    flags = ["--recipe=digits", "--hidden_sizes=8", "--aux_weights", "0", "10", "--seeds", "1", "2"]
    limits = ["--num_train_epochs=2", "--num_chains=2", "--num_draws=40", "--max_train_samples=200"]
    _selfmod("sweep", *flags, *limits, f"--output_dir={folder}")
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, its RLCT estimated; only to be read."""
    folder = tmp_path_factory.mktemp("model")
    _selfmod("train", "--task=digits", "--num_train_epochs=2", f"--output_dir={folder}")
    _selfmod("rlct", f"--model={folder}", "--num_draws=60")
    return folder


def _selfmod(*argv: str) -> None:
    from selfmod_hf.cli import main

    assert main([*argv, "--quiet"]) == 0


# ------------------------------------------------------------------------------------- generated seeds


def generate_seed(folder: Path) -> Path:
    """Small data sets with the real ones' columns, features and file names; a linear model can learn them."""
    digits = [str(digit) for digit in range(10)]
    _write_images(folder / "datasets/ylecun/mnist", "mnist", "image", digits, (28, 28))
    _write_images(folder / "datasets/uoft-cs/cifar10", "plain_text", "img", CIFAR10_NAMES, (32, 32, 3))
    _write_texts(folder / "datasets/stanfordnlp/imdb", "plain_text", ["neg", "pos"])
    return folder


def _write_images(repo: Path, config: str, column: str, names: list[str], shape: tuple[int, ...]) -> None:
    from datasets import ClassLabel, Features, Image

    generator = np.random.default_rng(0)
    templates = generator.integers(0, 200, size=(len(names), *shape))
    features = Features({column: Image(), "label": ClassLabel(names=names)})
    splits = {}
    for split, count in (("train", 400), ("test", 100)):
        labels = np.arange(count) % len(names)
        pixels = templates[labels] + generator.integers(0, 56, size=(count, *shape))
        images = [{"bytes": _png(image), "path": None} for image in pixels.astype(np.uint8)]
        splits[split] = {column: images, "label": labels.tolist()}
    write_repo(repo, config, features, splits)


def _write_texts(repo: Path, config: str, names: list[str]) -> None:
    from datasets import ClassLabel, Features, Value

    generator = np.random.default_rng(0)
    words = {0: ["dull", "awful", "boring", "bad"], 1: ["great", "moving", "lovely", "good"]}
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    splits = {}
    for split, count in (("train", 200), ("test", 50)):
        labels = (np.arange(count) * len(names) // count).tolist()  # sorted by label, like the real one
        texts = [" ".join(generator.choice([*words[label], "film", "the", "a"], size=20)) for label in labels]
        texts = [f"{text}. It's (very) so." for text in texts]
        splits[split] = {"text": texts, "label": labels}
    write_repo(repo, config, features, splits)


def write_repo(repo: Path, config: str, features: Any, splits: dict[str, dict[str, Any]]) -> None:
    """Parquet with the features in its metadata, and a README that names config and splits."""
    import yaml
    from datasets import Dataset

    (repo / config).mkdir(parents=True)
    for split, columns in splits.items():
        Dataset.from_dict(columns, features=features).to_parquet(repo / config / f"{split}-00000-of-00001.parquet")
    sizes = [{"name": split, "num_examples": len(columns["label"])} for split, columns in splits.items()]
    info = {"config_name": config, "features": features._to_yaml_list(), "splits": sizes}
    files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
    card = {"dataset_info": info, "configs": [{"config_name": config, "data_files": files, "default": True}]}
    text = f"---\n{yaml.safe_dump(card, sort_keys=False)}---\nGenerated for tests; not the published data set.\n"
    (repo / "README.md").write_text(text, encoding="utf-8")


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()

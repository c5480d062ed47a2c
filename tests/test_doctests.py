"""The examples in docstrings run, and every public function and class has one."""

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import selfmod_hf

PACKAGE = Path(selfmod_hf.__file__).parent

# their examples would need a Hub, a finished folder or half a minute
WITHOUT_EXAMPLE = {
    "LLCCalibration",  # see `calibrate_llc`, which returns it
    "TuningResult",
    "estimate_checkpoints",
    "load_blocks",
    "load_texts",
    "push",
    "replicate_rlct",
    "report",
    "reproduce",
    "run_sweep",
    "tune",
}


def modules_with_examples() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "metrics"):  # in the form of `evaluate`; tests/metrics runs them
            continue
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            names.append(".".join(parts).removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(import_module(name), optionflags=flags)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_name_has_an_example():
    missing = set()
    for name in selfmod_hf.__all__:
        value = getattr(selfmod_hf, name)
        if callable(value) and ">>> " not in (inspect.getdoc(value) or ""):
            missing.add(name)
    assert missing == WITHOUT_EXAMPLE

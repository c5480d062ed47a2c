"""The package's face."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import selfmod_hf
from selfmod_hf.hub.card import CITATION


def test_import_is_light():
    program = "import sys, selfmod_hf; assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_public_name_resolves():
    for name in selfmod_hf.__all__:
        assert getattr(selfmod_hf, name) is not None
    assert set(dir(selfmod_hf)) == set(selfmod_hf.__all__)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = selfmod_hf.no_such_name


def test_citation_file():
    """It names this version, and the same article as the cards and the README."""
    root = Path(__file__).resolve().parents[1]
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["version"] == selfmod_hf.__version__
    article = citation["preferred-citation"]
    for text in (CITATION, (root / "README.md").read_text()):
        first = text[text.index("@article") :]
        assert first.index(article["title"]) < first.index("}\n")
        for entry in (article["doi"], f"volume = {{{article['volume']}}}", f"{{{article['start']}}}"):
            assert entry in first.replace("  ", " ")
        for author in article["authors"]:
            assert f"{author['family-names']}, {author['given-names']}" in first

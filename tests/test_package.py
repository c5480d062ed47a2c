"""The package's face."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import selfmod_hf
from scripts.code_metrics import read_package
from selfmod_hf.hub.card import CITATION

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


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


def imported_packages() -> set[str]:
    """The first name of each module that a file of the package imports."""
    found = set()
    for file in read_package(Path(selfmod_hf.__file__).parent):
        for node in ast.walk(ast.parse(file.text)):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"selfmod_hf"}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 knows no packages without a top_level.txt")
def test_what_is_imported_is_required():
    """By the package itself or by an extra, not only by another package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        lines += extra
    required = {canonicalize_name(Requirement(line).name) for line in lines}
    providers = packages_distributions()
    imported = imported_packages()
    assert len(imported) > 20
    for name in imported:
        assert {canonicalize_name(provider) for provider in providers[name]} & required, name


def test_citation_file():
    """It names this version, and the same article as the cards and the README."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == selfmod_hf.__version__
    article = citation["preferred-citation"]
    for text in (CITATION, (ROOT / "README.md").read_text()):
        first = text[text.index("@article") :]
        assert first.index(article["title"]) < first.index("}\n")
        for entry in (article["doi"], f"volume = {{{article['volume']}}}", f"{{{article['start']}}}"):
            assert entry in first.replace("  ", " ")
        for author in article["authors"]:
            assert f"{author['family-names']}, {author['given-names']}" in first

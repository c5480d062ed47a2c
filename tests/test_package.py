"""The package's face."""

import subprocess
import sys

import pytest

import selfmod_hf


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

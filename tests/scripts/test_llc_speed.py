"""The settings of the benchmark of estimates beside other tools."""

import sys
from pathlib import Path

import pytest

from selfmod_hf.complexity.settings import LLCSettings

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import llc_speed


def test_the_row_without_checks_has_the_settings_of_the_paper():
    settings = LLCSettings(preset=llc_speed.NO_CHECKS, **llc_speed.OURS)
    assert settings.of_paper
    assert settings.inverse_temperature(60_000) == pytest.approx(llc_speed.NBETA)

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


def test_rows_are_chosen_by_their_names():
    tools = llc_speed.installed_tools(None, None)
    chosen = llc_speed.chosen_tools(tools, ["ours, bfloat16", "ours"])
    assert [tool.name for tool in chosen] == ["ours", "ours, bfloat16"]
    with pytest.raises(SystemExit, match="--tools 'theirs': allowed are ours, "):
        llc_speed.chosen_tools(tools, ["theirs"])

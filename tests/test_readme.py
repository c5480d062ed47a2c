"""The README's transcripts are what the commands say."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
SELFMOD = "import sys; from selfmod_hf.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
def test_from_nothing_to_a_published_report(loopback_hub, tmp_path):
    """Three commands, run one after another in an empty folder; `...` stands for anything."""
    (block,) = re.findall(r"```console\n(.*?)```", README.read_text(), re.DOTALL)
    steps = re.findall(r"^\$ selfmod (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    assert len(steps) == 3
    for command, expected in steps:
        flags = [sys.executable, "-c", SELFMOD, *command.split()]
        env = loopback_hub.env()
        done = subprocess.run(flags, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert doctest.OutputChecker().check_output(expected, done.stdout, doctest.ELLIPSIS), done.stdout
    assert loopback_hub.api().file_exists("me/digits", "report.html", repo_type="dataset")

"""`selfmod completion` completes commands, flags and values in a real bash that finds no program."""

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time

import pytest

from selfmod_hf.cli import COMMANDS, main, module_of
from selfmod_hf.cli.arguments import make_parser
from tests import warm

pytest.importorskip("shtab", reason="needs shtab (pip install 'selfmod_hf[completion]')")
BASH = shutil.which("bash")
SHOW = "\x01printf '<%s>' \x05\n"  # puts a command before the completed line, so that bash prints its words


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The script of bash, as a file."""
    path = tmp_path_factory.mktemp("completion") / "selfmod.bash"
    path.write_text(warm.run([*warm.SELFMOD, "completion", "bash"], check=True).stdout)
    return path


class Terminal:
    """An interactive bash in a terminal, without its own settings."""

    def __init__(self, folder):
        self.ours, theirs = pty.openpty()
        env = {"PATH": str(folder / "no-programs"), "HOME": str(folder), "TERM": "dumb", "PS1": "ready> "}
        command = [BASH, "--norc", "--noprofile", "-i"]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=folder, start_new_session=True
        )
        os.close(theirs)
        self.read_until("ready> ")

    def read_until(self, pattern):
        """What bash prints until this, which is to come within 20 seconds."""
        printed, end = "", time.monotonic() + 20
        while not re.search(pattern, printed):
            if not select.select([self.ours], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"{pattern} is not in {printed!r}")
            printed += os.read(self.ours, 65536).decode(errors="replace")
        return printed

    def type(self, text):
        os.write(self.ours, text.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(tmp_path):
    found = Terminal(tmp_path)
    yield found
    found.close()


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tr", ["train"]),
        ("train --aux", ["train", "--aux_weight"]),
        ("train --task mn", ["train", "--task", "mnist"]),
        ("train --task mnist --aux", ["train", "--task", "mnist", "--aux_weight"]),
        ("train --detach_targets F", ["train", "--detach_targets", "False"]),
        ("train --hidden_sizes 32 16 --detach", ["train", "--hidden_sizes", "32", "16", "--detach_targets"]),
        ("train --config stu", ["train", "--config", "study.yaml"]),
        ("sweep --dry", ["sweep", "--dry_run"]),
        ("sweep --recipe cifar10-p", ["sweep", "--recipe", "cifar10-paper-text"]),
        ("rlct --sampler pre", ["rlct", "--sampler", "preconditioned"]),
        ("report ru", ["report", "runs/"]),
        ("completion z", ["completion", "zsh"]),
    ],
)
def test_bash_completes_what_is_typed(typed, completed, script, terminal, tmp_path):
    """`PATH` leads to no program, so neither Python nor torch is started."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "study.yaml").touch()
    terminal.type(f"source {script}\n")
    terminal.read_until("ready> ")
    terminal.type(f"selfmod {typed}\t{SHOW}")
    printed = terminal.read_until(r"<selfmod>[^\n]*ready> ")
    assert re.findall(r"<([^>]*)>", printed.rpartition("<selfmod>")[2]) == completed


def test_the_script_knows_every_flag(script):
    text = script.read_text()
    for name in COMMANDS:
        (line,) = re.findall(rf"^_shtab_selfmod_{name}_option_strings=\((.*)\)$", text, flags=re.MULTILINE)
        known = set(shlex.split(line))
        for action in make_parser(name, *module_of(name).flag_classes())._actions:
            assert known & set(action.option_strings), action.option_strings


@pytest.mark.parametrize(("shell", "begin"), [("zsh", "#compdef selfmod\n"), ("tcsh", "")])
def test_other_shells_get_a_script(shell, begin, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert text.startswith(begin)
    assert all(word in text for word in (*COMMANDS, "aux_weight", "mnist"))


def test_another_shell_is_one_line(capsys):
    assert main(["completion", "--shell=csh"]) == 2
    assert main(["completion"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"selfmod: error: --shell={given}: allowed are bash, zsh, tcsh" for given in ("'csh'", "None")]

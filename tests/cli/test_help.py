"""`selfmod help`, and what the short help of a command says."""

import re

import pytest

from selfmod_hf.cli import main


def printed_help(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_is_a_command(capsys):
    assert main(["help"]) == 0
    listed = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == listed
    assert "train one network" in listed
    assert printed_help(capsys, "help", "train") == printed_help(capsys, "train", "--help")
    assert printed_help(capsys, "help", "push") == printed_help(capsys, "push", "--help")


@pytest.mark.parametrize("command", ["train", "sweep", "tune"])
def test_the_short_help_has_the_flags_of_the_tutorials(command, capsys):
    flags = re.findall(r"^  (--\w+)", printed_help(capsys, command, "--help"), flags=re.MULTILINE)
    assert {"--image_size", "--max_length", "--test_fraction"} <= set(flags)


def test_flags_of_several_processes_and_of_resuming_say_what_they_take(capsys):
    text = printed_help(capsys, "train", "--help")
    assert re.search(r"--num_processes +Number of processes with --accelerate_config", text)
    assert re.search(r"--resume_from_checkpoint +A checkpoint to go on from, or last: the newest", text)

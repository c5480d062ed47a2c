"""Commands and code of documentation pages, for the tests that run them."""

import re
import shlex
from dataclasses import dataclass

# run with a JSON list of commands
RUN = """
import json, sys
from selfmod_hf.cli import main
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
"""
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of a page: the word behind its fence, or "indented", and its text."""

    kind: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page between fences, then the indented ones."""
    found = [Block(kind or "none", text) for _, kind, text in FENCE.findall(page)]
    rest = FENCE.sub("", page)
    for paragraph in re.findall(r"(?:(?<=\n\n)|\A)((?: {4}[^\n]*\n+)+)", rest):
        found.append(Block("indented", paragraph))
    return found


def page_commands(page: str) -> list[list[str]]:
    """Return the arguments of the page's commands `selfmod ...`."""
    lines = page.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("    selfmod ")]


def with_flags(words: list[str], flags: dict[str, list[str]]) -> list[str]:
    """Return a command with further flags at its end: those of the longest beginning of it among the keys."""
    command = " ".join(words)
    beginnings = [beginning for beginning in flags if command.startswith(beginning)]
    assert beginnings, f"no flags for {command}"
    return [*words, *flags[max(beginnings, key=len)]]

"""Commands of a documentation page, for the tests that run them."""

import shlex

# run with a JSON list of commands
RUN = """
import json, sys
from selfmod_hf.cli import main
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
"""


def page_commands(page: str) -> list[list[str]]:
    """Return the arguments of the page's commands `selfmod ...`."""
    lines = page.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("    selfmod ")]

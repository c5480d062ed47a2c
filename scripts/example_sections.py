"""Let the site show the examples of docstrings as code (an extension of griffe, for mkdocstrings)."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^( *)Example:\n+((?:\1 +\S.*\n|\n)+)", re.MULTILINE)


def as_examples(match: re.Match[str]) -> str:
    """Return the section under the name that griffe reads, with plain code between fences."""
    indent, code = match[1], match[2].rstrip()
    if ">>>" not in code:
        code = f"{indent}    ```python\n{code}\n{indent}    ```"
    return f"{indent}Examples:\n{code}\n\n"


class ExampleSections(griffe.Extension):
    """Change the section `Example:` of each docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change one docstring."""
        if obj.docstring:
            obj.docstring.value = SECTION.sub(as_examples, obj.docstring.value + "\n").rstrip()

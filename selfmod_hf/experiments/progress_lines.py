"""Lines of progress from other machines. This module imports nothing heavy, so that its actor starts in a second."""

from __future__ import annotations


class ProgressLines:
    """Collect lines of progress from the workers. It is an actor on the driver's machine."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        self.lines.append(line)

    def take(self) -> list[str]:
        """Return the lines since the last call."""
        lines, self.lines = self.lines, []
        return lines

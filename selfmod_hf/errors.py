"""The only exception of the package: `InputError`, for unusable input."""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """Report an unusable field, column or file.

    The message is one line: the name, its value, and the problem or the allowed values. Names of other fields stand
    in backquotes within `problem`. The command line turns the names of fields into its flags, prints the line and
    exits with code 2.

    Attributes:
        name: name of the field. Several names are joined by a comma.
        value: value of the field, as it was given.
        problem: the problem, or the allowed values.

    Example:
        >>> raise InputError("max_length", 0, "allowed are integers of at least 1")
        Traceback (most recent call last):
        selfmod_hf.errors.InputError: max_length=0: allowed are integers of at least 1
    """

    def __init__(self, name: str, value: object, problem: str) -> None:
        super().__init__(f"{name}={value!r}: {problem}")
        self.name = name
        self.value = value
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        # needed because an exception is pickled with its message only, and one process sends this to the others
        return type(self), (self.name, str(self.value), self.problem)

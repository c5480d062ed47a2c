"""The one exception the package adds: input that cannot be used."""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """A field, column or file that cannot be used.

    The message is one line: the name, its value, what is wrong or allowed. Within `problem`, another field's name
    stands in backquotes. The command line turns the names of fields into its flags, prints the line and exits with
    code 2.

    Attributes:
        name: of the field; of several, joined by a comma.
        value: of the field, as it was given.
        problem: what is wrong or allowed.
    """

    def __init__(self, name: str, value: object, problem: str) -> None:
        super().__init__(f"{name}={value!r}: {problem}")
        self.name = name
        self.value = value
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        # an exception is pickled with its message alone, and one process sends this to the others
        return type(self), (self.name, str(self.value), self.problem)

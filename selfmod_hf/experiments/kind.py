"""The kinds of values that settings have, and reading them from texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args, get_origin

from .setting import types_of


@dataclass(frozen=True)
class Kind:
    """Describe the values of a setting.

    Attributes:
        type: bool, int, float or str, of a value or of the entries of a list.
        is_list: whether a value is a list.
    """

    type: type
    is_list: bool

    @property
    def joint(self) -> str:
        """Return the sign between the entries of a list."""
        return "-" if self.type is int else "+"

    @property
    def is_number(self) -> bool:
        """Return whether a value is one number."""
        return self.type in (int, float) and not self.is_list

    def read(self, text: str) -> Any:
        """Return the value that a text describes. A list stays a text.

        Raises:
            ValueError: the text describes no value of this type.
        """
        if not self.is_list:
            return _read(self.type, text)
        entries = [_read(self.type, entry) for entry in self._split(text)]
        return self.joint.join(map(str, entries))

    def read_list(self, text: str) -> list[Any]:
        """Return the entries of a list from its text."""
        return [_read(self.type, entry) for entry in self._split(text)]

    def _split(self, text: str) -> list[str]:
        return text.split(self.joint) if text else []


def _read(kind: type, text: str) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("allowed are true and false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"allowed are {'integers' if kind is int else 'numbers'}") from None


def kind_of(owner: type, name: str) -> Kind:
    """Return the kind of a dataclass's field."""
    of_lists = [hint for hint in types_of(owner, name) if get_origin(hint) is list]
    if of_lists:
        (entry,) = get_args(of_lists[0])
        return Kind(entry, True)
    plain = [hint for hint in types_of(owner, name) if hint in (bool, int, float)]
    return Kind(plain[0] if plain else str, False)

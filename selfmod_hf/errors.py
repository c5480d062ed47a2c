"""The one exception the package adds: input that cannot be used."""


class InputError(ValueError):
    """A flag, field, column or file that cannot be used.

    The message is one line: the name, its value, what is wrong or allowed. The command line prints it and exits
    with code 2.
    """

    def __init__(self, name: str, value: object, problem: str) -> None:
        super().__init__(f"{name}={value!r}: {problem}")

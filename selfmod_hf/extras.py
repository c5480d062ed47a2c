"""The extras of the package: what `pip install 'selfmod_hf[report]'` adds to the core.

Modules of extras are imported where they are used. `need` raises one line before work that would miss them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping

# extra -> modules that it installs and the package imports
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "completion": ("shtab",),
    "metrics": ("sklearn", "torchmetrics", "evaluate"),
    "mysql": ("optuna", "sqlalchemy", "pymysql"),
    "peft": ("peft",),
    "postgres": ("optuna", "sqlalchemy", "psycopg"),
    "ray": ("ray",),
    "reproduce": ("sklearn", "matplotlib", "plotly", "tensorboard", "optuna"),
    "report": ("matplotlib", "plotly"),
    "space": ("gradio",),
    "tensorboard": ("tensorboard", "matplotlib"),
    "tune": ("optuna", "matplotlib"),
}


PACKAGES = {"sklearn": "scikit-learn"}  # of other names than their module


class MissingExtraError(ImportError):
    """Report a missing extra. The message is one line with the command that installs it.

    Example:
        >>> raise MissingExtraError("a report", "plotly", "report")
        Traceback (most recent call last):
        selfmod_hf.extras.MissingExtraError: a report needs plotly: pip install 'selfmod_hf[report]'
    """

    def __init__(self, purpose: str, module: str, extra: str) -> None:
        package = PACKAGES.get(module, module)
        super().__init__(f"{purpose} needs {package}: {install_line(extra)}", name=module)
        self.arguments = (purpose, module, extra)

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # needed because an exception is pickled with its message only
        return type(self), self.arguments


def install_line(extra: str) -> str:
    """Return the command that installs an extra.

    Example:
        >>> install_line("tune")
        "pip install 'selfmod_hf[tune]'"
    """
    return f"pip install 'selfmod_hf[{extra}]'"


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it.

    Example:
        >>> is_installed("json"), is_installed("no_such_module")
        (True, False)
    """
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


def need(purpose: str, extra: str, *modules: str) -> None:
    """Raise an error if a module of an extra is missing.

    Args:
        purpose: what needs it, the beginning of the message.
        extra: a key of `EXTRAS`.
        modules: the needed ones. Default: all of the extra.

    Raises:
        MissingExtraError: a module is missing.

    Example:
        >>> need("a report", "report")
    """
    for module in modules or EXTRAS[extra]:
        if not is_installed(module):
            raise MissingExtraError(purpose, module, extra)

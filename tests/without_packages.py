"""Hide packages from this process, as if they were not installed: `hide("datasets")` before anything imports them.

The own package is then a checkout that nobody installed.
"""

import sys
from collections.abc import Iterable
from typing import Any


class _Without:
    """A finder of modules and of distributions that never finds some packages."""

    def __init__(self, finder: Any, hidden: Iterable[str]) -> None:
        self.finder = finder
        self.hidden = frozenset(hidden)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self.hidden:
            return None
        return self.finder.find_spec(name, path, target)

    def find_distributions(self, context: Any) -> Any:
        find = getattr(self.finder, "find_distributions", None)
        if find is None or context.name in (*self.hidden, "selfmod_hf"):
            return ()
        return find(context)

    def invalidate_caches(self) -> None:
        if hasattr(self.finder, "invalidate_caches"):
            self.finder.invalidate_caches()


def hide(*names: str) -> None:
    sys.meta_path[:] = [_Without(finder, names) for finder in sys.meta_path]

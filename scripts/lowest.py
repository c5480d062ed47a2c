"""The lowest versions that pyproject.toml claims, as constraints for pip: requirements/lowest.txt.

python scripts/lowest.py            # write it
python scripts/lowest.py --check    # exit code 1 where it is not in step with pyproject.toml
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FILE = ROOT / "requirements" / "lowest.txt"
HEAD = "# Written by scripts/lowest.py from pyproject.toml; `make test-lowest` tests with these versions.\n"


def lowest() -> str:
    """`name==bound` of each requirement that has a lower bound; those of the extra `bench` are exact already."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["tune"], *extras["peft"], *extras["dev"]]
    found = [re.fullmatch(r"([\w-]+)>=([\w.]+)(?:,<\d+)?", requirement) for requirement in wanted]
    return HEAD + "".join(f"{bound[1]}=={bound[2]}\n" for bound in found if bound is not None)


def main() -> int:
    if "--check" not in sys.argv[1:]:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(lowest(), encoding="utf-8")
        return 0
    if FILE.read_text(encoding="utf-8") != lowest():
        print(f"{FILE.relative_to(ROOT)} is not in step with pyproject.toml: run python scripts/lowest.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

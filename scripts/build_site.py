"""Build the documentation site: `python scripts/build_site.py` writes build/site. Warnings are errors.

1. Copy the pages of docs/, README.md and the other pages of the top folder to build/docs. Links between them follow.
2. Write the pages that come from the code: the public names, the help of each command, the files of examples/.
3. Let zensical build the site by mkdocs.yml.

    python scripts/build_site.py --only-sources     # the first two steps, which need no zensical
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
SOURCES = BUILD / "docs"
# pages outside docs/ -> their place in the site
TOP_PAGES = {
    "README.md": "index.md",
    "REPRODUCTION.md": "reproduction.md",
    "LOG.md": "log.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
EXAMPLES = "example-files.md"
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCES = re.compile(r"(^ *```.*?^ *```[^\n]*$)", re.MULTILINE | re.DOTALL)
# files -> the classes that name their fields
RECORDS = {
    "row.json": ("json_records.NetworkRow", "json_records.EvaluatedNetwork", "json_records.NetworkKeys"),
    "curve.json": ("json_records.CurvePoint",),
    "run.json of a network": ("json_records.NetworkRun", "json_records.TaskFields"),
    "run.json of a study": ("json_records.SweepRun", "json_records.ArmRecord", "json_records.Session"),
    "rlct.json": ("complexity.result.LLCResult", "complexity.settings.LLCSettings"),
}
# headings of the page of public names, in the order of a first use
GROUPS = {
    "Networks": r"SelfModeling(Config|For\w+|Output)",
    "Data": r"TaskSpec|get_task|load_(images|texts|blocks)|ImagePreprocessing|backbone_preprocessing",
    "Training": r"SelfModelingTrain\w+|SelfModelingPopulation|Member",
    "Complexity": r".*(llc|rlct|LLC)\w*|estimate_checkpoints|weight_width|head_masks",
    "Studies and the Hub": r"run_sweep|report|reproduce|tune|push|load_results|\w+Settings|TuningResult",
}


class SiteError(Exception):
    """Say that a page cannot be made."""


# ---- pages that are written by hand ----


def repository_pages() -> dict[str, str]:
    """Return the place in the site of each page of the repository."""
    pages = {name: place for name, place in TOP_PAGES.items() if (ROOT / name).is_file()}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        pages[path.relative_to(ROOT).as_posix()] = path.relative_to(ROOT / "docs").as_posix()
    return pages


def copy_pages(pages: dict[str, str]) -> None:
    """Copy all pages, with their links changed to the site's places, and the pictures and scripts of docs/."""
    for name, place in pages.items():
        target = SOURCES / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(with_site_links(name, place, pages), encoding="utf-8")
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in (".png", ".svg", ".css", ".js"):
            target = SOURCES / path.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def with_site_links(name: str, place: str, pages: dict[str, str]) -> str:
    """Return the text of a page with each link to a file of the repository changed to its place in the site."""

    def changed(match: re.Match[str]) -> str:
        return f"{match[1]}{site_link(name, place, match[2], pages)}{match[3]}"

    parts = FENCES.split((ROOT / name).read_text(encoding="utf-8"))
    return "".join(part if FENCES.match(part) else LINK.sub(changed, part) for part in parts)


def site_link(name: str, place: str, link: str, pages: dict[str, str]) -> str:
    """Return a link of the page `name` as the page at `place` of the site needs it."""
    path, _, anchor = link.partition("#")
    if not path or ":" in path:
        return link
    file = os.path.normpath(Path(name).parent / path)
    if file in pages:
        target = pages[file]
    elif file.startswith("examples/") and (ROOT / file).is_file():
        target, anchor = EXAMPLES, anchor_of(Path(file).name)
    elif file.startswith("docs/") and (ROOT / file).is_file():
        target = file.removeprefix("docs/")
    else:
        raise SiteError(f"{name}: the link {link} leads to no page of the site")
    relative = os.path.relpath(target, Path(place).parent)
    return f"{relative}#{anchor}" if anchor else relative


def anchor_of(heading: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


# ---- pages that are made from the code ----


def write_examples() -> None:
    """Write one page with the text of each file of examples/."""
    kinds = {".py": "python", ".yaml": "yaml"}
    text = "# Examples to run\n\nThe files of the folder `examples`. The head of each says how to run it. "
    text += "[Three tasks in ten lines](examples.md#scripts-to-run) says what each of them needs.\n"
    for path in sorted((ROOT / "examples").iterdir(), key=lambda path: (path.suffix, path.name)):
        if path.suffix in kinds:
            content = path.read_text(encoding="utf-8").rstrip()
            text += f"\n## {path.name}\n\n```{kinds[path.suffix]}\n{content}\n```\n"
    (SOURCES / EXAMPLES).write_text(text, encoding="utf-8")


def place_of(value: Any) -> str:
    """Return the dotted name under which a public function or class is defined."""
    return f"{value.__module__}.{value.__qualname__}"


def write_api() -> None:
    """Write the page of all public names, in groups."""
    import selfmod_hf

    text = "# Python\n\nAll of `selfmod_hf.__all__`. The names are imported from `selfmod_hf` itself.\n"
    left = set(selfmod_hf.__all__) - {"__version__"}
    for heading, pattern in GROUPS.items():
        names = sorted(name for name in left if re.fullmatch(pattern, name))
        left.difference_update(names)
        text += f"\n## {heading}\n"
        for name in names:
            text += f"\n::: {place_of(getattr(selfmod_hf, name))}\n    options:\n      heading_level: 3\n"
    if left:
        raise SiteError(f"{sorted(left)} of selfmod_hf.__all__ are in no group of scripts/build_site.py")
    (SOURCES / "reference").mkdir(exist_ok=True)
    (SOURCES / "reference" / "api.md").write_text(text, encoding="utf-8")


def write_records() -> None:
    """Write the page of the fields of all records."""
    text = "# Records\n\nThe fields of the JSON files that [Files](../formats.md) lists.\n"
    for file, classes in RECORDS.items():
        text += f"\n## {file}\n"
        for name in classes:
            text += f"\n::: selfmod_hf.{name}\n    options:\n      heading_level: 3\n      members: []\n"
    (SOURCES / "reference" / "records.md").write_text(text, encoding="utf-8")


def write_cli() -> None:
    """Write the page with the complete help of each command."""
    from selfmod_hf.cli import COMMANDS

    text = "# Command line\n\nWhat `selfmod COMMAND --help all` prints.\n"
    for name, command in COMMANDS.items():
        text += f"\n## selfmod {name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n\n"
        text += f"```text\n{help_of(name)}\n```\n"
    (SOURCES / "reference" / "cli.md").write_text(text, encoding="utf-8")


def help_of(command: str) -> str:
    """Return the help of a command with all its flags."""
    from selfmod_hf.cli import main as selfmod

    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        selfmod([command, "--help", "all"])
    return printed.getvalue().rstrip()


# ---- the build ----


def write_sources() -> None:
    """Write all pages to build/docs."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    SOURCES.mkdir(parents=True)
    copy_pages(repository_pages())
    write_examples()
    write_api()
    write_records()
    write_cli()


def main() -> int:
    """Build the site, and return zensical's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-sources", action="store_true", help="write build/docs and stop")
    arguments = parser.parse_args()
    os.environ["COLUMNS"] = "100"  # of the help texts
    write_sources()
    if arguments.only_sources:
        return 0
    words = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(words, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

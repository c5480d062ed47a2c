"""Measure the prose of Markdown pages by the rules of this project's style.

    python scripts/prose_metrics.py [FILES] [--list]     # without FILES: README.md and all pages of the site

* Prose is what remains without code, tables, headings, HTML and addresses of links. Inline code counts as one word.
* A sentence ends at a full stop, a question mark, or a paragraph's or list item's end.
* A sentence is long if it has more than 25 words. `--list` prints long sentences and those with a semicolon.
* Relative clauses are counted as scripts/code_metrics.py counts them in docstrings.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from code_metrics import count_relative_clauses, per_1000

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 25
FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2[^\n]*$", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"^\s*(?:[*-]|\d+\.) ")
END = re.compile(r"(?<=[.!?])[)*_\"”]*\s+(?=[A-Z0-9(*`“\"λνεγ])")


@dataclass(frozen=True)
class Prose:
    """Hold the figures of one page. Rates are per 1,000 words."""

    words: int
    sentences: int
    long_sentences: int
    longest: int
    semicolons_per_1000_words: float
    relative_clauses_per_1000_words: float


def paragraphs(text: str) -> Iterator[str]:
    """Yield each paragraph and each list item of a page as one line of plain words."""
    text = FENCE.sub("\n", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    block: list[str] = []
    in_list = False
    for line in [*text.splitlines(), ""]:
        blank = not line.strip()
        is_code = line.startswith("    ") and not in_list
        is_other = line.lstrip().startswith(("|", "#", "<", "![", ":::", "---", "!!!"))
        if (blank or is_code or is_other or ITEM.match(line)) and block:
            yield plain(" ".join(block))
            block = []
        if ITEM.match(line):
            in_list = True
        elif not blank and not line.startswith(" "):
            in_list = in_list and bool(block)
        if not (blank or is_code or is_other):
            block.append(ITEM.sub("", line).strip())


def plain(text: str) -> str:
    """Return Markdown text without marks: a link is its text, and inline code is one word."""
    text = re.sub(r"`[^`]*`", "Code", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return text.replace("*", "").strip()


def sentences(text: str) -> list[str]:
    """Return the sentences of a page."""
    found = [part.strip() for paragraph in paragraphs(text) for part in END.split(paragraph)]
    return [sentence for sentence in found if sentence]


def count_words(sentence: str) -> int:
    """Count words. Signs and numbers between spaces count if they hold a letter or a digit."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def measure_prose(text: str) -> Prose:
    """Measure the prose of a page."""
    found = sentences(text)
    lengths = [count_words(sentence) for sentence in found]
    words = max(sum(lengths), 1)
    joined = "\n".join(found)
    return Prose(
        words=sum(lengths),
        sentences=len(found),
        long_sentences=sum(length > LONGEST for length in lengths),
        longest=max(lengths, default=0),
        semicolons_per_1000_words=per_1000(joined.count(";"), words),
        relative_clauses_per_1000_words=per_1000(count_relative_clauses(joined), words),
    )


def site_pages() -> list[Path]:
    """Return README.md and the pages below docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> int:
    """Print a line for each page, and one for all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="pages (default: README.md and docs/)")
    parser.add_argument("--list", action="store_true", help="print the sentences that break a rule")
    arguments = parser.parse_args()
    texts = {str(path): path.read_text(encoding="utf-8") for path in arguments.files or site_pages()}
    texts = {name.removeprefix(f"{ROOT}/"): text for name, text in texts.items()}
    heads = ("words", "sentences", "> 25 words", "longest", "; / 1000", "relative / 1000")
    print(f"{'':34}" + "".join(f"{head:>17}" for head in heads))
    for name, text in {**texts, "together": "\n\n".join(texts.values())}.items():
        found = measure_prose(text)
        print(f"{name:34}" + "".join(f"{value:>17}" for value in asdict(found).values()))
        if arguments.list and name != "together":
            for sentence in sentences(text):
                if count_words(sentence) > LONGEST or ";" in sentence:
                    print(f"    {count_words(sentence)} words: {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

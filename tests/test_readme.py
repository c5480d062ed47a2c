"""What README and docs/publishing.md show is what the commands and snippets print."""

import doctest
import re
from pathlib import Path

import pytest

from tests import warm

ROOT = Path(__file__).resolve().parents[1]


# what shortens a study: two of the four arms, and fewer draws
FEW = ["--aux_weights", "0", "50", "--num_draws", "200"]


def run_transcript(page: str, folder: Path, env: dict[str, str]) -> int:
    """Run the commands of a page's transcript, one after another; `...` stands for anything. Returns their number."""
    (block,) = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    steps = re.findall(r"^\$ selfmod (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    for command, expected in steps:
        typed = command.split()
        if typed[0] == "sweep":
            typed += FEW
        done = warm.run([*warm.SELFMOD, *typed], env, folder)
        assert done.returncode == 0, done.stderr
        assert doctest.OutputChecker().check_output(f"{expected}...", done.stdout, doctest.ELLIPSIS), done.stdout
    return len(steps)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where both transcripts run: the sweep of the second one has been finished by the first."""
    return tmp_path_factory.mktemp("transcripts")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the study of digits takes 2 minutes of a core, and others run beside it
def test_the_commands_of_the_readme(published_hub, folder):
    assert run_transcript("README.md", folder, published_hub.env()) == 4


@pytest.mark.slow
def test_from_nothing_to_a_published_report(loopback_hub, folder):
    assert run_transcript("docs/publishing.md", folder, loopback_hub.env()) == 3
    assert loopback_hub.api().file_exists("me/digits", "report.html", repo_type="dataset")


@pytest.mark.slow
def test_the_snippet_of_the_readme(loopback_hub, tmp_path):
    text = (ROOT / "README.md").read_text()
    snippet, shown = re.findall(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", text, re.DOTALL)[0]
    done = warm.run(["-c", snippet], loopback_hub.env(), tmp_path)
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line.startswith(("accuracy", "RLCT"))]
    expected = [line.strip() for line in shown.splitlines()]
    assert [words(line) for line in printed] == [words(line) for line in expected]
    assert numbers(printed[0]) == pytest.approx(numbers(expected[0]), abs=0.03)  # other machines round otherwise
    assert numbers(printed[1])[0] == pytest.approx(numbers(expected[1])[0], abs=1.0)


def words(line: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", line)


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


def test_the_readme_is_short_and_its_links_exist():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"

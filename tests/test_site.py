"""The documentation site is built without warnings, is read without a network, and answers a reader's questions."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from tests.browser import open_page, wait_for
from tests.pages import FENCE

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = ROOT / "docs" / "reader-test.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchor_of(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    text = re.sub(r"[`*]", "", heading).strip().lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text))


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The pages and anchors that a page leads to."""
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        if ":" not in path:
            yield (page.parent / path).resolve() if path else page, anchor


def written_pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", written_pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_the_repository_lead_somewhere(page):
    for target, anchor in links(page):
        assert target.exists(), target
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{target.name}#{anchor}"


class IgnoreTags(yaml.SafeLoader):
    """Reads YAML whose tags name Python functions, without them."""


IgnoreTags.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def test_each_page_is_in_the_navigation():
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), IgnoreTags)["nav"]
    found = set(re.findall(r"[\w/-]+\.md", str(nav)))
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in found


def answers() -> list[tuple[Path, str]]:
    rows = re.findall(r"^\| \d+ \| .*\? \| \[.*\]\((.*)\) \|$", QUESTIONS.read_text(encoding="utf-8"), re.MULTILINE)
    found = [row.partition("#") for row in rows]
    return [((QUESTIONS.parent / path).resolve(), anchor) for path, _, anchor in found]


def test_twenty_questions_are_answered_within_two_clicks():
    readme = ROOT / "README.md"
    reached = {readme} | {target for target, _ in links(readme)}
    for page in list(reached):
        if page.suffix == ".md" and page.name not in ("LOG.md", "CHANGELOG.md", QUESTIONS.name):
            reached.update(target for target, _ in links(page))
    found = answers()
    assert len(found) == 20
    for page, anchor in found:
        assert anchor in anchors(page), f"{page.name}#{anchor}"
        assert page in reached, page


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site. It is built in a copy of the checkout, because other tests read the checkout."""
    pytest.importorskip("zensical")
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("docs", "examples", "scripts", "selfmod_hf"):
        shutil.copytree(ROOT / name, copy / name)
    for file in (ROOT / "mkdocs.yml", *ROOT.glob("*.md")):
        shutil.copy(file, copy)
    done = subprocess.run(
        [sys.executable, "scripts/build_site.py"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "build" / "site"


class Page(HTMLParser):
    """Collects what a page loads, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.linked: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors.update(filter(None, (found.get("id"), found.get("name"))))
        if tag == "a":
            self.linked.add(found.get("href") or "")
        elif tag == "link" and found.get("rel") not in ("prev", "next", "canonical"):
            self.loaded.add(found.get("href") or "")
        if "src" in found:
            self.loaded.add(found["src"] or "")


@pytest.mark.slow
def test_the_site_needs_no_network_and_its_links_lead_somewhere(site):
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}  # a server's page
    assert len(pages) > 25
    for path, page in pages.items():
        for address in page.loaded - {""}:
            assert not re.match(r"(https?:)?//", address), (path.name, address)
            assert address.startswith("data:") or (path.parent / address.split("?")[0]).exists(), (path.name, address)
        for address in page.linked - {""}:
            place, _, anchor = address.partition("#")
            if re.match(r"\w+:", place):
                continue
            target = (path.parent / unquote(place)).resolve() if place else path
            assert target.exists(), (path.name, address)
            if anchor and target in pages:
                assert unquote(anchor) in pages[target].anchors, (path.name, address)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"""(?:url\(|@import )['"]?(?:https?:)?//""", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_the_site_shows_every_public_name(site):
    import selfmod_hf

    shown = Page(site / "reference" / "api.html").anchors
    for name in set(selfmod_hf.__all__) - {"__version__"}:
        assert any(anchor.endswith(f".{name}") for anchor in shown), name


SEARCH = """
document.querySelector(".md-search__button").click();
const host = [...document.querySelectorAll("*")].find((e) => e.shadowRoot?.querySelector("input"));
if (!host) return null;
const input = host.shadowRoot.querySelector("input");
if (input.value != arguments[0]) {
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, arguments[0]);
  input.dispatchEvent(new InputEvent("input", { bubbles: true, composed: true }));
}
return [...host.shadowRoot.querySelectorAll("a")].map((link) => link.textContent);
"""


@pytest.mark.slow
def test_search_works_in_a_page_that_is_opened_from_a_file(site, browser):
    open_page(browser, (site / "index.html").as_uri())
    found = wait_for(browser, SEARCH, "prunable_share")
    assert any("prunable_share" in text for text in found)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


CONTRAST = """
document.body.dataset.mdColorScheme = arguments[0];
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
const numbers = (color) => { const found = color.match(/[\\d.]+/g).map(Number); return [...found, 1].slice(0, 4); };
const over = (front, back) => front.slice(0, 3).map((v, k) => v * front[3] + back[k] * (1 - front[3]));
const behind = (element) => {
  const own = numbers(getComputedStyle(element).backgroundColor);
  return element.parentElement ? over(own, behind(element.parentElement)) : over(own, [255, 255, 255]);
};
const words = ".md-nav__link--active .md-ellipsis, .md-tabs__link, .md-typeset p, .md-typeset a:not(.headerlink)";
return [...document.querySelectorAll(words)]
  .filter((element) => element.getClientRects().length).map((element) => {
    const back = behind(element);
    const front = over(numbers(getComputedStyle(element).color), back);
    const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
    return [element.textContent.trim(), (high + 0.05) / (low + 0.05)];
  });
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["default", "slate"])
def test_words_of_the_site_have_the_contrast_of_wcag_aa(site, browser, scheme):
    open_page(browser, (site / "examples.html").as_uri())
    browser.execute_script(
        "document.head.insertAdjacentHTML('beforeend', '<style>* {transition: none !important}</style>')"
    )
    found = browser.execute_script(CONTRAST, scheme)
    assert "Three tasks in ten lines" in [text for text, _ in found]  # the page that is open, in the navigation
    assert len(found) > 10
    assert [(text, contrast) for text, contrast in found if contrast < 4.5] == []

"""report.html in a real browser: it draws, it answers clicks and keys, it asks no host for anything."""

import json
import shutil
from pathlib import Path

import pytest

from selfmod_hf.cli import main
from tests.browser import open_page, requested, wait_for

HOSTILE = "</script><b id=hostile>&amp;'\""
# pixels from the middle of a figure to its second small mark, and the network this stands for
TO_POINT = """
const plot = document.getElementById(arguments[0]), box = plot.getBoundingClientRect();
const { xaxis, yaxis, _size } = plot._fullLayout, { x, y, customdata } = plot.data.find(trace => trace.customdata);
const right = _size.l + xaxis.l2p(x[1]) - box.width / 2, down = _size.t + yaxis.l2p(y[1]) - box.height / 2;
return [Math.round(right), Math.round(down), customdata[1]];
"""


@pytest.fixture(scope="module")
def report(small_sweep, tmp_path_factory) -> Path:
    """Of a sweep whose settings and reasons try to break out of the page."""
    folder = tmp_path_factory.mktemp("report") / "sweep"
    shutil.copytree(small_sweep, folder)
    run = json.loads((folder / "run.json").read_text())
    run["sessions"][0]["command"].append(HOSTILE)
    (folder / "run.json").write_text(json.dumps(run))
    path = folder / "cells" / "h8-aw10-seed1" / "row.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rlct_status_reason": HOSTILE}))
    assert main(["report", str(folder)]) == 0
    return folder / "report" / "report.html"


def test_one_file_that_holds_everything(report):
    text = report.read_text()
    assert report.stat().st_size < 5_000_000
    assert "<link" not in text
    assert " src=" not in text.partition('id="plotly"')[0]
    assert text.count(HOSTILE) == 0


def open_report(browser, report: Path) -> None:
    open_page(browser, report.as_uri())
    wait_for(browser, "return document.documentElement.dataset.readyAfter")


def test_it_draws_without_errors_and_without_a_network(browser, report):
    open_report(browser, report)
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => [p.id, p.querySelectorAll('.trace').length])"
    )
    assert [name for name, _ in drawn] == ["epochs", "weight_width", "rlct", "accuracy", "trace", "weights"]
    assert all(count > 0 for _, count in drawn)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert {url for url in requested(browser) if not url.startswith("data:")} == {report.as_uri()}
    assert browser.execute_script("return document.getElementById('hostile')") is None
    ids = browser.execute_script(
        "return [...document.querySelectorAll('nav a, .skip')].map(a => a.getAttribute('href'))"
    )
    assert len(ids) == 9
    assert all(browser.execute_script("return !!document.querySelector(arguments[0])", target) for target in ids)


@pytest.mark.slow
def test_240_networks_are_one_file_of_5_mb_that_a_browser_can_show(browser, small_sweep, tmp_path):
    """Copies of four, with other seeds; how fast it is ready is in LOG.md."""
    folder = tmp_path / "sweep"
    shutil.copytree(small_sweep, folder)
    for cell in sorted((folder / "cells").iterdir()):
        name, _, seed = cell.name.rpartition("-seed")
        for copy in range(1, 60):
            other = folder / "cells" / f"{name}-seed{int(seed) + 10 * copy}"
            shutil.copytree(cell, other)
            row = json.loads((other / "row.json").read_text())
            (other / "row.json").write_text(json.dumps(row | {"seed": int(seed) + 10 * copy}))
    assert main(["report", str(folder)]) == 0
    report = folder / "report" / "report.html"
    assert report.stat().st_size < 5_000_000
    open_report(browser, report)
    assert browser.execute_script("return document.querySelectorAll('#network-choice option').length") == 240
    assert {url for url in requested(browser) if not url.startswith("data:")} == {report.as_uri()}


def test_a_browser_that_cannot_unpack_the_figures_says_so(browser, report):
    hide = {"source": "delete window.DecompressionStream"}
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", hide)
    open_page(browser, report.as_uri())
    line = wait_for(browser, "return document.querySelector('#figures [role=alert]')?.textContent")
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert "could not be drawn" in line


def test_a_mark_shows_its_network(browser, report):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    open_report(browser, report)
    plot = browser.find_element(By.ID, "weight_width")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    right, down, index = browser.execute_script(TO_POINT, "weight_width")
    ActionChains(browser).move_to_element_with_offset(plot, right, down).perform()
    hover = wait_for(browser, "return document.querySelector('#weight_width .hoverlayer').textContent")
    assert "h8-aw0-seed2" in hover
    assert "nβ" in hover
    ActionChains(browser).click().perform()
    wait_for(browser, f"return document.getElementById('network-choice').value === '{index}'")
    text = browser.find_element(By.ID, "network-text").text
    assert text.startswith("h8-aw0-seed2: accuracy")
    assert browser.execute_script("return document.querySelectorAll('#trace .trace').length") == 2  # its two chains


def test_keys_alone_reach_everything(browser, report):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_report(browser, report)
    reached = []
    for _ in range(60):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.execute_script("return document.activeElement.id || document.activeElement.className"))
        if reached[-1] == "next":
            break
    assert reached[0] == "skip"
    assert {"width-choice", "network-choice", "previous", "next"} <= set(reached)
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.find_element(By.ID, "network-text").text.startswith("h8-aw0-seed2")
    browser.execute_script("document.querySelector('#warnings [data-network=\"h8-aw10-seed1\"]').focus()")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert HOSTILE in browser.find_element(By.ID, "network-text").text


def test_phone_and_dark(browser, report):
    screen = {"width": 375, "height": 700, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        open_report(browser, report)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 26)"
        assert browser.execute_script("return document.getElementById('rlct')._fullLayout.font.color") == "#ececf0"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

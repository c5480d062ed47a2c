"""report.html in a real browser: it draws, it answers clicks and keys, it asks no host for anything."""

import json
import shutil
from pathlib import Path

import pytest

from selfmod_hf.cli import main
from selfmod_hf.experiments.arms import make_arms
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.reports.html_report import write_html_report
from selfmod_hf.reports.sweep_results import read_results
from selfmod_hf.reports.sweep_tables import sweep_tables
from tests.browser import open_page, requested, wait_for
from tests.reports.folders import change_row, controls, grid, write_study

PLOTS = [
    "rlct", "weight_width", "accuracy", "train_loss", "loss-rlct", "loss-weight_width", "chosen", "epochs", "trace",
    "weights",
]  # fmt: skip
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
    wait_for(browser, "return document.documentElement.dataset.drawnAfter")


def write_report(folder: Path) -> Path:
    """The page of a study, without its other files."""
    results = read_results(SweepFolder(folder))
    write_html_report(results, sweep_tables(results), folder / "report.html")
    return folder / "report.html"


def choose(browser, name: str, value: str) -> None:
    """Choose an option of a select, as a person does."""
    script = (
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    )
    browser.execute_script(script, name, value)


def drawn(browser, plot: str, path: str):
    """A part of what Plotly has drawn."""
    return browser.execute_script(f"return document.getElementById(arguments[0]).{path}", plot)


def test_it_draws_without_errors_and_without_a_network(browser, report):
    open_report(browser, report)
    traces = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => [p.id, p.querySelectorAll('.trace').length])"
    )
    assert [name for name, _ in traces] == PLOTS
    assert all(count > 0 for _, count in traces)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert {url for url in requested(browser) if not url.startswith("data:")} == {report.as_uri()}
    assert browser.execute_script("return document.getElementById('hostile')") is None
    ids = browser.execute_script(
        "return [...document.querySelectorAll('nav a, .skip')].map(a => a.getAttribute('href'))"
    )
    assert len(ids) == 7
    assert all(browser.execute_script("return !!document.querySelector(arguments[0])", target) for target in ids)


@pytest.mark.weekly
def test_1000_networks_are_one_file_of_5_mb_that_a_browser_can_show(browser, tmp_path):
    """How fast it is ready is in LOG.md: `python scripts/benchmark.py report`."""
    arms = grid(aux_weight=[0.0, *(float(2**power) for power in range(19))])
    report = write_report(write_study(tmp_path, arms, range(1, 51), epochs=50, draws=200))
    assert report.stat().st_size < 5_000_000
    open_report(browser, report)
    assert browser.execute_script("return document.querySelectorAll('#network-choice option').length") == 1000
    assert browser.execute_script("return document.querySelectorAll('#network-choice optgroup').length") == 20
    assert len(drawn(browser, "rlct", "data[0].x")) == 1000
    assert "25 means over blocks of draws" in browser.find_element("id", "network").text
    assert {url for url in requested(browser) if not url.startswith("data:")} == {report.as_uri()}


@pytest.mark.slow
def test_named_arms_have_a_place_and_a_color_each_and_can_be_hidden(browser, tmp_path):
    names = [arm.name for arm in controls()]
    measures = ["dead_units", "my_own"]
    report = write_report(write_study(tmp_path, controls(), [1, 2], measures=measures, not_ok=["shuffled-seed2"]))
    open_report(browser, report)
    assert drawn(browser, "rlct", "layout.xaxis.ticktext") == ["<b>baseline</b>", *names[1:]]
    marks = drawn(browser, "rlct", "data[0].marker")
    assert len(set(zip(marks["color"], marks["symbol"], strict=True))) == 12 + 1  # one of them is hollow
    assert [symbol for symbol in marks["symbol"] if symbol.endswith("-open")] == ["circle-open"]
    assert drawn(browser, "weight_width", "data[0].marker.symbol").count("circle-open") == 0
    choose(browser, "measure-choice", "my_own")
    assert drawn(browser, "chosen", "layout.yaxis.title.text") == "my own"
    choose(browser, "axis-choice", "train_loss")
    assert drawn(browser, "chosen", "layout.xaxis.title.text") == "training loss, nats"
    browser.execute_script("document.querySelectorAll('#arms button')[1].click()")
    script = "return document.getElementById('chosen').data[0].x.length === 22"
    wait_for(browser, script)
    assert names[1] not in drawn(browser, "rlct", "layout.xaxis.ticktext")


SHOWN_NAMES = """
return [...document.querySelectorAll('#rlct .xtick text')]
  .filter(text => getComputedStyle(text).display !== 'none').map(text => text.textContent)
"""


@pytest.mark.slow
def test_the_names_of_twenty_arms_can_all_be_read(browser, tmp_path):
    names = [arm.name for arm in controls()]
    more = {f"another-narrow-{units}": {"aux_weight": 0.0, "hidden_sizes": [units]} for units in range(8, 16)}
    open_report(browser, write_report(write_study(tmp_path, [*controls(), *make_arms({}, more)], [1, 2])))
    assert set(browser.execute_script(SHOWN_NAMES)) == {*names, *more}


@pytest.mark.slow
def test_an_interval_is_inside_the_figure_over_the_training_loss(browser, tmp_path):
    folder = write_study(tmp_path, grid(aux_weight=[0.0, 10.0]), [1, 2, 3])
    change_row(folder, "aw10-seed1", weight_width=0.9)
    open_report(browser, write_report(folder))
    low, high = drawn(browser, "loss-weight_width", "layout.yaxis.range")
    means = next(trace for trace in drawn(browser, "loss-weight_width", "data") if "error_y" in trace)
    for mean, below, above in zip(means["y"], means["error_y"]["arrayminus"], means["error_y"]["array"], strict=True):
        assert low <= mean - below <= mean + above <= high


@pytest.mark.slow
def test_intervals_of_two_seeds_stay_within_what_accuracy_can_be(browser, tmp_path):
    folder = write_study(tmp_path, grid(aux_weight=[0.0, 10.0]), [1, 2])
    change_row(folder, "aw10-seed1", accuracy=0.5)
    open_report(browser, write_report(folder))
    low, high = drawn(browser, "accuracy", "layout.yaxis.range")
    assert 0 <= low < high <= 1
    means = drawn(browser, "accuracy", "data[1]")
    for mean, below, above in zip(means["y"], means["error_y"]["arrayminus"], means["error_y"]["array"], strict=True):
        assert 0 <= mean - below <= mean + above <= 1


@pytest.mark.slow
def test_an_rlct_far_from_all_others_is_at_the_edge(browser, tmp_path):
    folder = write_study(tmp_path, grid(aux_weight=[0.0, 1.0, 10.0]), [1, 2, 3], not_ok=["aw10-seed2"])
    change_row(folder, "aw10-seed2", rlct=-50.0)
    open_report(browser, write_report(folder))
    for plot in ("rlct", "loss-rlct"):
        low, _ = drawn(browser, plot, "layout.yaxis.range")
        marks = drawn(browser, plot, "data[0]")
        assert low > 0
        assert low < marks["y"][7] < min(marks["y"][:7])
        assert marks["marker"]["symbol"][7] == "triangle-down-open"
        assert "RLCT -50.00" in marks["text"][7]


@pytest.mark.slow
def test_panels_side_by_side_or_one_alone(browser, tmp_path):
    arms = grid(hidden_sizes=[[64], [128]], aux_weight=[0.0, 1.0, 10.0])
    report = write_report(write_study(tmp_path, arms, [1, 2], task="mnist"))
    open_report(browser, report)
    assert [note["text"] for note in drawn(browser, "rlct", "layout.annotations")] == ["h64", "h128"]
    assert drawn(browser, "rlct", "layout.xaxis.ticktext") == ["<b>0</b>", "1", "10"] * 2
    assert drawn(browser, "rlct", "data[2].y") == [33, 31.5, 25.5]  # published
    choose(browser, "panel-choice", "1")
    wait_for(browser, "return document.getElementById('rlct').data[2].y[0] === 38.5")
    assert len(drawn(browser, "loss-rlct", "data[0].x")) in (6, 8)


@pytest.mark.slow
def test_the_way_of_the_baseline_is_beside_the_arms(browser, tmp_path):
    study = write_study(tmp_path, grid(aux_weight=[0.0, 10.0]), [1, 2, 3], epochs=6)
    open_report(browser, write_report(study))
    way = drawn(browser, "loss-weight_width", "data[0]")
    assert way["line"]["dash"] == "dash"
    assert len(way["x"]) == 6
    assert drawn(browser, "loss-rlct", "data[0].mode") == "markers"  # RLCTs were not followed


@pytest.mark.slow
def test_a_study_with_nothing_to_mean_is_drawn_all_the_same(browser, tmp_path):
    """All networks are at chance level, one has weights that are not finite, and the baseline is not finished."""
    arms = [arm for arm in grid(aux_weight=[0.0, 1.0, 10.0]) if not arm.is_baseline]
    folder = write_study(tmp_path, arms, [1, 2], not_ok=["aw1-seed1"])
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | {"chance": 0.95}))
    nothing = dict.fromkeys(["weight_width", "rlct", "rlct_standard_error", "train_loss"])
    change_row(folder, "aw10-seed2", rlct_status="diverged", **nothing)
    open_report(browser, write_report(folder))
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.find_elements("css selector", "#figures [role=alert]") == []
    assert "(baseline)" not in browser.find_element("id", "arms").text
    assert drawn(browser, "rlct", "data[1].y") == []
    choose(browser, "network-choice", "3")
    assert "RLCT none" in browser.find_element("id", "network-text").text


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
    assert {"measure-choice", "network-choice", "previous", "next"} <= set(reached)
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

"""The Space `spaces/explorer`: what it shows, from folders and from the Hub; the page in a real browser."""

import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from selfmod_hf import (
    SelfModelingConfig,
    SelfModelingForImageClassification,
    SelfModelingForSequenceClassification,
    TaskSpec,
    load_images,
)
from selfmod_hf.complexity import LLCResult
from selfmod_hf.data import ImagePreprocessing, basic_english_tokenizer
from selfmod_hf.errors import InputError
from selfmod_hf.experiments.folder import SweepFolder
from selfmod_hf.hub.upload import Target
from selfmod_hf.reports.on_hub import push_sweep
from tests import warm
from tests.browser import open_page, requested, wait_for
from tests.hub.test_records import get_other_weights
from tests.reports.folders import controls, grid, write_study

SPACE = Path(__file__).resolve().parents[2] / "spaces" / "explorer"
NETWORK = "h8-aw10-seed2"


@pytest.fixture(scope="module")
def explore():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SPACE))
        import explore

        yield explore


def drawing(*points: tuple[int, int], pen: int = 14) -> Image.Image:
    """A stroke in black on nothing, as the sketchpad gives it."""
    image = Image.new("RGBA", (280, 280), (0, 0, 0, 0))
    ImageDraw.Draw(image).line(points, fill="black", width=pen)
    return image


# ---- what it shows ----


def test_examples_are_answered_as_the_network_answers_the_data(explore, small_sweep):
    network = explore.open_network(str(small_sweep), NETWORK)
    test = load_images(TaskSpec(name="digits", dataset_name=None)).test
    pixels, _ = test.all()
    with torch.no_grad():
        output = network.model(pixels[:20])
    same = 0
    for row, example in enumerate(explore.examples(network)):
        answer = explore.ask(network, example)
        assert sum(answer.classes.values()) == pytest.approx(1)
        seen = np.asarray(answer.seen.resize((8, 8), Image.Resampling.NEAREST))
        if (seen == test.pixels[row, 0].numpy()).all():  # the others are not in the middle of their frame
            same += 1
            expected = output.logits[row].softmax(0).tolist()
            assert list(answer.classes.values()) == pytest.approx(expected, abs=1e-6)
            assert answer.predicted == pytest.approx(output.self_model_predictions[row].numpy(), abs=1e-5)
            assert answer.actual == pytest.approx(output.self_model_targets[row].numpy(), abs=1e-5)
    assert same >= 10


def test_a_picture_is_prepared_as_the_networks_training_images_were(explore, tmp_path):
    config = SelfModelingConfig(hidden_sizes=[6], image_size=(8, 9), num_channels=3, num_labels=3)
    SelfModelingForImageClassification(config).save_pretrained(tmp_path)
    values = ImagePreprocessing((8, 9), (0.4, 0.3, 0.2), (0.3, 0.2, 0.1), "bilinear", 3)
    values.processor().save_pretrained(tmp_path)
    network = explore.open_network(str(tmp_path), "")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8))
    answer = explore.ask(network, picture)
    resized = picture.resize((9, 8), Image.Resampling.BILINEAR)
    assert (np.asarray(answer.seen.resize((9, 8), Image.Resampling.NEAREST)) == np.asarray(resized)).all()
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in ((0.4, 0.3, 0.2), (0.3, 0.2, 0.1)))
    with torch.no_grad():
        expected = network.model(((pixels - mean) / std)[None]).logits[0].softmax(0)
    assert list(answer.classes.values()) == pytest.approx(expected.tolist(), abs=1e-6)


@given(st.integers(-60, 60), st.integers(-60, 60))
def test_where_a_digit_is_drawn_does_not_matter(explore, right, down):
    points = [(100, 100), (180, 100), (130, 180)]
    moved = drawing(*[(x + right, y + down) for x, y in points])
    image = explore.from_drawing(moved, 28, 28)
    assert (np.asarray(image) == np.asarray(explore.from_drawing(drawing(*points), 28, 28))).all()
    ink = np.asarray(image, dtype=float)
    middle = [(ink.sum(axis=1 - axis) * (np.arange(28) + 0.5)).sum() / ink.sum() for axis in (0, 1)]
    assert middle == pytest.approx([14, 14], abs=0.51)
    assert image.getbbox()[3] - image.getbbox()[1] <= 20  # MNIST's frame


def test_nothing_to_read_is_known(explore, small_sweep):
    network = explore.open_network(str(small_sweep), NETWORK)
    for sample in (None, Image.new("RGBA", (280, 280), (0, 0, 0, 0)), Image.new("L", (280, 280), 255)):
        assert explore.is_empty(network, sample)
    assert not explore.is_empty(network, drawing((100, 100), (100, 200)))


def test_a_network_is_marked_among_those_that_compare(explore, small_sweep):
    names, first = explore.choices(str(small_sweep))
    assert (len(names), first) == (4, "h8-aw10-seed1")
    table = explore.results(str(small_sweep))
    *marks, this = explore.siblings_figure(str(small_sweep), NETWORK).data
    (points,) = marks  # one width
    assert list(points.y) == list(table["rlct"])
    assert (this.x[0], this.y[0]) == (points.x[names.index(NETWORK)], explore.row_of(str(small_sweep), NETWORK)["rlct"])
    assert f"RLCT {this.y[0]:.2f}" in explore.facts(str(small_sweep), NETWORK)


def test_other_settings_are_not_compared(explore, small_sweep, monkeypatch):
    table = explore.results(str(small_sweep)).copy()
    table.loc[0, "nbeta"] = 1.0
    monkeypatch.setattr(explore, "results", lambda repo: table)
    points, _ = explore.siblings_figure(str(small_sweep), NETWORK).data
    assert list(points.y) == list(table["rlct"][1:])


def test_a_study_of_named_arms_is_shown_by_arm(explore, tmp_path):
    arms = controls()
    folder = write_study(tmp_path, arms, [1, 2], not_ok=["shuffled-seed2"])
    SweepFolder(folder).write_tables()
    name = "last-layer-decay-seed2"
    points, this = explore.siblings_figure(str(folder), name).data
    figure = explore.siblings_figure(str(folder), name)
    assert set(figure.layout.xaxis.ticktext) == {arm.name for arm in arms}
    assert figure.layout.xaxis.ticktext[int(this.x[0])] == "last-layer-decay"
    assert this.y[0] == explore.row_of(str(folder), name)["rlct"]
    assert len(points.y) == 24
    assert list(points.marker.symbol).count("circle-open") == 1


def test_a_study_of_widths_and_weights_is_shown_by_weight(explore, tmp_path):
    arms = grid(hidden_sizes=[[8], [16]], aux_weight=[0.0, 1.0, 10.0])
    folder = write_study(tmp_path, arms, [1, 2])
    SweepFolder(folder).write_tables()
    narrow, wide, this = explore.siblings_figure(str(folder), "h16-aw10-seed1").data
    assert (narrow.name, wide.name) == ("h = 8", "h = 16")
    assert sorted(set(narrow.x)) == [-0.2, 0.8, 1.8]
    assert list(this.x) == [2.2]


def test_figures_of_other_weights_are_not_shown(explore, small_sweep, small_model, tmp_path):
    sweep, model = (shutil.copytree(source, tmp_path / source.name) for source in (small_sweep, small_model))
    get_other_weights(sweep / "cells" / NETWORK)
    get_other_weights(model)
    names, _ = explore.choices(str(sweep))
    assert len(names) == 3
    assert NETWORK not in names
    with pytest.raises(InputError, match="describes other weights"):
        explore.choices(str(model))


def test_what_cannot_be_checked_is_shown_as_such(explore, small_model, tmp_path):
    folder = shutil.copytree(small_model, tmp_path / "model")
    assert "not checked" not in explore.facts(str(small_model), "")
    replace(LLCResult.load(folder / "rlct.json"), weights_sha256=None).save(folder / "rlct.json")
    assert explore.facts(str(folder), "").endswith("figures not checked against the weights")


def test_a_single_model(explore, small_model, tmp_path):
    network = explore.open_network(str(small_model), "")
    assert list(network.processor.image_mean) == [0.5]  # of its own preprocessor_config.json
    assert explore.choices(str(small_model)) == ([""], "")
    assert len(explore.siblings_figure(str(small_model), "").data) == 2
    diverged = replace(LLCResult.load(small_model / "rlct.json"), llc=float("nan"), status="diverged")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((small_model / name).read_bytes())
    diverged.save(tmp_path / "rlct.json")
    assert "RLCT nan" in explore.facts(str(tmp_path), "")
    explore.siblings_figure(str(tmp_path), "")


def test_a_baseline_says_so(explore, small_model):
    network = explore.open_network(str(small_model), "")
    answer = explore.ask(replace(network, model=network.model.prune()), drawing((100, 100), (100, 200)))
    assert "predicts none" in explore.activations_figure(answer).layout.annotations[0].text


def test_a_control_shows_no_activations(explore, small_model):
    network = explore.open_network(str(small_model), "")
    control = deepcopy(network.model)
    control.config.target_source = "random"
    answer = explore.ask(replace(network, model=control), drawing((100, 100), (100, 200)))
    assert (answer.predicted, answer.actual) == (None, None)


def test_texts(explore, of_texts):
    network = explore.open_network(str(of_texts), "")
    assert network.kind == "text"
    answers = [explore.ask(network, review) for review in explore.examples(network)]
    assert set(answers[0].classes) == {"neg", "pos"}
    assert answers[0].classes != answers[1].classes
    assert answers[0].actual.shape == (6,)
    assert explore.is_empty(network, "  ")


# ---- on the Hub ----

FROM_THE_HUB = f"""
import sys
sys.path.insert(0, {str(SPACE)!r})
import explore
names, first = explore.choices("me/sweep")
assert len(names) == 4
network = explore.open_network("me/sweep", "{NETWORK}")
answer = explore.ask(network, explore.examples(network)[0])
assert len(answer.classes) == 10 and len(answer.predicted) == 8
"""


@pytest.mark.slow
def test_a_published_sweep_and_a_published_space(loopback_hub, small_sweep):
    push_sweep(loopback_hub.api(), small_sweep, Target("me/sweep"))
    warm.run(["-c", FROM_THE_HUB], loopback_hub.env(), check=True)
    push = [*warm.SELFMOD, "push", SPACE, "--repo", "me/explorer", "--quiet"]
    warm.run(push, loopback_hub.env(), check=True)
    files = set(loopback_hub.api().list_repo_files("me/explorer", repo_type="space"))
    assert {"README.md", "app.py", "explore.py", "requirements.txt"} <= files
    assert not any(name.endswith(".pyc") for name in files)


# ---- the page ----


@pytest.fixture(scope="module")
def of_colours(small_model, tmp_path_factory):
    """A network of colour pictures, 16 x 16; its RLCT is another's: the page does not recompute it."""
    folder = tmp_path_factory.mktemp("colours")
    config = SelfModelingConfig(
        hidden_sizes=[6], image_size=16, num_channels=3, target_layers=["hidden.relu1"], id2label={0: "cat", 1: "dog"}
    )
    SelfModelingForImageClassification(config).save_pretrained(folder)
    replace(LLCResult.load(small_model / "rlct.json"), weights_sha256=None).save(folder / "rlct.json")
    return folder


@pytest.fixture(scope="module")
def of_texts(small_model, tmp_path_factory, explore):
    """A network of texts that knows the words of the examples."""
    folder = tmp_path_factory.mktemp("texts")
    tokenizer = basic_english_tokenizer(explore.REVIEWS)
    bag = {"num_embeddings": len(tokenizer), "embedding_dim": 4}
    config = SelfModelingConfig(
        backbone="embedding_bag",
        backbone_kwargs=bag,
        hidden_sizes=[6],
        target_layers=["hidden.relu1"],
        id2label={0: "neg", 1: "pos"},
    )
    SelfModelingForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    replace(LLCResult.load(small_model / "rlct.json"), weights_sha256=None).save(folder / "rlct.json")
    return folder


@pytest.fixture(scope="module")
def page(small_sweep, small_model, of_colours, of_texts):
    """Address of the app, run as its README says, with an endpoint where nobody listens."""
    pytest.importorskip("gradio", reason="needs gradio (pip install 'selfmod_hf[space]')")
    command = [
        sys.executable,
        "-u",
        str(SPACE / "app.py"),
        "--repo",
        *map(str, (small_sweep, small_model, of_colours, of_texts)),
    ]
    app = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True)
    address = next((found[0] for line in app.stdout if (found := re.findall(r"http://127\S+", line))), None)
    assert address, app.wait(10)
    yield address.rstrip("/") + "/"
    app.terminate()
    app.wait(30)
    app.stdout.close()


@pytest.mark.slow
def test_the_page_in_a_browser(browser, page):
    """A network is picked, a digit drawn, an example chosen; classes and figures appear; no other host is asked."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def text(name: str) -> str:
        return browser.find_element(By.ID, name).text

    open_page(browser, page)
    wait_for(browser, "return document.querySelector('#siblings .js-plotly-plot .trace')")
    wait_for(browser, "return document.querySelector('#drawing canvas')")
    assert "AW 10" in text("facts")

    def choose(name: str, value: str) -> None:
        box = browser.find_element(By.CSS_SELECTOR, f"#{name} input")
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(value, Keys.ENTER)

    choose("network", "aw0-seed2")
    wait_for(browser, "return document.getElementById('facts').innerText.includes('AW 0')")

    pad = browser.find_element(By.CSS_SELECTOR, "#drawing canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
    stroke = ActionChains(browser).move_to_element_with_offset(pad, 0, -80).click_and_hold()
    for _ in range(8):
        stroke.move_by_offset(0, 20)
    stroke.release().perform()
    wait_for(browser, "return document.getElementById('classes').innerText.includes('%')")
    wait_for(browser, "return document.querySelector('#seen img')")
    wait_for(browser, "return document.querySelector('#activations .js-plotly-plot .trace')")

    drawn = text("classes")
    browser.find_element(By.CSS_SELECTOR, "#drawing [aria-label='Clear canvas']").click()
    wait_for(browser, "return !document.getElementById('classes').innerText.includes('%')")
    browser.find_element(By.ID, "example").click()
    wait_for(browser, "return document.getElementById('classes').innerText.includes('%')")
    assert text("classes") != drawn
    choose("repo", "model")
    wait_for(browser, "return document.getElementById('facts').innerText.includes('[64]')")
    wait_for(browser, "return document.getElementById('siblings').innerText.includes('among 1 networks')")

    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert [url for url in requested(browser) if not url.startswith((page, "data:", f"blob:{page}"))] == []


CONTRAST = """
const numbers = color => color.match(/[\\d.]+/g).map(Number);
const light = color => {
  const [r, g, b] = numbers(color).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const shown = document.querySelector('#siblings .js-plotly-plot');
let behind = shown;
while ((numbers(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
const back = light(getComputedStyle(behind).backgroundColor);
return Math.min(...[...shown.querySelectorAll('text')].map(text => {
  const ends = [light(getComputedStyle(text).fill), back].sort((a, b) => a - b);
  return (ends[1] + 0.05) / (ends[0] + 0.05);
}));
"""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_in_figures_have_the_contrast_of_wcag_aa(browser, page, theme):
    open_page(browser, f"{page}?__theme={theme}")
    wait_for(browser, "return document.querySelector('#siblings .js-plotly-plot .trace')")
    assert browser.execute_script(CONTRAST) >= 4.5


@pytest.mark.slow
def test_on_a_phone_the_lists_are_below_each_other(browser, page):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        open_page(browser, page)
        wait_for(browser, "return document.querySelector('#siblings .js-plotly-plot .trace')")
        top = "return document.getElementById(arguments[0]).getBoundingClientRect().top"
        assert browser.execute_script(top, "network") > browser.execute_script(top, "repo") + 20
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def choose_repository(browser, name: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    wait_for(browser, "return document.querySelector('#siblings .js-plotly-plot .trace')")
    box = browser.find_element(By.CSS_SELECTOR, "#repo input")
    box.click()
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(name, Keys.ENTER)


@pytest.mark.slow
def test_a_review_is_pasted_in_a_browser(browser, page, of_texts, explore):
    from selenium.webdriver.common.by import By

    open_page(browser, page)
    choose_repository(browser, of_texts.name)
    wait_for(browser, "return document.querySelector('#review textarea')")
    review = explore.REVIEWS[0]
    browser.find_element(By.CSS_SELECTOR, "#review textarea").send_keys(review)
    answer = explore.ask(explore.open_network(str(of_texts), ""), review)
    shares = [rf"{name}\s+{100 * share:.0f}%" for name, share in answer.classes.items()]
    for share in shares:  # at the end of the review; before, of what had been typed so far
        wait_for(browser, f"return /{share}/.test(document.getElementById('classes').innerText)")
    wait_for(browser, "return document.querySelector('#activations .js-plotly-plot .trace')")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_a_picture_is_uploaded_in_a_browser(browser, page, of_colours, explore, tmp_path):
    """It is resized to what the network takes; the classes are those of that picture, in order."""
    from selenium.webdriver.common.by import By

    photo = Image.effect_mandelbrot((90, 70), (-3, -2.5, 2, 2.5), 20).convert("RGB")
    photo.save(tmp_path / "photo.png")
    open_page(browser, page)
    choose_repository(browser, of_colours.name)
    wait_for(browser, "return document.querySelector('#picture input[type=file]')")
    assert "%" not in browser.find_element(By.ID, "classes").text
    browser.find_element(By.CSS_SELECTOR, "#picture input[type=file]").send_keys(str(tmp_path / "photo.png"))
    wait_for(browser, "return document.getElementById('classes').innerText.includes('%')")
    wait_for(browser, "return document.querySelector('#seen img')")
    wait_for(browser, "return document.querySelector('#activations .js-plotly-plot .trace')")

    answer = explore.ask(explore.open_network(str(of_colours), ""), photo)
    shown = browser.find_element(By.ID, "classes").text
    for name, share in answer.classes.items():
        assert re.search(rf"{name}\s+{100 * share:.0f}%", shown), (name, share, shown)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert [url for url in requested(browser) if not url.startswith((page, "data:", f"blob:{page}"))] == []


@pytest.mark.slow
def test_the_app_refuses_what_publishes_nothing(tmp_path):
    pytest.importorskip("gradio", reason="needs gradio (pip install 'selfmod_hf[space]')")
    for flags, message in ((["--repo", str(tmp_path)], "holds neither"), ([], "name a repository")):
        done = warm.run([SPACE / "app.py", *flags])
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]

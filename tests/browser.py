"""Headless Chromium for the tests of pages; `tests/conftest.py` makes a fixture of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--no-first-run", "--window-size=1280,900",
]  # fmt: skip


def headless_chromium() -> Iterator[Any]:
    """A driver that keeps the console's and the network's log; skips the test where there is no Chromium."""
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


def open_page(browser: Any, url: str) -> None:
    """Load a page; the logs begin with it, and not with what the last page says as it is left."""
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(url)


def wait_for(browser: Any, script: str, *arguments: Any) -> Any:
    """The value of a script, once it is true."""
    end = time.monotonic() + 60
    while not (value := browser.execute_script(script, *arguments)):
        assert time.monotonic() < end, (script, browser.get_log("browser"))
        time.sleep(0.05)
    return value


def requested(browser: Any) -> set[str]:
    """Addresses that the page has asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}

"""Chromium without a window, with what it asked the network for on record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver

QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1200,1000",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
"""No window, and no conversation of the browser's own."""


def find(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"'{name}' is not on the path: install the packages chromium and chromium-driver.")
    return path


@contextmanager
def opened(page: Path | str, downloads: Path | None = None) -> Iterator[webdriver.Chrome]:
    """Open a page from the disk, or an address; what is downloaded goes into a folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = find("chromium")
    for argument in QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options, webdriver.ChromeService(find("chromedriver")))
    try:
        driver.get(page if isinstance(page, str) else page.as_uri())
        yield driver
    finally:
        driver.quit()


def texts(browser: webdriver.Chrome, selector: str, what: str = "innerText") -> list[str]:
    """Return what all elements of a kind say, read in one step: a page may draw them anew at any time."""
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one[arguments[1]])"
    return list(browser.execute_script(script, selector, what))


def asked(browser: webdriver.Chrome) -> set[str]:
    """Return the addresses that the browser asked for since the last call, those inside the page left out."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    found = {one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"}
    return {url for url in found if not url.startswith("data:")}

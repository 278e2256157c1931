"""The report in a real browser: ``pytest -m browser``; needs chromium and chromedriver on the path."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from zsad.benchmark.report import main as report
from zsad.cli.benchmark import main

pytestmark = pytest.mark.browser

QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1200,1000",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
"""No window, and no conversation of the browser's own."""


METHODS = ["clip", "clipac", "maskclip", *(f"clip:temperature={number / 10}" for number in range(1, 8))]
"""Enough of them that the legend of a chart needs a second line."""


def find(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(f"'{name}' is not on the path: install the packages chromium and chromium-driver.")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The HTML report of ten methods on two classes."""
    folder = tmp_path_factory.mktemp("results")
    grid = ["--data", "Synthetic:images=40,classes=[gear,cork],train_images=8", "--methods", *METHODS]
    assert main([*grid, "--backbone", "zsad-mini", "--mode", "exact", "--device", "cpu", "--out", str(folder)]) == 0
    assert report([str(folder), "--resamples", "20"]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[webdriver.Chrome]:
    """Chromium with the page open, and what it asked the network for on record."""
    options = webdriver.ChromeOptions()
    options.binary_location = find("chromium")
    for argument in QUIET:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(find("chromedriver")))
    try:
        driver.get(page.as_uri())
        yield driver
    finally:
        driver.quit()


def test_no_errors_and_no_requests(browser: webdriver.Chrome, page: Path) -> None:
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}


def test_pictures_show(browser: webdriver.Chrome) -> None:
    pictures = browser.find_elements(By.TAG_NAME, "img")
    assert len(pictures) == 6 * len(METHODS)  # two classes: best, median, worst
    for picture in pictures:
        assert browser.execute_script("return arguments[0].naturalWidth", picture) > 50
        assert picture.get_attribute("alt")
    browser.execute_script("arguments[0].scrollIntoView()", pictures[0])
    seen = np.asarray(Image.open(io.BytesIO(pictures[0].screenshot_as_png)).convert("RGB"))
    assert seen.std() > 5  # not a blank box


def test_tables_sort_by_a_click_both_ways(browser: webdriver.Chrome) -> None:
    table = browser.find_element(By.TAG_NAME, "table")
    heads = table.find_elements(By.CSS_SELECTOR, "thead th")
    for column, head in enumerate(heads):
        if head.text not in ("method", "image AUROC", "pixel AUROC", "images/s"):
            continue
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", head)
        for direction in ("descending", "ascending"):
            head.click()
            assert head.get_attribute("aria-sort") == direction
            texts = column_of(table, column)
            values = texts if head.text == "method" else [float(text) for text in texts]
            assert len(values) == len(METHODS)
            assert values == sorted(values, reverse=direction == "descending")


def column_of(table: WebElement, column: int) -> list[str]:
    rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    return [row.find_elements(By.TAG_NAME, "td")[column].text for row in rows]


def test_charts_have_a_place_on_the_page(browser: webdriver.Chrome) -> None:
    charts = browser.find_elements(By.TAG_NAME, "svg")
    assert len(charts) >= 3  # speed and accuracy, and two metrics per class
    for chart in charts:
        assert chart.size["width"] > 200
        assert chart.size["height"] > 50
        boxes = [text.rect for text in chart.find_elements(By.TAG_NAME, "text")]
        frame = chart.rect
        for box in boxes:  # nothing is cut off
            assert box["x"] >= frame["x"] - 1
            assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1
            assert box["y"] + box["height"] <= frame["y"] + frame["height"] + 1
        names = [text.text for text in chart.find_elements(By.TAG_NAME, "text")]
        assert {method.split(":")[0] for method in METHODS} <= {name.split(":")[0] for name in names}


def test_it_reads_on_a_narrow_screen(browser: webdriver.Chrome) -> None:
    browser.set_window_size(500, 900)
    wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0  # tables scroll by themselves, the page does not

"""The report in a real browser: ``pytest -m browser``; needs chromium and chromedriver on the path."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.chromium import asked, opened
from zsad.cli.benchmark import main
from zsad.cli.report import main as report

pytestmark = pytest.mark.browser

METHODS = ["clip", "clipac", "maskclip", *(f"clip:temperature={number / 100}" for number in range(1, 18))]
"""Twenty, which is what a chart has colours and markers for."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The HTML report of twenty methods on two classes."""
    folder = tmp_path_factory.mktemp("results")
    grid = ["--data", "Synthetic:images=40,classes=[gear,cork],train_images=8", "--methods", *METHODS]
    assert main([*grid, "--backbone", "zsad-mini", "--mode", "exact", "--device", "cpu", "--out", str(folder)]) == 0
    assert report([str(folder), "--resamples", "20", "--curves"]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[webdriver.Chrome]:
    """Chromium with the page open."""
    with opened(page) as driver:
        yield driver


def test_no_errors_and_no_requests(browser: webdriver.Chrome, page: Path) -> None:
    assert browser.get_log("browser") == []
    assert asked(browser) == {page.as_uri()}


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


def boxes_of(texts: list[WebElement]) -> list[tuple[str, dict[str, float]]]:
    return [(text.text, text.rect) for text in texts if text.text.strip()]


def test_labels_of_charts_are_whole_and_do_not_collide(browser: webdriver.Chrome) -> None:
    charts = browser.find_elements(By.CSS_SELECTOR, ".chart svg")
    assert len(charts) == 7  # speed and accuracy, two metrics per class, two curves of two classes
    for chart in charts:
        assert chart.size["width"] > 200
        assert chart.size["height"] > 50
        boxes, frame = boxes_of(chart.find_elements(By.TAG_NAME, "text")), chart.rect
        assert set(METHODS) <= {name for name, _ in boxes}
        for number, (name, box) in enumerate(boxes):
            assert box["x"] >= frame["x"] - 1, name  # nothing is cut off
            assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1, name
            assert box["y"] >= frame["y"] - 1, name
            assert box["y"] + box["height"] <= frame["y"] + frame["height"] + 1, name
            for other, there in boxes[:number]:
                apart = (
                    box["x"] >= there["x"] + there["width"] - 1
                    or there["x"] >= box["x"] + box["width"] - 1
                    or box["y"] >= there["y"] + there["height"] - 4  # a line's box is higher than its letters
                    or there["y"] >= box["y"] + box["height"] - 4
                )
                assert apart, f"{name} over {other}"


def test_a_point_shows_its_value_under_the_pointer(browser: webdriver.Chrome) -> None:
    chart = browser.find_elements(By.CLASS_NAME, "chart")[1]
    point = chart.find_elements(By.CLASS_NAME, "point")[0]
    tip = browser.find_element(By.ID, "tip")
    assert not tip.is_displayed()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(browser).move_to_element(point).perform()
    assert tip.is_displayed()
    assert point.get_attribute("data-tip") in tip.text.splitlines()
    points = chart.find_elements(By.CLASS_NAME, "point")
    other = next(one for one in points if str(one.get_attribute("data-name")) not in tip.text)
    assert other.value_of_css_property("opacity") == "0.15"
    ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
    assert not tip.is_displayed()
    assert other.value_of_css_property("opacity") == "1"


def test_charts_take_the_ink_of_the_dark_page(browser: webdriver.Chrome) -> None:
    text = browser.find_element(By.CSS_SELECTOR, ".chart text")
    colours = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        colours[scheme] = text.value_of_css_property("fill"), page_colour(browser)
    assert colours["light"] == ("rgb(28, 30, 33)", "rgba(255, 255, 255, 1)")
    assert colours["dark"] == ("rgb(232, 234, 237)", "rgba(22, 24, 27, 1)")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [feature]})
    assert page_colour(browser) == "rgba(255, 255, 255, 1)"  # paper is white, whatever the screen was
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def page_colour(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")


def test_print_cuts_nothing_off(browser: webdriver.Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.set_window_size(794, 1123)  # A4 at 96 pixels per inch
    for wide in browser.find_elements(By.CSS_SELECTOR, ".wide, .chart"):
        assert browser.execute_script("return arguments[0].scrollWidth <= innerWidth", wide)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.set_window_size(1200, 1000)


def test_the_page_takes_the_width_of_the_window(browser: webdriver.Chrome) -> None:
    browser.set_window_size(1900, 1000)
    body = browser.find_element(By.TAG_NAME, "body")
    assert body.size["width"] >= 1860
    browser.set_window_size(1200, 1000)


def test_it_reads_on_a_narrow_screen(browser: webdriver.Chrome) -> None:
    browser.set_window_size(500, 900)
    wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0  # tables scroll by themselves, the page does not

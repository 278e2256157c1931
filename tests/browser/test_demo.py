"""The page of ``zsad demo`` in a real browser: ``pytest -m browser``."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.browser.chromium import asked, opened
from zsad.cli.demo import comparison, product, scoring
from zsad.cli.demo.steps import steps
from zsad.cli.demo.story import tell
from zsad.clip import load_clip
from zsad.clip.embedded import MINI
from zsad.methods import METHODS
from zsad.report import page as html
from zsad.synthetic import split_samples

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story of a small product, and the table of two methods."""
    folder = tmp_path_factory.mktemp("demo")
    drawn = product.draw(folder / "product", 0, 24, 30)
    parts = list(tell(steps(drawn, MINI, "cpu"), Console(file=sys.stderr)))
    samples, clip = split_samples("held-out both", 40), load_clip(MINI)
    parts += comparison.parts(
        folder, scoring.run({name: METHODS[name](clip) for name in ("clip", "maskclip")}, samples), samples
    )
    target = folder / "index.html"
    target.write_text(html.page("zsad demo", parts), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[webdriver.Chrome]:
    with opened(page) as driver:
        yield driver


def test_no_errors_and_no_requests(browser: webdriver.Chrome, page: Path) -> None:
    assert browser.get_log("browser") == []
    assert asked(browser) == {page.as_uri()}


def test_every_step_has_a_command_that_a_click_copies(browser: webdriver.Chrome) -> None:
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    heads, lines = (
        browser.execute_script("return [...document.querySelectorAll(arguments[0])].map(one => one.innerText)", where)
        for where in ("h2", ".command code")
    )
    assert [head[:2] for head in heads if head[:1].isdigit()] == [f"{number}." for number in range(1, 7)]
    buttons = browser.find_elements(By.CSS_SELECTOR, ".command button")
    for line, button in zip(lines, buttons, strict=True):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        browser.execute_async_script("setTimeout(arguments[0], 50)")
        assert button.text == "copied"
        assert browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])") == line
        assert browser.execute_script("return getSelection().toString()") == line


def test_what_a_command_said_opens_by_a_click(browser: webdriver.Chrome) -> None:
    for details in browser.find_elements(By.TAG_NAME, "details"):
        text = details.find_element(By.TAG_NAME, "pre")
        assert not text.is_displayed()
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", details)
        details.find_element(By.TAG_NAME, "summary").click()
        assert text.is_displayed()
        assert text.text


def test_pictures_show(browser: webdriver.Chrome) -> None:
    pictures = browser.find_elements(By.TAG_NAME, "img")
    for picture in pictures:
        assert browser.execute_script("return arguments[0].naturalWidth", picture) > 50
        assert picture.get_attribute("alt")
    browser.execute_script("arguments[0].scrollIntoView()", pictures[0])
    assert np.asarray(Image.open(io.BytesIO(pictures[0].screenshot_as_png)).convert("RGB")).std() > 5  # no blank box


def test_a_telephone_scrolls_down_only(browser: webdriver.Chrome) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 780, "deviceScaleFactor": 2, "mobile": True}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

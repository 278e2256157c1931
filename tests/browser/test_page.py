"""The server's page in a real browser: ``pytest -m browser``; needs chromium and chromedriver on the path."""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.chromium import asked, opened, texts
from tests.deploy.serving import serving
from zsad import Predictor, load_model
from zsad.deploy.live import Live
from zsad.deploy.serve import Server
from zsad.synthetic import generate

pytestmark = pytest.mark.browser

TOKEN = "a-token-for-the-page-0123456789"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_model("clip", backbone="zsad-mini", device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: three images, one of them below, one broken, and a text."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "below").mkdir()
    for name, defect in (("good.png", ""), ("bad.png", "dent"), ("below/other.webp", "")):
        Image.fromarray(generate("cork", defect, seed=3, size=96).image).resize((320, 240)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "good.png").read_bytes()[:500])
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def server(predictor: Predictor) -> Iterator[Server]:
    with serving(Live(predictor, ["cork", "gear"])) as running:
        yield running


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with opened("about:blank", tmp_path) as driver:
        yield driver


def drop(browser: webdriver.Chrome, *paths: Path) -> None:
    """Let go of files over the page, as a person does."""
    area = browser.find_element(By.ID, "drop").rect
    place = {"x": area["x"] + 10, "y": area["y"] + 10}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def done(browser: webdriver.Chrome, number: int) -> None:
    WebDriverWait(browser, 60).until(lambda _: said(browser, "said").startswith(f"{number} of {number} done"))
    WebDriverWait(browser, 60).until(lambda _: browser.find_element(By.ID, "progress").get_attribute("hidden"))


def said(browser: webdriver.Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).text


def cards(browser: webdriver.Chrome, chosen: str = "") -> list[str]:
    return texts(browser, f"#list li{chosen}")


def names(browser: webdriver.Chrome, chosen: str = "") -> list[str]:
    return [one.splitlines()[0] for one in cards(browser, chosen)]


def drawn(browser: webdriver.Chrome) -> None:
    """Wait until what was asked for is drawn."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def slide(browser: webdriver.Chrome, name: str, value: float) -> None:
    slider = browser.find_element(By.ID, name)
    browser.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, value
    )
    drawn(browser)


def pixels(browser: webdriver.Chrome) -> np.ndarray[Any, Any]:
    WebDriverWait(browser, 30).until(
        lambda _: browser.execute_script("return document.getElementById('shown').width") > 16
    )
    code = "return document.getElementById('shown').toDataURL('image/png').split(',')[1]"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(browser.execute_script(code)))).convert("RGB")).astype(int)


def quiet(browser: webdriver.Chrome, address: str) -> None:
    """Nothing on the console, and nobody else was asked."""
    assert [one for one in browser.get_log("browser") if "422" not in one["message"]] == []
    urls = asked(browser)
    assert urls
    assert all(url.startswith((address, f"blob:{address}")) for url in urls)


def test_drop_limits_and_download(
    browser: webdriver.Chrome, server: Server, predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    browser.get(server.address + "/")
    WebDriverWait(browser, 30).until(lambda _: "CLIP" in said(browser, "model"))
    assert browser.find_element(By.ID, "class-name").get_attribute("value") == "cork"
    drop(browser, photos / "good.png", photos / "bad.png", photos / "broken.png", photos / "notes.txt")
    done(browser, 3)
    assert "1 file(s) are no images" in said(browser, "said")
    scores = {name: predictor.predict(photos / name, "cork").pred_score for name in ("good.png", "bad.png")}
    order = sorted(scores, key=lambda name: -scores[name])
    assert names(browser) == [*order, "broken.png"]
    first, second, third = cards(browser)
    assert f"score {scores[order[0]]:.3g}" in first
    assert "truncated" in third or "cannot" in third.lower()
    assert "normal" not in first + second  # nobody has set a limit

    slide(browser, "limit", 500)
    first, second, _ = cards(browser)
    assert first.endswith("anomalous")
    assert second.endswith("normal")
    assert "1 anomalous at this limit" in said(browser, "said")

    slide(browser, "opacity", 0)
    bare = pixels(browser)
    own = np.asarray(Image.open(photos / order[0]).convert("RGB")).astype(int)
    np.testing.assert_allclose(bare, own, atol=1)
    slide(browser, "opacity", 100)
    warm = pixels(browser)
    anomaly_map = predictor.predict(photos / order[0], "cork").anomaly_map
    hottest = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    last = np.array(matplotlib.colormaps["inferno"](255, bytes=True)[:3], int)
    assert np.abs(warm[hottest] - last).max() < 40  # the last colour covers all
    assert np.abs(warm - bare).sum(axis=-1).max() > 300
    slide(browser, "opacity", 0)
    slide(browser, "outline", 600)
    green = (pixels(browser) - bare)[..., 1] > 40
    assert 0 < green.mean() < 0.3

    browser.find_element(By.ID, "save").click()
    path = tmp_path / "zsad-results.zip"
    WebDriverWait(browser, 30).until(lambda _: path.is_file())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {
            "scores.csv", "scores.jsonl", "overlays/good.png.png", "overlays/bad.png.png"
        }  # fmt: skip
        rows = list(csv.DictReader(io.StringIO(archive.read("scores.csv").decode())))
        lines = [json.loads(line) for line in archive.read("scores.jsonl").decode().splitlines()]
        overlay = Image.open(io.BytesIO(archive.read(f"overlays/{order[0]}.png")))
        assert overlay.size == (320, 240)
    assert [row["path"] for row in rows] == [*order, "broken.png"]
    assert [float(row["score"]) for row in rows[:2]] == pytest.approx([scores[name] for name in order], abs=1e-6)
    assert [line.get("label") for line in lines] == [1, 0, None]
    quiet(browser, server.address)


def test_folders_keys_and_narrow_screens(browser: webdriver.Chrome, server: Server, photos: Path) -> None:
    browser.set_window_size(500, 900)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.get(server.address + "/")
    WebDriverWait(browser, 30).until(lambda _: "CLIP" in said(browser, "model"))
    browser.find_element(By.ID, "folder").send_keys(str(photos))
    done(browser, 4)
    found = names(browser)
    assert f"{photos.name}/below/other.webp" in found
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    chosen = browser.find_element(By.ID, "list")
    chosen.send_keys(Keys.HOME)
    drawn(browser)
    for key, place in (
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_DOWN, 2),
        (Keys.ARROW_LEFT, 1),
        (Keys.END, 3),
        (Keys.HOME, 0),
    ):
        chosen.send_keys(key)
        drawn(browser)
        assert names(browser, "[aria-selected=true]") == [found[place]]
        active = browser.execute_script(
            "return document.getElementById(arguments[0].getAttribute('aria-activedescendant')).innerText", chosen
        )
        assert active.splitlines()[0] == found[place]
    ring = chosen.value_of_css_property("outline-width")
    assert float(ring.removesuffix("px")) >= 2  # the focus is seen
    canvas = browser.find_element(By.ID, "shown")
    WebDriverWait(browser, 30).until(lambda _: "with heat map" in str(canvas.get_attribute("aria-label")))
    warm = pixels(browser)
    chosen.send_keys(Keys.SPACE)
    WebDriverWait(browser, 30).until(lambda _: "without heat map" in str(canvas.get_attribute("aria-label")))
    assert np.abs(pixels(browser) - warm).max() > 5
    for control in browser.find_elements(By.CSS_SELECTOR, "input:not([hidden]), button"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
    browser.find_element(By.ID, "clear").click()
    WebDriverWait(browser, 30).until(lambda _: not names(browser))
    quiet(browser, server.address)


def test_a_token_and_a_card(browser: webdriver.Chrome, predictor: Predictor, photos: Path) -> None:
    good = [Image.fromarray(generate("cork", "", seed=seed).image) for seed in range(100, 130)]
    predictor.use_calibration(predictor.calibrate(good, "cork", alpha=0.05))
    try:
        with serving(Live(predictor, ["cork"]), token=TOKEN) as server:
            browser.get(server.address + "/")
            WebDriverWait(browser, 30).until(lambda _: browser.find_element(By.ID, "token").is_displayed())
            browser.find_element(By.ID, "token").send_keys(TOKEN + Keys.ENTER)
            WebDriverWait(browser, 30).until(lambda _: "calibrated" in said(browser, "model"))
            drop(browser, photos / "good.png", photos / "bad.png")
            done(browser, 2)
            assert said(browser, "limit-said") == "5 % of normal images would alarm"
            slide(browser, "limit", 12)
            assert said(browser, "limit-said") == "50 % of normal images would alarm"
            rows = {name: predictor.predict(photos / name, "cork").p_value for name in ("good.png", "bad.png")}
            for one in cards(browser):
                name, words = one.splitlines()[:2]
                assert words.endswith("anomalous" if rows[name] <= 0.5 else "normal")
    finally:
        predictor.use_calibration(None)

"""The page of a scored folder in a real browser, with 2,000 rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.browser.chromium import asked, opened, texts
from zsad.inference.index_page import write_index
from zsad.inference.rows import Row
from zsad.inference.settings import write_settings

pytestmark = pytest.mark.browser

ROWS = 2000
ODD = "50% #1 ?<b>é.png"


def row(place: int, score: float, base: Path) -> Row:
    name = ODD if place == 0 else f"{place:04d}.png"
    kind = "screw" if place % 2 else "metal nut"
    known: dict[str, Any] = {"path": f"photos/{name}", "class_name": kind, "width": 40, "height": 30}
    if place % 100 == 99:
        return Row(**known, error=f"'{name}' is <i>no</i> image")
    regions = [{"area": 120}, {"area": 300 + place}] if score > 0.9 else None
    found: dict[str, Any] = {"n_regions": len(regions or []), "regions": regions}
    overlay = f"overlays/{name}.jpg"
    picture = np.full((30, 40, 3), (place % 256, 90, 200), np.uint8)
    Image.fromarray(picture).save(base / "photos" / name)
    Image.fromarray(picture[:, ::-1] // 2).save(base / "run" / overlay)
    return Row(**known, score=score, label=int(score > 0.9), p_value=0.25, overlay=overlay, **found)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("share # 1")
    for folder in ("photos", "run/overlays"):
        (base / folder).mkdir(parents=True)
    scores = np.random.default_rng(0).permutation(ROWS) / ROWS
    rows = [row(place, float(score), base) for place, score in enumerate(scores)]
    (base / "run" / "scores.jsonl").write_text("".join(one.line() for one in rows), encoding="utf-8")
    page = {"mm_per_pixel": 0.5, "thresholds": {"screw": 0.9, "metal nut": 0.9}}
    write_settings(base / "run", {"base": str(base), "method": "CLIP", "backbone": "zsad-mini", "page": page})
    write_index(base / "run")
    return base / "run"


@pytest.fixture(scope="module")
def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "scores.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def browser(run: Path) -> Iterator[webdriver.Chrome]:
    with opened(run / "index.html") as driver:
        yield driver


@pytest.fixture(autouse=True)
def everything(browser: webdriver.Chrome) -> None:
    """All rows, as the page opens."""
    for key in ("class", "label", "trouble", "order", "view"):
        Select(browser.find_element(By.ID, key)).select_by_index(0)
    search(browser, "")


def search(browser: webdriver.Chrome, text: str) -> None:
    script = "const s = document.getElementById('search'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    browser.execute_script(script, text)


def choose(browser: webdriver.Chrome, key: str, text: str) -> None:
    Select(browser.find_element(By.ID, key)).select_by_visible_text(text)


def cards(browser: webdriver.Chrome, what: str = "innerText") -> list[str]:
    return texts(browser, "#gallery figure", what)


def image(browser: webdriver.Chrome, what: str) -> Any:
    """Return what the first picture's element says of itself."""
    return browser.execute_script("return document.querySelector('#gallery figure img')[arguments[0]]", what)


def values(browser: webdriver.Chrome) -> list[str]:
    return texts(browser, "#gallery figcaption b")


def count(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "count").text


def test_it_opens_without_errors_and_asks_for_files_beside_it_only(browser: webdriver.Chrome, run: Path) -> None:
    WebDriverWait(browser, 20).until(lambda _: image(browser, "naturalWidth") == 40)
    assert browser.get_log("browser") == []
    urls = asked(browser)
    assert (run / "index.html").as_uri() in urls
    assert {url.partition("?")[0].rpartition("/")[0] for url in urls} == {run.as_uri(), f"{run.as_uri()}/overlays"}
    assert len(urls) <= 201


def test_highest_scores_first_in_parts_of_200(browser: webdriver.Chrome, rows: list[dict[str, Any]]) -> None:
    scores = sorted((one["score"] for one in rows if one["score"] is not None), reverse=True)
    assert values(browser) == [f"{score:.5g}" for score in scores[:200]]
    assert count(browser) == f"1 to 200 of {ROWS} (part 1 of 10)"
    assert not browser.find_element(By.ID, "back").is_enabled()
    browser.find_element(By.ID, "next").click()
    assert values(browser) == [f"{score:.5g}" for score in scores[200:400]]
    choose(browser, "order", "lowest first")
    assert values(browser) == [f"{score:.5g}" for score in sorted(scores)[:200]]
    choose(browser, "order", "name")
    assert texts(browser, "#gallery figure a", "title")[:30] == sorted(one["path"] for one in rows)[:30]


def test_filters(browser: webdriver.Chrome, rows: list[dict[str, Any]]) -> None:
    choose(browser, "class", "screw")
    choose(browser, "label", "anomalous")
    expected = [one for one in rows if one["class_name"] == "screw" and one["label"] == 1]
    assert count(browser).startswith(f"1 to {len(expected)} of {len(expected)} ")
    assert set(cards(browser, "className")) == {"alarm"}
    choose(browser, "label", "without")
    assert len(cards(browser)) == ROWS // 100
    choose(browser, "class", "all")
    choose(browser, "label", "all")
    choose(browser, "trouble", "only errors")
    assert len(cards(browser)) == ROWS // 100
    assert "is <i>no</i> image" in cards(browser)[0]
    choose(browser, "trouble", "no errors")
    search(browser, "PHOTOS/12")
    assert count(browser).startswith("1 to 99 of 99 ")  # 1200 to 1299, of which 1299 has an error
    search(browser, "no such name")
    assert count(browser) == "none"


def test_picture_and_heat_map_and_the_way_to_the_original(browser: webdriver.Chrome, run: Path) -> None:
    search(browser, "50% #1 ?<b>")
    (card,) = cards(browser)
    original = (run.parent / "photos" / ODD).as_uri()
    assert str(image(browser, "src")).startswith(f"{run.as_uri()}/overlays/")
    assert texts(browser, "#gallery figure a", "href") == [original]
    assert ODD in card
    choose(browser, "view", "picture")
    assert image(browser, "src") == original
    WebDriverWait(browser, 20).until(lambda _: image(browser, "naturalWidth") == 40)


def test_regions_have_areas_in_pixels_and_square_millimetres(
    browser: webdriver.Chrome, rows: list[dict[str, Any]]
) -> None:
    top = max((one for one in rows if one.get("regions")), key=lambda one: one["score"])
    area = top["regions"][1]["area"]
    text = cards(browser)[0]
    assert f"2 regions: {area} px ({area / 4:.3g} mm²), 120 px (30 mm²)" in text
    assert "anomalous, p = 0.25" in text
    choose(browser, "order", "largest region")
    largest = max(one["regions"][1]["area"] for one in rows if one.get("regions"))
    assert f"2 regions: {largest} px" in cards(browser)[0]


def test_the_histogram_shows_the_thresholds(browser: webdriver.Chrome) -> None:
    chart = browser.find_element(By.CSS_SELECTOR, ".chart svg")
    tips = {str(one.get_attribute("data-tip")) for one in chart.find_elements(By.CLASS_NAME, "point")}
    assert tips == {"screw: alarm from 0.9 on", "metal nut: alarm from 0.9 on"}
    assert chart.size["height"] > 100


def test_it_reads_on_a_narrow_screen(browser: webdriver.Chrome) -> None:
    browser.set_window_size(400, 900)
    assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0
    browser.set_window_size(1200, 1000)

"""Charts: what stands in the drawing is what was given, every name looks different, and it fits both papers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from zsad.report.charts import COLOURS, MARKERS, bars, lines, marks, scatter

NAMES = [f"method{number}" for number in range(20)]


def points_of(svg: str) -> list[tuple[str, str]]:
    """Name and shown value of each point."""
    root = ET.fromstring(svg)
    return [(one.attrib["data-name"], one.attrib["data-tip"]) for one in root.iter() if one.get("class") == "point"]


def luminance(colour: str) -> float:
    """Relative luminance, as the contrast rule of the web defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_twenty_names_have_a_colour_and_a_marker_of_their_own() -> None:
    look = marks(NAMES)
    assert len({mark.colour for mark in look.values()}) == 20
    assert len({mark.marker for mark in look.values()}) == 20
    many = marks([str(number) for number in range(400)])
    assert len({(mark.colour, mark.marker) for mark in many.values()}) == 400
    assert len(COLOURS) == len(MARKERS) == 20


@pytest.mark.parametrize("paper", ["#ffffff", "#16181b"])
def test_colours_stand_out_on_both_papers(paper: str) -> None:
    back = luminance(paper)
    for colour in COLOURS:
        low, high = sorted((back, luminance(colour)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour  # what WCAG asks of graphics


def test_scatter_shows_what_it_was_given_and_leaves_out_what_is_no_number() -> None:
    svg = scatter([("a", 12.0, 91.25), ("b<&>", 3.0, 80.0), ("c", None, 70.0), ("d", 1.0, float("nan"))], "speed", "%")
    assert points_of(svg) == [("a", "a: 12 speed, 91.2"), ("b<&>", "b<&>: 3 speed, 80.0")]
    assert scatter([("c", None, 70.0)], "speed", "%") == ""


def test_places_follow_the_values() -> None:
    root = ET.fromstring(scatter([(f"m{n}", 10.0**n, 10.0 * n) for n in range(4)], "speed", "%"))
    places = {}
    for one in root.iter():
        if one.get("class") == "point":
            (use,) = one.iter("use")
            places[one.attrib["data-name"]] = float(use.attrib["x"]), float(use.attrib["y"])
    steps = [
        (places[f"m{n + 1}"][0] - places[f"m{n}"][0], places[f"m{n}"][1] - places[f"m{n + 1}"][1]) for n in range(3)
    ]
    for right, up in steps:  # equal steps on a logarithmic and on a linear axis
        assert right == pytest.approx(steps[0][0], abs=1e-3)
        assert up == pytest.approx(steps[0][1], abs=1e-3)
        assert right > 0
        assert up > 0


def test_points_of_a_class_never_touch() -> None:
    root = ET.fromstring(bars({name: {"a": 90 + number / 100, "b": 50.0} for number, name in enumerate(NAMES)}))
    places = []
    for one in root.iter():
        if one.get("class") == "point":
            (use,) = one.iter("use")
            places.append((float(use.attrib["x"]), float(use.attrib["y"])))
    assert len(places) == 40
    for number, (x, y) in enumerate(places):
        assert all(abs(x - u) > 8 or abs(y - v) > 12 for u, v in places[:number])


def test_the_browser_gives_ink_and_font_and_nothing_is_fetched() -> None:
    for svg in (
        scatter([("a", 1.0, 2.0)], "x", "y"),
        bars({"a": {"c": 5.0}}),
        lines({"a": ([0, 1], [0, 1])}, "x", "y"),
    ):
        assert "currentColor" in svg
        assert "font-family" not in svg
        assert "<style" not in svg
        assert not re.search(r"https?:|@import|<!DOCTYPE", svg)
        assert ET.fromstring(svg)[0].attrib["role"] == "img"


def test_two_charts_of_a_page_share_no_id() -> None:
    first, second = bars({"a": {"c": 5.0}}), bars({"a": {"c": 6.0}})
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', first))
    assert used <= ids[0]


def test_the_same_numbers_give_the_same_text() -> None:
    assert bars({"a": {"c": 5.0}}) == bars({"a": {"c": 5.0}})
    assert bars({}) == lines({}, "x", "y") == ""

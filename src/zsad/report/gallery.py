"""Pictures of a folder with their scores as one page that opens from a disk: at most 200 at a time, none inside it."""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache
from html import escape
from importlib.resources import files

from zsad.report.page import page

PART = 200
"""Pictures shown at once."""


@dataclass(frozen=True)
class Shown:
    """One picture of the gallery, in the order that the page's script reads.

    Args:
        path: As it is shown.
        score: None if there is none.
        label: 1, 0 or None.
        class_number: Place among the classes.
        p_value: None without a calibration.
        overlay: Address of the heat map, relative to the page, per cent encoded; None without one.
        link: Address of the picture itself.
        error: What went wrong, else None.
        warning: What makes the score doubtful, else None.
        n_regions: None if regions were not looked for.
        areas: Areas of the largest regions in pixels, the largest first.
    """

    path: str
    score: float | None
    label: int | None
    class_number: int
    p_value: float | None
    overlay: str | None
    link: str
    error: str | None
    warning: str | None
    n_regions: int | None
    areas: tuple[int, ...] = ()


def gallery(
    title: str,
    above: Sequence[str],
    shown: Sequence[Shown],
    classes: Sequence[str],
    mm_per_pixel: float | None = None,
    part: int = PART,
) -> str:
    """Return the page: filters by class, label, error and name, four orders, pictures or heat maps.

    The browser may load files beside the page and nothing else; nothing is fetched from a network.

    Args:
        title: Plain text.
        above: HTML above the pictures.
        shown: One per picture.
        classes: Their names, by number.
        mm_per_pixel: Length of a pixel's side; areas are then told in square millimetres as well.
        part: Pictures shown at once.
    """
    content = {
        "classes": list(classes),
        "mm_per_pixel": mm_per_pixel,
        "size": part,
        "rows": [astuple(one) for one in shown],
    }
    rows = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = [
        *above,
        _CONTROLS,
        '<div id="gallery"></div>',
        f'<script type="application/json" id="rows">{rows}</script>',
    ]
    return page(title, parts, images="data: file: 'self'", style=_text("gallery.css"), script=_text("gallery.js"))


def _choice(key: str, title: str, choices: Sequence[tuple[str, str]]) -> str:
    options = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in choices)
    return f'<label>{escape(title)}<select id="{key}">{options}</select></label>'


_CONTROLS = "".join(
    [
        '<div id="controls">',
        _choice("class", "class", [("", "all")]),
        _choice("label", "label", [("", "all"), ("1", "anomalous"), ("0", "normal"), ("none", "without")]),
        _choice("trouble", "errors", [("", "with and without"), ("error", "only errors"), ("fine", "no errors")]),
        _choice(
            "order",
            "order",
            [("high", "highest score first"), ("low", "lowest first"), ("area", "largest region"), ("path", "name")],
        ),
        '<label>name contains<input id="search" type="search"></label>',
        _choice("view", "show", [("overlay", "heat map"), ("picture", "picture")]),
        '<button id="back" type="button">back</button><button id="next" type="button">next</button>',
        '<span id="count" role="status"></span></div>',
    ]
)


@cache
def _text(name: str) -> str:
    return files("zsad.report").joinpath(name).read_text(encoding="utf-8")

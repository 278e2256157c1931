"""Charts as SVG inside the page, drawn by matplotlib: a colour and a marker per name, values under the pointer."""

import hashlib
import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    "#0a72da", "#f9052b", "#57a314", "#d852f5", "#7f624c", "#998bab", "#9a42ae", "#c8800d", "#018d87", "#e10195",
    "#8a63fe", "#1e7729", "#1795fa", "#c0304c", "#ec6094", "#b4685c", "#6360a0", "#5e46f9", "#73833a", "#b862a7",
)  # fmt: skip
"""Far from each other in OKLab, each with a contrast of 3 or more on the page's light and on its dark paper."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "d", "8", "+", "x", "1", "2", "3", "4")

_INK = "#010203"
"""Stands for the colour of the page's text, which the browser knows and matplotlib does not."""
_PLOT = 560.0
"""Width of a chart without its legend, in pixels."""
_BINS = 40
"""Of a histogram."""
_LANE = 13.0
"""Distance of points that would touch."""
_LINE = 19.0
"""Height of a line of the legend."""
_SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,  # a name with a dollar sign is no formula
    "svg.fonttype": "none",  # letters stay text: they can be found, copied and read aloud
    "font.size": 12,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Mark:
    """How one name looks in every chart of a page."""

    colour: str
    marker: str


def marks(names: Sequence[str]) -> dict[str, Mark]:
    """Return a colour and a marker per name: each used once up to 20 names, no pair twice up to 400."""
    size = len(COLOURS)
    return {
        name: Mark(COLOURS[number % size], MARKERS[(number + number // size) % size])
        for number, name in enumerate(dict.fromkeys(names))
    }


def scatter(
    points: Sequence[tuple[str, float | None, float]],
    x_title: str,
    y_title: str,
    look: Mapping[str, Mark] | None = None,
) -> str:
    """Return a scatter plot with a logarithmic x axis.

    The markers are outlines, so that points on one spot show their shapes; the legend stands outside, from the highest
    point to the lowest.

    Args:
        points: Name, x above zero, y in per cent; points without a number are left out.
        x_title: Below the axis.
        y_title: Beside the axis.
        look: Name -> mark, the same for all charts of a page; by default that of these names.

    Returns:
        An ``svg`` element in a ``div``; "" without a point.
    """
    known = sorted(((n, x, y) for n, x, y in points if x and not math.isnan(y)), key=lambda point: -point[2])
    if not known:
        return ""
    from matplotlib.ticker import LogLocator, NullLocator

    look = look or marks([name for name, *_ in points])
    canvas = _Canvas(360.0, f"{y_title} against {x_title}", [name for name, *_ in known])
    for name, x, y in known:
        canvas.point(name, x, y, look[name], f"{name}: {x:.3g} {x_title}, {y:.1f}")
    canvas.axes.set(xscale="log", xlabel=x_title, ylabel=y_title)
    canvas.axes.grid(True)
    canvas.axes.margins(0.06)
    canvas.axes.set_ylim(top=min(canvas.axes.get_ylim()[1], 100.9))
    canvas.axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    canvas.axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    canvas.axes.xaxis.set_minor_locator(NullLocator())
    return canvas.svg()


def bars(groups: Mapping[str, Mapping[str, float]], look: Mapping[str, Mark] | None = None) -> str:
    """Return one row of points per class on an axis of per cent; points that would touch lie below each other.

    Args:
        groups: Method -> class -> value in 0..100.
        look: As for :func:`scatter`.
    """
    classes = sorted({name for values in groups.values() for name in values}, reverse=True)
    if not classes:
        return ""
    look = look or marks(list(groups))
    lanes = {name: _lanes({one: values[name] for one, values in groups.items() if name in values}) for name in classes}
    row = max(26.0, _LANE * (1 + max(max(found.values()) for found in lanes.values())) + 8)
    canvas = _Canvas(90 + row * len(classes), "values per class", list(groups))
    for method, values in groups.items():
        for height, name in enumerate(classes):
            if name in values:
                offset = (lanes[name][method] - max(lanes[name].values()) / 2) * _LANE / row
                tip = f"{method}, {name}: {values[name]:.1f}"
                canvas.point(method, values[name], height - offset, look[method], tip)
    low = min(value for values in groups.values() for value in values.values())
    canvas.axes.set(xlim=(max(0.0, 10 * math.floor((low - 2) / 10)), 101), ylim=(-0.6, len(classes) - 0.4))
    canvas.axes.set(xlabel="per cent")
    canvas.axes.set_yticks(range(len(classes)), classes)
    for height in range(1, len(classes)):
        canvas.axes.axhline(height - 0.5, color=_INK, alpha=0.12, linewidth=0.8)
    canvas.axes.grid(True, axis="x")
    return canvas.svg()


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_title: str,
    y_title: str,
    look: Mapping[str, Mark] | None = None,
) -> str:
    """Return curves in the unit square.

    Args:
        curves: Name -> x and y of its points, in [0, 1].
        x_title: Below the axis.
        y_title: Beside the axis.
        look: As for :func:`scatter`.
    """
    if not curves:
        return ""
    look = look or marks(list(curves))
    canvas = _Canvas(440.0, f"{y_title} over {x_title}", list(curves))
    for number, (name, (x, y)) in enumerate(curves.items()):
        canvas.line(name, x, y, look[name], first=0.1 * number / len(curves))
    canvas.axes.set(xlabel=x_title, ylabel=y_title, xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    canvas.axes.grid(True)
    return canvas.svg()


def histogram(
    groups: Mapping[str, Sequence[float]],
    x_title: str,
    limits: Mapping[str, float] | None = None,
    look: Mapping[str, Mark] | None = None,
) -> str:
    """Return how many values lie where, an outline per group, and a vertical line for the limit of a group.

    Args:
        groups: Name -> values; groups without a value are left out.
        x_title: Below the axis.
        limits: Name -> value, for any of the groups.
        look: As for :func:`scatter`.
    """
    groups = {name: values for name, values in groups.items() if len(values)}
    if not groups:
        return ""
    limits = {name: value for name, value in (limits or {}).items() if name in groups}
    look = look or marks(list(groups))
    every = [value for values in groups.values() for value in values] + list(limits.values())
    low, high = min(every), max(every)
    spread = (high - low) or max(abs(low), 1.0) * 0.1
    edges = [low + spread * number / _BINS for number in range(_BINS + 1)]
    canvas = _Canvas(240.0, f"number of images by {x_title}", list(groups))
    for name, values in groups.items():
        counts = [0] * _BINS
        for value in values:
            counts[min(_BINS - 1, int((value - low) / spread * _BINS))] += 1
        canvas.outline(name, counts, edges, look[name])
    for name, value in limits.items():
        canvas.limit(name, value, look[name], f"{name}: alarm from {value:.5g} on")
    canvas.axes.set(xlabel=x_title, ylabel="images")
    canvas.axes.set_ylim(bottom=0)
    canvas.axes.grid(True, axis="y")
    return canvas.svg()


def _lanes(values: Mapping[str, float], apart: float = 1.6) -> dict[str, int]:
    """Return the lane of each value: the first in which no other is nearer than ``apart``."""
    taken: list[list[float]] = []
    found = {}
    for name, value in sorted(values.items(), key=lambda item: item[1]):
        lane = next((n for n, row in enumerate(taken) if all(abs(value - one) >= apart for one in row)), len(taken))
        if lane == len(taken):
            taken.append([])
        taken[lane].append(value)
        found[name] = lane
    return found


class _Canvas:
    """One chart: matplotlib draws it, the browser's part (colour of the text, values to show) is put in afterwards."""

    def __init__(self, height: float, title: str, names: Sequence[str]) -> None:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        self.title = title
        longest = max(map(len, names))
        self._columns = 2 if _LINE * len(names) > height and longest <= 24 else 1
        height = max(height, 30 + _LINE * math.ceil(len(names) / self._columns))
        width = _PLOT + self._columns * (50 + 7.5 * longest)
        with rc_context(_SETTINGS):
            self.figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
            self.axes: Axes = self.figure.add_subplot()
        self._tips: dict[str, tuple[str, str]] = {}  # id -> name, what to show
        self._legend: dict[str, Any] = {}

    def point(self, name: str, x: float, y: float, mark: Mark, tip: str) -> None:
        """Add a point."""
        key = f"point-{len(self._tips)}"
        self._tips[key] = (name, tip)
        (artist,) = self.axes.plot(
            [x], [y], linestyle="none", marker=mark.marker, color=mark.colour, markerfacecolor="none",
            markersize=8, markeredgewidth=1.8, clip_on=False, gid=key,
        )  # fmt: skip
        self._legend.setdefault(name, artist)

    def line(self, name: str, x: Sequence[float], y: Sequence[float], mark: Mark, first: float) -> None:
        """Add a curve, with its marker at every tenth of its length."""
        key = f"point-{len(self._tips)}"
        self._tips[key] = (name, name)
        (artist,) = self.axes.plot(
            x, y, marker=mark.marker, color=mark.colour, markerfacecolor="none", markevery=(first, 0.1),
            markersize=6, linewidth=1.4, clip_on=False, gid=key,
        )  # fmt: skip
        self._legend.setdefault(name, artist)

    def outline(self, name: str, counts: Sequence[int], edges: Sequence[float], mark: Mark) -> None:
        """Add the outline of a histogram."""
        self._legend[name] = self.axes.stairs(counts, edges, color=mark.colour, linewidth=1.6, fill=False)
        self.axes.stairs(counts, edges, color=mark.colour, alpha=0.18, fill=True)

    def limit(self, name: str, x: float, mark: Mark, tip: str) -> None:
        """Add a vertical line."""
        key = f"point-{len(self._tips)}"
        self._tips[key] = (name, tip)
        self.axes.axvline(x, color=mark.colour, linestyle="--", linewidth=1.8, gid=key)

    def svg(self) -> str:
        """Return the chart as HTML."""
        from matplotlib import rc_context

        with rc_context({**_SETTINGS, "svg.hashsalt": "zsad"}):
            names = list(self._legend)
            legend = self.figure.legend(
                [self._legend[name] for name in names], names, loc="outside right upper", frameon=False,
                ncols=self._columns,
            )  # fmt: skip
            for number, (name, text) in enumerate(zip(names, legend.get_texts(), strict=True)):
                self._tips[f"label-{number}"] = (name, "")
                text.set_gid(f"label-{number}")
            data = io.StringIO()
            self.figure.savefig(data, format="svg", transparent=True, metadata={"Date": None})
        return _for_page(data.getvalue(), self.title, self._tips)


def _for_page(text: str, title: str, tips: Mapping[str, tuple[str, str]]) -> str:
    """Return a drawing as a part of the page: no name space, no id that another chart has, the page's ink and font."""
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"font-family: [^;\"]+;? ?", "", re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", text))
    root = ET.fromstring(text)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    prefix = f"c{hashlib.sha256((title + text).encode()).hexdigest()[:8]}-"
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        key = element.attrib.pop("id", "")
        if key in used:
            element.set("id", prefix + key)
        if key in tips:
            name, tip = tips[key]
            element.set("data-name", name)
            element.set("class", "point" if tip else "label")
            if tip:
                element.set("data-tip", tip)
        for attribute, value in list(element.attrib.items()):
            del element.attrib[attribute]
            value = f"#{prefix}{value[1:]}" if attribute.endswith("href") else value
            element.set(attribute.rpartition("}")[2], value.replace("url(#", f"url(#{prefix}"))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib.update({"width": width, "height": height, "role": "img", "aria-label": title})
    root.attrib.update({"stroke-linejoin": "round", "fill": "currentColor"})
    for unwanted in ("version", "xmlns", "xlink"):
        root.attrib.pop(unwanted, None)
    drawing = ET.tostring(root, encoding="unicode", short_empty_elements=False)
    return f'<div class="chart">{drawing}</div>'

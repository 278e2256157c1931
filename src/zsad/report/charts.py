"""Charts as inline SVG: no library, no script, readable in light and dark."""

import math
from collections.abc import Mapping, Sequence
from html import escape

PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", "#cc6611", "#117755", "#7755cc")
_LETTER = 7.2
"""Width of a letter at most, as a rule."""


def scatter(points: Sequence[tuple[str, float | None, float]], x_title: str, y_title: str) -> str:
    """Return a labelled scatter plot with a logarithmic x axis.

    Args:
        points: Name, x above zero, y; points without a number are left out.
        x_title: Below the axis.
        y_title: Beside the axis.
    """
    known = [(name, x, y) for name, x, y in points if x and not math.isnan(y)]
    if not known:
        return ""
    width, height, margin = 640, 320, 48
    low, high = math.log10(min(x for _, x, _ in known)) - 0.1, math.log10(max(x for _, x, _ in known)) + 0.3
    bottom, top = math.floor(min(y for *_, y in known) / 5) * 5, math.ceil(max(y for *_, y in known) / 5 + 0.01) * 5

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            margin + (math.log10(x) - low) / (high - low) * (width - 2 * margin),
            height - margin - (y - bottom) / (top - bottom) * (height - 2 * margin),
        )

    parts = []
    for tick in range(bottom, top + 1, 5):
        _, v = place(10**low, tick)
        parts.append(
            f'<line x1="{margin}" x2="{width - margin}" y1="{v:.1f}" y2="{v:.1f}" stroke="currentColor" opacity=".15"/>'
        )
        parts.append(f'<text x="{margin - 6}" y="{v + 4:.1f}" text-anchor="end">{tick}</text>')
    for power in range(math.ceil(low), math.floor(high) + 1):
        u, _ = place(10**power, bottom)
        parts.append(f'<text x="{u:.1f}" y="{height - margin + 16}" text-anchor="middle">{10**power:g}</text>')
    labels: list[tuple[float, float, float]] = []  # left, right, baseline of those that have a place
    for number, (name, x, y) in sorted(enumerate(known), key=lambda point: -point[1][2]):
        u, v = place(x, y)
        parts.append(f'<circle cx="{u:.1f}" cy="{v:.1f}" r="5" fill="{PALETTE[number % len(PALETTE)]}"/>')
        begin, end, v = u + 8, u + 8 + _LETTER * len(name), v + 4
        if end > width:  # no room to the right of the point
            begin, end = u - 8 - _LETTER * len(name), u - 8
        side = "end" if begin < u else "start"
        taken = [line for left, right, line in labels if begin < right and left < end]
        free = [
            line
            for line in range(12, height - margin)
            if all(abs(line - other) >= 13 for other in taken)  # as near to the point as the others leave room
        ]
        v = min(free, key=lambda line: abs(line - v), default=v)
        labels.append((begin, end, v))
        x_text = end if side == "end" else begin
        parts.append(f'<text x="{x_text:.1f}" y="{v:.1f}" text-anchor="{side}">{escape(name)}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">{escape(x_title)}</text>')
    parts.append(
        f'<text transform="translate(14 {height / 2}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>'
    )
    return _svg(width, height, parts, f"{y_title} against {x_title}")


def bars(groups: Mapping[str, Mapping[str, float]]) -> str:
    """Return horizontal dots per class, one colour per method, on an axis of per cent.

    Args:
        groups: Method -> class -> value in 0..100.
    """
    classes = sorted({name for values in groups.values() for name in values})
    left, width, line = 150, 640, 22
    legend, u, row = [], float(left), 0
    for method in groups:
        if u > left and u + 8 + _LETTER * len(method) > width:
            u, row = float(left), row + 1
        legend.append((u, 16 + line * (len(classes) + 0.8 + row)))
        u += 20 + _LETTER * len(method)
    height = line * (len(classes) + 2 + row) + 20
    parts = []
    for tick in (0, 25, 50, 75, 100):
        u = left + tick / 100 * (width - left - 20)
        parts.append(
            f'<line x1="{u:.1f}" x2="{u:.1f}" y1="16" y2="{16 + line * len(classes)}" stroke="currentColor" '
            'opacity=".15"/>'
        )
        parts.append(f'<text x="{u:.1f}" y="12" text-anchor="middle">{tick}</text>')
    for row, name in enumerate(classes):
        v = 16 + line * (row + 0.5)
        parts.append(f'<text x="{left - 8}" y="{v + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for number, (method, values) in enumerate(groups.items()):
            if name in values:
                u = left + values[name] / 100 * (width - left - 20)
                parts.append(
                    f'<circle cx="{u:.1f}" cy="{v:.1f}" r="4.5" fill="{PALETTE[number % len(PALETTE)]}" opacity=".85">'
                    f"<title>{escape(method)}, {escape(name)}: {values[name]:.1f}</title></circle>"
                )
    for number, (method, (u, v)) in enumerate(zip(groups, legend, strict=True)):
        parts.append(f'<circle cx="{u:.1f}" cy="{v:.1f}" r="4.5" fill="{PALETTE[number % len(PALETTE)]}"/>')
        parts.append(f'<text x="{u + 8:.1f}" y="{v + 4:.1f}">{escape(method)}</text>')
    return _svg(width, height, parts, "values per class")


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    return (
        f'<div class="wide"><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title, quote=True)}" font-size="12" fill="currentColor">{"".join(parts)}</svg></div>'
    )

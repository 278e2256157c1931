"""One HTML page that needs nothing else: text, sortable tables and pictures inside the file, no network."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

from PIL import Image

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --quiet: #61666d; --paper: #fff; --line: #d9dce0; --tint: #f3f4f6;
  --mark: #8a3b00; --note: #fff4e5; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --quiet: #a0a6ad; --paper: #16181b;
  --line: #373b41; --tint: #22252a; --mark: #ffb877; --note: #33261a; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem clamp(1rem, 2vw, 3rem); background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
p { max-width: 80ch; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.note { background: var(--note); border-left: 4px solid var(--mark); padding: .6rem .9rem; }
.quiet { color: var(--quiet); font-size: .85rem; }
.wide, .chart { overflow-x: auto; max-width: 100%; }
pre { max-width: 100%; overflow-x: auto; padding: .5rem .7rem; background: var(--tint); border-radius: 3px;
  font: .82rem/1.45 ui-monospace, monospace; }
.command { display: flex; gap: .7rem; align-items: center; } .command pre { margin: 0; user-select: all; }
.command button { font: inherit; font-size: .8rem; cursor: pointer; }
summary { cursor: pointer; margin: .6rem 0; }
.beside { display: flex; flex-wrap: wrap; gap: 0 3rem; } .beside > * { max-width: 100%; }
.chart .point { cursor: crosshair; } .chart .label { cursor: default; }
.chart.picked .point:not(.on), .chart.picked .label:not(.on) { opacity: .15; }
#tip { position: fixed; z-index: 1; padding: .2rem .5rem; border: 1px solid var(--line); border-radius: 3px;
  background: var(--paper); font-size: .8rem; white-space: pre; pointer-events: none; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding-bottom: .3rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { background: var(--tint); cursor: pointer; user-select: none; }
thead th[aria-sort=ascending]::after { content: " \\2191"; }
thead th[aria-sort=descending]::after { content: " \\2193"; }
tr.aside td { color: var(--quiet); font-style: italic; }
.pictures { display: grid; gap: .5rem; margin: .7rem 0 1.4rem;
  grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; border-radius: 3px; }
figcaption { font-size: .75rem; color: var(--quiet); overflow-wrap: anywhere; }
@media print { :root { color-scheme: light; } body { padding: 0; font-size: 10pt; } .chart svg { max-width: 100%;
  height: auto; } .wide, .chart { overflow: visible; } table { font-size: 7pt; } th, td { padding: .1rem .3rem;
  white-space: normal; } thead { display: table-header-group; } tr, figure, .chart { break-inside: avoid; }
  h2 { break-after: avoid; } }
"""

_SCRIPT = """
for (const head of document.querySelectorAll("thead th")) head.addEventListener("click", () => {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const up = head.getAttribute("aria-sort") === "descending";
  const key = row => { const text = row.cells[column].dataset.key, n = parseFloat(text); return isNaN(n) ? text : n; };
  const order = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  [...body.rows].sort((a, b) => (up ? 1 : -1) * order(key(a), key(b))).forEach(row => body.append(row));
});
for (const button of document.querySelectorAll(".command button")) button.addEventListener("click", async () => {
  const text = button.parentElement.querySelector("code");
  getSelection().selectAllChildren(text);
  try { await navigator.clipboard.writeText(text.textContent); button.textContent = "copied"; }
  catch { button.textContent = "selected"; }
});
const tip = document.createElement("div");
tip.id = "tip", tip.hidden = true, tip.setAttribute("role", "status"), document.body.append(tip);
for (const chart of document.querySelectorAll(".chart")) {
  const points = [...chart.querySelectorAll(".point")], named = [...chart.querySelectorAll("[data-name]")];
  chart.addEventListener("pointermove", event => {
    const near = points.filter(point => { const box = point.getBoundingClientRect();
      return box.width < 20 ? Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY)
        < 11 : point.contains(event.target); });
    tip.textContent = near.map(point => point.dataset.tip).join("\\n");
    tip.hidden = !near.length;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4) + "px";
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4) + "px";
    const label = event.target.closest(".label"), picked = label ? [label.dataset.name]
      : near.map(point => point.dataset.name);
    chart.classList.toggle("picked", picked.length > 0);
    for (const one of named) one.classList.toggle("on", picked.includes(one.dataset.name));
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true, chart.classList.remove("picked"); });
}
"""


def page(title: str, parts: Iterable[str], *, images: str = "data:", style: str = "", script: str = "") -> str:
    """Return a whole HTML document; it names no other file or address, and forbids the browser to fetch any.

    Args:
        title: Plain text.
        parts: HTML from the other functions of this module.
        images: Where the browser may take pictures from, in the words of a content security policy.
        style: Further rules.
        script: A further script.
    """
    policy = f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + f"\n<script>{_SCRIPT}{script}</script>\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """Return a section heading of plain text."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: Literal["", "note", "quiet"] = "") -> str:
    """Return a paragraph of plain text; ``"note"`` makes it stand out, ``"quiet"`` small."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def command(line: str) -> str:
    """Return a command line with a button that copies it."""
    return f'<div class="command"><pre><code>{escape(line)}</code></pre><button type="button">copy</button></div>'


def output(text: str) -> str:
    """Return what a program printed, line by line."""
    return f"<pre>{escape(text)}</pre>"


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str | float | None]], caption: str = "", aside: Sequence[int] = ()
) -> str:
    """Return a table that a click on a column's head sorts, and that scrolls sideways on a narrow screen.

    Args:
        columns: Heads.
        rows: Text, numbers (shown with one decimal) or None (shown as a dash), one per column.
        caption: Plain text above the table.
        aside: Numbers of rows in another style, from 0.

    Raises:
        ValueError: A row has another number of cells than there are columns.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"Expected {len(columns)} cells in each row, got {len(row)}: {list(row)!r}.")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f"<tr{' class=aside' if number in aside else ''}>{''.join(map(_cell, row))}</tr>\n"
        for number, row in enumerate(rows)
    )
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{above}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _cell(value: str | float | None) -> str:
    if value is None or value != value:  # NaN: nothing was measured
        return '<td data-key="-1">–</td>'  # noqa: RUF001 (a dash for a missing value)
    if isinstance(value, str):
        return f'<td data-key="{escape(value, quote=True)}">{escape(value)}</td>'
    return f'<td data-key="{value:.6f}">{value:.1f}</td>'


def details(title: str, content: str) -> str:
    """Return HTML that a click on its title opens; print shows it as it is."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def beside(parts: Iterable[str]) -> str:
    """Return parts next to each other where the window is wide enough, else below each other."""
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def picture(image: Image.Image, caption: str, format: Literal["png", "jpeg"] = "jpeg") -> str:
    """Return a picture stored in the page itself, with plain text below it that also serves those who cannot see it."""
    data = io.BytesIO()
    image.save(data, format, **({"quality": 88} if format == "jpeg" else {}))
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    text = escape(caption, quote=True)
    return (
        f'<figure><img src="data:image/{format};base64,{encoded}" alt="{text}" width="{image.width}" '
        f'height="{image.height}"><figcaption>{text}</figcaption></figure>'
    )


def pictures(figures: Iterable[str]) -> str:
    """Return pictures side by side, as many as the screen has room for."""
    return f'<div class="pictures">{"".join(figures)}</div>'

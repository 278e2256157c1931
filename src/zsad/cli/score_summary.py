"""What ``zsad score`` says when a run is over: at most 20 lines of 80 columns, whatever the folder holds."""

import heapq
import os
from collections import Counter

from rich.console import Console

from zsad.images.overlay import Limits
from zsad.inference.index_page import INDEX
from zsad.inference.run import Recorder
from zsad.inference.writer import RowWriter

_WORST = 5  # rows shown at the end
_CLASSES = 4
_NARROW = 0.1  # share of the scale below which heat maps look all the same


def summary(console: Console, writer: RowWriter, map_range: Limits | None, recorder: Recorder) -> int:
    """Say what came out, and return the exit status: 1 if nothing could be scored."""
    scored = failed = 0
    worst: list[tuple[float, str]] = []
    labels: dict[str, Counter[int]] = {}
    for row in writer.rows():
        failed += row.error is not None
        scored += row.error is None
        if row.score is not None:
            (heapq.heappush if len(worst) < _WORST else heapq.heappushpop)(worst, (row.score, row.path))
        if row.label is not None:
            labels.setdefault(row.class_name or "", Counter())[row.label] += 1
    if worst:
        console.print(f"The highest of {scored} scores:", highlight=False)
        for score, path in sorted(worst, reverse=True):  # a terminal breaks what is longer; copied, it is whole
            shown = f"  {score:<9.5g}  {_end(path, console.width - 13)}"
            console.print(shown, highlight=False, markup=False, soft_wrap=True)
    if labels:
        said = [f"{found[1]} of {found.total()} '{name[:24]}'" for name, found in list(labels.items())[:_CLASSES]]
        more = f" and {len(labels) - _CLASSES} more classes" if len(labels) > _CLASSES else ""
        console.print(f"anomalous: {', '.join(said)}{more}", highlight=False, markup=False)
    if failed:
        console.print(f"[red]{failed} file(s) could not be read or scored[/red]: see the column 'error'.")
    if recorder.narrow:
        low, high = min(low for low, _ in recorder.narrow), max(high for _, high in recorder.narrow)
        console.print(
            f"{len(recorder.narrow)} picture(s) use less than an eighth of their range of grey levels and look nearly "
            f"black: --window {low:g},{high:g} --fresh would fit them.",
            highlight=False,
        )
    _tell_scale(console, map_range, recorder)
    new = recorder.scored + recorder.failed
    page = f"; look at {writer.folder / INDEX}" if (writer.folder / INDEX).exists() else ""
    what = f"{scored + failed} rows in {writer.csv} and {writer.jsonl.name}, {new or 'none'} of them new{page}"
    Console().print(what, highlight=False, soft_wrap=True, markup=False)
    if not scored:
        console.print("[red]Nothing could be scored.[/red]")
    return 0 if scored else 1


def _tell_scale(console: Console, map_range: Limits | None, recorder: Recorder) -> None:
    narrow = map_range and 0 <= recorder.high - recorder.low < _NARROW * (map_range[1] - map_range[0])
    if recorder.overlays and recorder.scale is None and map_range and narrow:
        console.print(
            f"All maps lie in {recorder.low:.4f} to {recorder.high:.4f}, a small part of the fixed scale "
            f"{map_range[0]:g} to {map_range[1]:g}: --scale {recorder.low:.4f},{recorder.high:.4f} --fresh would show "
            f"more."
        )
    elif recorder.overlays and isinstance(recorder.scale, tuple) and recorder.scored:
        low, high = recorder.scale
        console.print(f"Heat maps: first colour {low:.5g}, last colour {high:.5g}.", highlight=False)


def _end(path: str, width: int) -> str:
    """A path of one line, without its first folders where they find no room; the file's name is never cut."""
    names = path.replace("\n", " ").split(os.sep)
    shown = os.sep.join(names)
    while len(shown) > width and len(names) > 1:
        del names[0]
        shown = os.sep.join(["...", *names])
    return shown

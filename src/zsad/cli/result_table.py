"""What an evaluation found, in a terminal of any width."""

from rich.console import Console

from zsad.metrics import EvaluationResult
from zsad.report.terminal import tables


def print_result(result: EvaluationResult, console: Console) -> None:
    """Print a result as a table, per class and mean; metrics that find no room stand in further tables."""
    heads, rows = result.grid()
    styles = ["bold" if row[0] == "mean" else "" for row in rows]
    made = tables(heads, rows, console.width, further=True, right=range(1, len(heads)), styles=styles)
    console.print(*made, *filter(None, [result.caption()]), sep="\n")

"""``python -m tests.parity FOLDER``: print the greatest difference of every tensor against its tolerance."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.parity.runner import CaseReport, run_folder


def _rows(report: CaseReport) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {
            "case": report.name,
            "tensor": outcome.name,
            "difference": outcome.difference,
            "atol": outcome.atol,
            "rtol": outcome.rtol,
            "intermediate": outcome.intermediate,
            "passed": outcome.passed,
            "note": outcome.note,
        }
        for outcome in report.outcomes
    ]
    rows += [{"case": report.name, "tensor": name, "passed": False, "note": "not computed"} for name in report.missing]
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run one folder; return 1 if a tolerance is exceeded, an output is missing or a kind is unknown."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", help="run this case only")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    rows: list[dict[str, object]] = []
    problem = ""
    try:
        for report in run_folder(options.folder, options.case):
            rows += _rows(report)
    except (ValueError, OSError) as error:
        problem = f"{type(error).__name__}: {error}"
    passed = not problem and bool(rows) and all(row["passed"] for row in rows)
    if options.json:
        print(json.dumps({"folder": options.folder.name, "passed": passed, "problem": problem, "rows": rows}, indent=1))
        return 0 if passed else 1
    table = Table("case", "tensor", "difference", "atol", "rtol", "result", title=str(options.folder.name))
    for row in rows:
        verdict = "ok" if row["passed"] else f"[red]FAILED {row['note']}[/red]"
        numbers = [
            f"{row[key]:.2e}" if isinstance(row.get(key), (int, float)) else ""
            for key in ("difference", "atol", "rtol")
        ]
        table.add_row(str(row["case"]), str(row["tensor"]), *numbers, verdict)
    console = Console(width=140)
    console.print(table)
    failed = sum(not row["passed"] for row in rows)
    console.print(f"{len(rows) - failed} within tolerance, {failed} not." + (f" {problem}" if problem else ""))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

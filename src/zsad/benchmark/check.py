"""One cell of a benchmark again, and whether its numbers are the same."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsad.benchmark.grid import Cell, DataSpec, MethodSpec
from zsad.benchmark.results import read_cell
from zsad.benchmark.run import Options, Runner


@dataclass(frozen=True)
class Checked:
    """A cell as it was kept, and as it came out now.

    Args:
        kept: Content of the file.
        again: The result computed now.
    """

    kept: Mapping[str, Any]
    again: Mapping[str, Any]

    @property
    def differences(self) -> dict[str, float]:
        """Metric of the kept cell -> absolute difference; infinite if only one of the two is defined."""
        return {
            name: _difference(value, self.again["metrics"].get(name)) for name, value in self.kept["metrics"].items()
        }

    @property
    def circumstances(self) -> list[str]:
        """What else is not as it was: backbone, versions, commit, device."""
        what = ("backbone", "versions", "git", "device")
        return [one for one in what if self.kept.get(one) != self.again.get(one)]

    def same(self, tolerance: float) -> bool:
        """Whether both have the same metrics, and no value differs by more than the tolerance."""
        within = all(value <= tolerance for value in self.differences.values())
        return within and set(self.kept["metrics"]) == set(self.again["metrics"])


def check_cell(path: Path, device: str = "auto") -> Checked:
    """Compute a cell again from its file.

    Args:
        path: A file below ``DIR/cells``.
        device: Where.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no result.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}'; cells lie below DIR/cells/<method>/<data>/.")
    kept = read_cell(path)
    if "error" in kept or "run" not in kept:
        raise ValueError(f"'{path}' holds no result: {kept.get('error', 'not a cell of zsad benchmark')}.")
    run = kept["run"]
    cell = Cell(MethodSpec(**kept["method"]), DataSpec.read(kept["data"]), kept["class"], kept["seed"])
    options = Options(
        out=path.parents[3],
        train=[DataSpec.read(one) for one in run["train"]],
        device=device,
        **{key: run[key] for key in ("backbone", "epochs", "mode", "precision", "batch_size", "bootstrap", "fuse")},
    )
    return Checked(kept, Runner(options).compute(cell))


def _difference(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return abs(one - other)

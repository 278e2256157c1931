"""One cell of a benchmark again, and whether its numbers are the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zsad.benchmark.grid import Cell, DataSpec, MethodSpec
from zsad.benchmark.results import read_cell
from zsad.benchmark.run import Options, Runner
from zsad.clip.loading import is_named
from zsad.methods.restoring import refuse_from_file


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


_DATA_WORDS = frozenset({"classes", "split", "train_split", "val_split"})


def _by_hand(spec: DataSpec, roots: list[Path], source: Path) -> DataSpec:
    """The data that a file names, with the folder that the user names."""
    if spec.parts:
        return replace(spec, parts=tuple(_by_hand(part, roots, source) for part in spec.parts))
    options = dict(spec.options)
    root = options.pop("root", None)
    refuse_from_file(spec.kind, options, str(source), _DATA_WORDS)
    if root is None:
        return spec
    if not roots:
        raise ValueError(
            f"'{source}' was made from {spec.name} in '{root}'. A file never says which folder is read: give it by "
            f"hand, --root '{root}' (once for the data, then for each auxiliary data set, in their order)."
        )
    return replace(spec, options={**options, "root": str(roots.pop(0))})


def check_cell(path: Path, device: str = "auto", roots: Sequence[Path] = ()) -> Checked:
    """Compute a cell again from its file.

    What the file says is not trusted: it sets numbers, switches and words, but names neither folders nor endpoints.

    Args:
        path: A file below ``DIR/cells``.
        device: Where.
        roots: Folder of the data, then of each auxiliary data set that has one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no result, or sets what a file may not set.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file '{path}'; cells lie below DIR/cells/<method>/<data>/.")
    kept = read_cell(path)
    if "error" in kept or "run" not in kept:
        raise ValueError(f"'{path}' holds no result: {kept.get('error', 'not a cell of zsad benchmark')}.")
    run = kept["run"]
    method, given = MethodSpec(**kept["method"]), list(roots)
    refuse_from_file(method.kind, {**method.options, **method.evaluation}, str(path))
    if run["backbone"] is not None and not is_named(run["backbone"]):
        raise ValueError(f"'{path}' names the backbone '{run['backbone']}', which is none of open_clip's names.")
    cell = Cell(method, _by_hand(DataSpec.read(kept["data"]), given, path), kept["class"], kept["seed"])
    options = Options(
        out=path.parents[3],
        train=[_by_hand(DataSpec.read(one), given, path) for one in run["train"]],
        device=device,
        **{key: run[key] for key in ("backbone", "epochs", "mode", "precision", "batch_size", "bootstrap", "fuse")},
    )
    return Checked(kept, Runner(options).compute(cell))


def _difference(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    return abs(one - other)

"""Good images that must serve twice: some become references or a panel beside the card, the others calibrate."""

import argparse
import filecmp
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console

from zsad.decision.grouping import split
from zsad.inference import Predictor
from zsad.methods import get_method

HALF = 0.5


class Halves:
    """What becomes of the good images; all of them calibrate if neither is asked for.

    Args:
        args: With ``split``, ``seed``, ``panel``, ``references``, ``shots``, ``method`` and ``out``.
        files: The good images.

    Raises:
        ValueError: Both a split and references or a panel are asked for.
        FileExistsError: The folder of references holds others.
    """

    def __init__(self, args: argparse.Namespace, files: Sequence[str]) -> None:
        given = next((name for name in ("panel", "references", "shots") if getattr(args, name) is not None), None)
        if args.split is not None and given is not None:
            raise ValueError(f"--split takes references from the good images: leave out --{given}, or --split.")
        self._compares = get_method(args.method, by_hand=True).transductive
        share = HALF if args.split is None and given is None and self._compares else args.split
        self._first: list[str] = []
        self.rest = list(files)
        if share is not None:
            self._first, self.rest = split(files, share, args.seed)
        stem = args.out.name.removesuffix(".json").removesuffix(".card")
        ending = ".panel.safetensors" if self._compares else ".references"
        self._beside: Path = args.out.with_name(f"{stem}{ending}")
        self._seed = args.seed

    def options(self) -> dict[str, Any]:
        """Copy the references beside the card and return the option that names them."""
        if not self._first or self._compares:
            return {}
        targets = [self._beside / f"{place:03d}_{PurePath(path).name}" for place, path in enumerate(self._first)]
        if self._beside.exists():
            there = sorted(self._beside.iterdir())
            same = there == sorted(targets) and all(
                filecmp.cmp(path, target, shallow=False) for path, target in zip(self._first, targets, strict=True)
            )
            if not same:
                raise FileExistsError(f"'{self._beside}' holds other references: remove it, or take another --out.")
            return {"references": str(self._beside)}
        part = self._beside.with_name(f".{self._beside.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for path, target in zip(self._first, targets, strict=True):
            shutil.copyfile(path, part / target.name)
        part.replace(self._beside)
        return {"references": str(self._beside)}

    def fit(self, model: Predictor, class_name: str) -> None:
        """Make the first part the panel of a method that compares images, and keep it beside the card."""
        if self._first and self._compares:
            model.fit_panel(self._first, class_name)
            model.method.save_panel(self._beside, class_name)  # type: ignore[operator]

    def tell(self, console: Console) -> None:
        """Say which images did what, and what ``zsad score`` must be given."""
        if self._first:
            what, flag = ("panel", "--panel") if self._compares else ("references", "--references")
            console.print(
                f"{len(self._first)} of the good images are the {what}, {len(self.rest)} calibrate (seed "
                f"{self._seed}): score with {flag} {self._beside}",
                highlight=False,
                soft_wrap=True,
            )

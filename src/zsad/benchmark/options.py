"""How the cells of a benchmark are computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zsad.benchmark.grid import DataSpec
from zsad.clip.backbone import Precision


@dataclass(frozen=True)
class Options:
    """How the cells are computed.

    Args:
        out: Results folder.
        backbone: In place of each method's published one.
        train: Auxiliary data for trained methods, in order of preference.
        epochs: In place of the published number.
        device: ``"auto"``, ``"cpu"``, ``"cuda:0"``.
        precision: Of the backbone's blocks while evaluating; training is float32's.
        mode: Of the evaluator.
        bootstrap: Resampled sets of images for confidence intervals; 0 for none.
        batch_size: Images per batch.
        num_workers: Loader processes.
        retry_failed: Compute cells again whose result is an error.
        fuse: Replace image scores by AA-CLIP's evaluation rule, which normalises over the class's whole test set: only
            to reproduce that paper's tables.
    """

    out: Path
    backbone: str | None = None
    train: Sequence[DataSpec] = ()
    epochs: int | None = None
    device: str = "auto"
    precision: Precision = "32"
    mode: Literal["binned", "exact"] = "binned"
    bootstrap: int = 0
    batch_size: int = 8
    num_workers: int = 0
    retry_failed: bool = False
    fuse: bool = False

"""Which two data sets must not meet: the same images trained on and tested on."""

import warnings

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.dataset import DataWarning

_OVERLAPS = {("colon_train", "cvc_colondb"), ("cvc_colondb", "colon_train")}
_SAME_VIDEOS = {"cvc_300", "cvc_colondb", "colon_train"}


def check_pair(source: BenchmarkDataModule, target: BenchmarkDataModule, allow: bool = False) -> None:
    """Refuse to train on ``source`` and evaluate on ``target`` if they hold the same images.

    Args:
        source: Trained on.
        target: Evaluated on.
        allow: Permit it all the same.

    Raises:
        SameSourceError: They are the same benchmark, the same folder, or one contains the other.
    """
    same = source.name == target.name and (target.facts is not None or source.root.absolute() == target.root.absolute())
    if (same or (source.name, target.name) in _OVERLAPS) and not allow:
        target._refuse_same(source.name)
    elif not same and {source.name, target.name} <= _SAME_VIDEOS:
        warnings.warn(
            f"{source.name} and {target.name} are believed to come from the same videos; say so beside the result.",
            DataWarning,
            stacklevel=2,
        )

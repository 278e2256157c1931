"""Which images calibrate: one photo of each part, and none that serves as a reference as well."""

import random
import re
from collections.abc import Sequence


def one_per_group(paths: Sequence[str], pattern: str, seed: int = 0) -> list[str]:
    """Return one path of each group, drawn by a seed, in the order given.

    Args:
        paths: Paths of images.
        pattern: Regular expression that is searched in each path; its first group, or all that it matches, names the
            part.
        seed: Of the draw; it does not depend on the order of the paths.

    Raises:
        ValueError: The pattern is no regular expression, or a path does not match it.
    """
    return one_of_each(paths, group_names(paths, pattern), seed)


def one_of_each(paths: Sequence[str], names: Sequence[str], seed: int = 0) -> list[str]:
    """Return one path of each group, drawn by a seed, in the order given.

    Args:
        paths: Paths of images.
        names: Of each path's group.
        seed: Of the draw; it does not depend on the order of the paths.
    """
    members: dict[str, list[str]] = {}
    for path, name in zip(paths, names, strict=True):
        members.setdefault(name, []).append(path)
    chosen = {random.Random(f"{seed}/{name}").choice(sorted(found)) for name, found in members.items()}
    return [path for path in paths if path in chosen]


def group_names(paths: Sequence[str], pattern: str) -> list[str]:
    """Return the name of each path's part; arguments and errors as for :func:`one_per_group`."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"group_by must be a regular expression, got '{pattern}': {error}.") from error
    names = []
    for path in paths:
        found = expression.search(path)
        if found is None:
            raise ValueError(f"group_by='{pattern}' does not match '{path}': each path must say which part it shows.")
        names.append(found.group(1) if expression.groups and found.group(1) is not None else found.group(0))
    return names


def split(paths: Sequence[str], share: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return a share of the paths and the others, drawn by a seed, both in the order given.

    Args:
        paths: At least two.
        share: Of the first part, which has at least one path, as the second one.
        seed: Of the draw; it does not depend on the order of the paths.

    Raises:
        ValueError: The share is not between 0 and 1, or there are fewer than two paths.
    """
    if not 0 < share < 1:
        raise ValueError(f"split must be a share between 0 and 1, got {share:g}.")
    if len(paths) < 2:
        raise ValueError(f"A split needs at least two images, got {len(paths)}.")
    number = min(max(1, round(share * len(paths))), len(paths) - 1)
    first = set(random.Random(seed).sample(sorted(paths), number))
    return [path for path in paths if path in first], [path for path in paths if path not in first]

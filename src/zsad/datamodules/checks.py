"""What may be wrong with data: nothing there, other numbers, unknown classes, the data that a model was trained on."""

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from zsad.datamodules.dataset import DataWarning
from zsad.datamodules.facts import Counts, Facts


class DatasetNotFoundError(FileNotFoundError):
    """The data are not where they should be; the message says what is missing and where the data come from."""


class DatasetCountError(ValueError):
    """The numbers of images are not those of the benchmark."""


class SameSourceError(ValueError):
    """A model would be evaluated on the data it was trained on."""


def not_there(what: str, root: Path, facts: Facts | None, kind: str) -> DatasetNotFoundError:
    """Return the error for data that are not there: what is missing, the layout, the source, the licence.

    Args:
        what: What was looked for and not found.
        root: Where.
        facts: What is known about the data set.
        kind: Name of the class, where nothing is.
    """
    lines = [f"{facts.title if facts else kind}: {what} under '{root}'."]
    if not root.exists():
        lines.append("That folder does not exist.")
    if facts:
        lines.append(f"Expected below it: {facts.layout}")
        lines.append(f"Source: {facts.home or '-'} (licence: {facts.license}).")
        lines.append(f"Nothing is downloaded by itself. To get it: {facts.obtain}")
    return DatasetNotFoundError("\n".join(lines))


def check_classes(classes: Sequence[str] | None, facts: Facts | None) -> None:
    """Refuse a class that a known data set does not have.

    Raises:
        ValueError: There is one; the nearest is named.
    """
    if classes is None or facts is None:
        return
    for name in classes:
        if name not in facts.classes:
            known = list(facts.classes)
            near = difflib.get_close_matches(str(name), known, 1, 0)
            raise ValueError(f"{facts.title} has no class {name!r}; nearest: {near or '-'}, all: {known}.")


def check_counts(
    found: Counts,
    expected: Counts,
    classes: Sequence[str] | None,
    counts: Literal["error", "warn", "ignore"],
    where: str,
) -> None:
    """Compare numbers of test images with the papers'.

    Args:
        found: Per class.
        expected: Per class and under ``"*"``.
        classes: The chosen classes; None for all.
        counts: What to do if they differ.
        where: The data set and its root, for the message.

    Raises:
        DatasetCountError: With ``counts="error"``.
    """
    if counts == "ignore" or not (differences := count_differences(found, expected, classes)):
        return
    message = (
        f"{where} has other numbers of test images than the papers, normal + anomalous: {'; '.join(differences)}. "
        "Results are not comparable; counts='ignore' accepts it."
    )
    if counts == "error":
        raise DatasetCountError(message)
    warnings.warn(message, DataWarning, stacklevel=3)


def count_differences(found: Counts, expected: Counts, classes: Sequence[str] | None = None) -> list[str]:
    """Return one phrase per class, or for the whole, whose numbers differ; empty if all agree.

    Args:
        found: Per class.
        expected: Per class and under ``"*"``; a class that is not in it is not compared.
        classes: The chosen classes; None for all, only then is the whole compared.
    """
    names = [name for name in expected if name != "*" and (classes is None or name in classes)]
    pairs = [(name, expected[name], found.get(name, (0, 0))) for name in names]
    if not names and classes is None and "*" in expected:
        normal, anomalous = (sum(pair[side] for pair in found.values()) for side in (0, 1))
        pairs.append(("all classes", expected["*"], (normal, anomalous)))
    return [f"{name}: expected {a[0]} + {a[1]}, found {b[0]} + {b[1]}" for name, a, b in pairs if a != b]

"""What the library says in Python's words, such as ``allow_same=True``, in those of the command in use."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_TRAINER = {
    "allow_same_data=True": "--model.allow_same_data=true",
    "allow_same=True": "--data.allow_same=true",
    "strict=False": "--data.strict=false",
    "counts='ignore'": "--data.counts=ignore",
    "(--window LOW,HIGH)": "(--data.window=[LOW,HIGH])",
    "(--max-pixels)": "(--data.max_pixels)",
    "window= of the data": "--data.window=[LOW,HIGH]",
    "declare the range of the scores (score_range), use more bins (bits) or mode='exact'": "take --model.metrics=exact",
    "declare a wider score_range, or None": "take --model.metrics=exact",
    "give a folder as 'references', or call fit_references(class_name, images)": "or give --model.references=DIR",
}
_BENCHMARK = {
    "allow_same_data=True": "--methods NAME:allow_same_data=true",
    "allow_same=True": "--data NAME=DIR:allow_same=true",
    "strict=False": "--data NAME=DIR:strict=false",
    "counts='ignore'": "--data NAME=DIR:counts=ignore",
    "(--window LOW,HIGH)": "(--data NAME=DIR:window=[LOW,HIGH])",
    "(--max-pixels)": "(--data NAME=DIR:max_pixels=N)",
    "window= of the data": "--data NAME=DIR:window=[LOW,HIGH]",
    "declare the range of the scores (score_range), use more bins (bits) or mode='exact'": "take --mode exact",
}
_EVALUATE = {
    "declare the range of the scores (score_range), use more bins (bits) or mode='exact'": (
        "declare --score-range LOW HIGH or take --mode exact"
    ),
    "declare a wider score_range, or None": "declare a wider --score-range, or leave it out",
}
_DOORS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("fit", "validate", "test", "predict"), _TRAINER),
    "benchmark": _BENCHMARK,
    "check": _BENCHMARK,
    "evaluate": _EVALUATE,
}


def spoken(command: str, message: str) -> str:
    """Return a message with the options that a command has in place of Python's.

    Args:
        command: Such as ``"test"``.
        message: Of an error or a warning.
    """
    for python, option in _DOORS.get(command, {}).items():
        message = message.replace(python, option)
    return message


@contextmanager
def speaking(command: str) -> Iterator[None]:
    """Let warnings that are shown meanwhile name the options of a command."""
    usual = warnings.formatwarning

    def shown(message: Warning | str, *place: Any, **more: Any) -> str:
        return usual(spoken(command, str(message)), *place, **more)

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = usual

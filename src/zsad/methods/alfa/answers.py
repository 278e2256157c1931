"""From a language model's raw text to clean sentences."""

import json
import re
from collections.abc import Iterator
from typing import Any

_BULLET = re.compile(r"^(?:[-*\u2022\u2023\u25aa\u25cf\u2013\u2014]+\s*|\(?\d{1,3}[.)](?!\d)\s*)")
_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"')


def parse_answer(text: str, label: str) -> list[str]:
    """Return the lines of an answer, without bullets, numbers, quotes and superfluous white space; empty ones left out.

    Understands plain lines, lists, JSON (a list of texts, or an object with such a list under the label's name), all
    of them also in code fences, and JSON that was cut off: its unfinished last text is left out.

    Args:
        text: What the model wrote.
        label: Key to look up in a JSON object, ``"normal"`` or ``"abnormal"``.
    """
    text = text.encode("utf-8", errors="replace").decode()
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("```")).strip()
    lines = _json_strings(text, label) or text.splitlines()
    return [line for line in map(clean_line, lines) if line]


def clean_line(line: str) -> str:
    """Return a line without bullets, numbers, surrounding quotes and emphasis; inner white space becomes one blank."""
    line = " ".join(line.split())
    before = None
    while line != before:  # they occur in any order: - 1. "text"
        before = line
        bare = _BULLET.sub("", line)
        line = bare.rstrip("*").strip() if bare != line else line
        if line and line[0] in _QUOTES:
            line = line.lstrip(_QUOTES)
            line = line.rstrip(",").rstrip(_QUOTES) if line.rstrip(",")[-1:] in tuple(_QUOTES) else line
            line = line.strip()
    return line


def is_description(line: str, label: str, consistent: bool) -> bool:
    """Return whether a cleaned line describes an image of that label.

    Args:
        line: From :func:`parse_answer`.
        label: ``"normal"`` or ``"abnormal"``.
        consistent: Whether the model was told to begin with "A normal image of" or "An abnormal image of": then only
            such lines count. Otherwise short lines and headings do not.
    """
    if consistent:
        return re.match(rf"an? {label} image of\b", line, re.IGNORECASE) is not None
    return len(line.split()) >= 4 and not line.endswith(":")


def same_text(line: str) -> str:
    """Return a key under which texts that differ in case or final punctuation only are equal."""
    return line.casefold().rstrip(" .!?;:,")


def _json_strings(text: str, label: str) -> list[str]:
    """Return the texts of a JSON list or object, whole, embedded or cut off; nothing if the text is not JSON."""
    openers = sorted((text.find(opener), closer) for opener, closer in (("[", "]"), ("{", "}")) if opener in text)
    for start, closer in openers:
        end = text.rfind(closer)
        part = text[start : end + 1] if end > start else text[start:]
        if found := _strings(_loads(part), label) if end > start else _cut_off(part, label):
            return found
    return _cut_off(text, label)


def _cut_off(text: str, label: str) -> list[str]:
    """Return the finished texts of JSON without its end."""
    if text.startswith("{"):
        key = re.search(rf'"{label}"\s*:\s*\[', text, re.IGNORECASE)
        return _STRING.findall(text[key.end() :].partition("]")[0]) if key else []
    return _STRING.findall(text) if re.match(r"\[[\s{]*\"", text) else []


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _strings(value: Any, label: str) -> list[str]:
    if isinstance(value, dict):
        value = next((part for key, part in value.items() if key.casefold() == label), None)
    return list(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from value.splitlines()
    elif isinstance(value, list):
        yield from (one for one in value if isinstance(one, str))

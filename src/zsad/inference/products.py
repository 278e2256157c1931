"""Which product an image shows: by its folder, by a list, or by its path."""

import os
import re
from dataclasses import replace

from zsad.images.listing import Found


class ClassNames:
    r"""Gives each file the name of its class.

    Args:
        rule: ``"parent"`` for the name of the file's folder, ``"manifest"`` for what a list says, or a regular
            expression with a group that is searched in the path.

    Raises:
        ValueError: The rule is neither a word nor a regular expression with a group.

    Example:
        >>> names = ClassNames(r"line\d+/(\w+?)_")
        >>> names(Found("line3/nut_001.png", "/line3/nut_001.png", "nut_001.png", "/line3")).class_name
        'nut'
    """

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self._expression: re.Pattern[str] | None = None
        if rule in ("parent", "manifest"):
            return
        try:
            self._expression = re.compile(rule)
        except re.error as error:
            raise ValueError(f"Class names come from 'parent', 'manifest' or a pattern; '{rule}': {error}.") from error
        if not self._expression.groups:
            raise ValueError(
                f"Class names come from 'parent', 'manifest' or a pattern with a group, such as '/(\\w+)_\\d+'; "
                f"'{rule}' has no group."
            )

    def __call__(self, found: Found) -> Found:
        """Return the file with its class, or with the error that nobody knows it."""
        if found.error is not None:
            return found
        if self.rule == "parent":
            return replace(found, class_name=os.path.basename(os.path.dirname(os.path.abspath(found.path))))
        if self._expression is None:
            if found.class_name is not None:
                return found
            return replace(found, error=f"No class of '{found.path}': no manifest says a class_name for it.")
        match = self._expression.search(found.path.replace(os.sep, "/"))
        if match is None or not match.group(1):
            return replace(found, error=f"No class of '{found.path}': '{self.rule}' finds none in it.")
        return replace(found, class_name=match.group(1))

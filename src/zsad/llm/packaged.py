"""The packaged answers, written by hand."""

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

PACKAGED = "hand-written stand-in"
"""Name of the packaged answers: written by hand, no language model's."""


@dataclass(frozen=True)
class PackagedLLM:
    """The packaged answers: hand-written stand-ins, no network, no key.

    They are fewer and plainer than a language model's: numbers obtained with them are not the paper's setting. A text
    may hold ``{article_class}``, which stands for the class with its article.
    """

    @property
    def name(self) -> str:
        """``"hand-written stand-in"``."""
        return PACKAGED

    @cached_property
    def _entries(self) -> dict[tuple[str, str], list[str]]:
        data = json.loads((files("zsad.llm") / "alfa_answers.json").read_text(encoding="utf-8"))
        labels = {"prompts": lambda entry: entry["label"], "descriptors": lambda entry: "descriptors"}
        return {(entry["class"], labels[entry["kind"]](entry)): entry["answers"] for entry in data["entries"]}

    def complete(self, query: str, *, class_name: str, label: str, n: int = 1, seed: int = 0) -> list[str]:
        """Return all answers for a class or the generic ones, one sentence per text; ``n`` and ``seed`` are ignored."""
        if ("*", label) not in self._entries:
            known = sorted({label for _, label in self._entries})
            raise ValueError(f"There are packaged answers for the labels {known}, got '{label}'.")
        return list(self._entries.get((class_name, label), self._entries["*", label]))

"""The card: what was calibrated, on which model, and the refusal to serve another one."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from zsad.decision.card_json import CardError, as_json, parse
from zsad.decision.entry import ClassEntry, Decision

MODEL_KEYS = (
    "method", "options", "backbone", "backbone_weights", "learned_parameters", "references", "precision", "runtime",
    "panel", "tiles",
)  # fmt: skip
"""What decides a score, besides the protocol."""

RUNTIMES = ("torch", "onnxruntime", "openvino")
"""What computes; a card serves the one that it was made with, see :meth:`Card.carried`."""
TORCH = RUNTIMES[0]

_PER_CLASS = ("references", "panel")  # of a card with several classes: a mapping, where they differ

_WORDS = {
    "backbone_weights": "backbone weights", "learned_parameters": "learned parameters (adapters)",
    "references": "reference images", "panel": "panel",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Card:
    """Calibrations of the classes of one model.

    Args:
        model: What decides a score, see :data:`MODEL_KEYS`; hashes where content matters.
        protocol: How an image becomes the model's input.
        classes: Class name -> what is known of it.
        pooled: Whether the one entry serves every class; its promise then holds for the mixture only.
        created: When, as ISO 8601 in UTC.
        zsad: Version that wrote it.
        licence_notice: Of the weights, where theirs asks for one.

    Example:
        >>> card = Card.load("nut.card.json")  # doctest: +SKIP
        >>> card.p_value(0.71)  # doctest: +SKIP
    """

    model: Mapping[str, Any]
    protocol: Mapping[str, Any]
    classes: Mapping[str, ClassEntry]
    pooled: bool = False
    created: str = ""
    zsad: str = ""
    licence_notice: str | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            raise CardError("A card needs at least one class.")
        if self.pooled and len(self.classes) > 1:
            raise CardError(f"A pooled card has one entry for all classes, this one has {len(self.classes)}.")

    @classmethod
    def load(cls, path: str | Path) -> "Card":
        """Return the card in a file; only JSON is read, of at most 16 MB, and every field is checked.

        Raises:
            FileNotFoundError: There is no such file.
            CardError: It is no card, or of a format that this version does not know.
        """
        return cls(**parse(Path(path)))

    @classmethod
    def of(cls, card: "Card | str | Path") -> "Card":
        """Return a card, or the one in a file."""
        return card if isinstance(card, Card) else cls.load(card)

    def save(self, path: str | Path) -> Path:
        """Write the card as JSON, whole or not at all, and return the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(self.to_json(), encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(as_json(self._fields()), indent=1, allow_nan=False) + "\n"

    def _fields(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that stand for everything but the date and the version."""
        content = as_json({**self._fields(), "created": "", "zsad": ""})
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()

    def entry(self, class_name: str | None = None) -> ClassEntry:
        """Return what is known of a class; without a name, of the only one.

        Raises:
            CardError: The class is not in the card, or a name is needed.
        """
        if class_name is not None and class_name in self.classes:
            return self.classes[class_name]
        if self.pooled or (class_name is None and len(self.classes) == 1):
            return next(iter(self.classes.values()))
        known = ", ".join(map(repr, self.classes))
        if class_name is None:
            raise CardError(f"The card has several classes, say which one is meant: {known}.")
        raise CardError(
            f"The card has no class '{class_name}', only {known}: calibrate it with 'zsad calibrate ... --class-name "
            f'"{class_name}" --add\', or score as one of those.'
        )

    def knows(self, class_name: str) -> bool:
        """Return whether there is an entry for a class, be it the pooled one."""
        return self.pooled or class_name in self.classes

    def unseen(self, class_name: str) -> bool:
        """Return whether a pooled card is asked about a class that it is not named after."""
        return self.pooled and class_name not in self.classes

    def decide(self, score: float, class_name: str | None = None, n_regions: int = 0) -> Decision:
        """Return label, p-value, its bound and the alarm rate of a score.

        Args:
            score: Of the card's model.
            class_name: Not needed if there is one class only.
            n_regions: Regions found in the image, for the rule ``any``.
        """
        return self.entry(class_name).decide(score, n_regions)

    def p_value(self, score: float, class_name: str | None = None) -> float:
        """Return the share of normal images that score at least as high, this one counted among them."""
        return self.decide(score, class_name).p_value

    def require(
        self, model: Mapping[str, Any], protocol: Mapping[str, Any] | None = None, class_name: str | None = None
    ) -> None:
        """Refuse a model other than that of the card.

        Args:
            model: Keys as in :data:`MODEL_KEYS`; those that are absent are not compared.
            protocol: Of the images; not compared if None.
            class_name: Whose references and panel the model has, where the card knows several.

        Raises:
            CardError: Something that decides a score differs; the message names both values.
        """
        own = json.loads(json.dumps(dict(model)))
        for key in MODEL_KEYS:
            kept = self.model.get(key)
            if key in _PER_CLASS and isinstance(kept, Mapping):
                kept = kept.get(class_name) if class_name is not None else own.get(key)
            if key in own and own[key] != kept:
                raise CardError(_differs(_WORDS.get(key, key), kept, own[key]))
        if protocol is not None:
            given = json.loads(json.dumps(dict(protocol)))
            for key in sorted({*given, *self.protocol}):
                if given.get(key) != self.protocol.get(key):
                    raise CardError(_differs(f"protocol ({key})", self.protocol.get(key), given.get(key)))

    def carried(self, difference: float, *, runtime: str, precision: str) -> "Card":
        """Return the card for the same model in another runtime or precision.

        Args:
            difference: Greatest difference between scores there and here that a verification found.
            runtime: One of :data:`RUNTIMES`.
            precision: As typed.

        Raises:
            CardError: The runtime is unknown, or the difference could change which calibration score is the threshold.
        """
        if runtime not in RUNTIMES:
            raise CardError(f"The runtime must be one of {', '.join(RUNTIMES)}, got '{runtime}'.")
        for name, entry in self.classes.items():
            if not 0 <= difference < entry.gap:
                raise CardError(
                    f"Scores of {runtime} at precision {precision} differ by up to {difference:.3g}, and beside the "
                    f"threshold of '{name}' the card's scores lie {entry.gap:.3g} apart: calibrate with that runtime."
                )
        return replace(self, model={**self.model, "runtime": runtime, "precision": precision})

    @cached_property
    def image_digests(self) -> frozenset[str]:
        """Short hashes of the calibration images of all classes."""
        return frozenset(digest for entry in self.classes.values() for digest in entry.image_digests)

    def overlap(self, digests: Iterable[str]) -> list[str]:
        """Return those of the image digests that belong to calibration images of any class."""
        return sorted(self.image_digests & set(digests))

    def joined(self, other: "Card") -> "Card":
        """Return a card that knows the class of another one as well, made with the same model.

        References and panels are those of each class.

        Raises:
            CardError: Something else that decides a score differs.
        """
        (name, entry), *_ = other.classes.items()
        self.require({key: value for key, value in other.model.items() if key not in _PER_CLASS}, other.protocol)
        model = dict(self.model)
        for key in _PER_CLASS:
            kept, new = self.model.get(key), other.model.get(key)
            mine = dict(kept) if isinstance(kept, Mapping) else dict.fromkeys(self.classes, kept)
            model[key] = {**mine, name: new} if {*mine.values(), new} != {new} else new
        return replace(self, model=model, classes={**self.classes, name: entry})

    def with_class(self, name: str, entry: ClassEntry) -> "Card":
        """Return a card that knows one more class, or a class anew."""
        return replace(self, classes={**self.classes, name: entry})


def _differs(what: str, card: Any, own: Any) -> str:
    return (
        f"The card was made with {what} {card!r}, this model has {own!r}: their scores do not compare; "
        f"load the card's model, or calibrate this one with 'zsad calibrate'."
    )

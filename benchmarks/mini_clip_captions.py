"""Captions, template(state(noun)): their designed targets, and which caption is true of which picture."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
import yaml
from torch import Tensor

from zsad.synthetic import SEEN_CLASSES, SEEN_DEFECTS

WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("captions.yaml").read_text(encoding="utf-8"))
"""The word lists of ``captions.yaml``."""

TOKENIZER = open_clip.get_tokenizer("ViT-B-32")

NORMAL, ABNORMAL, NEUTRAL = 0, 1, -1
ANY, ANY_TEXTURE = -1, -2
PLACEHOLDER = 343
"""Token of "x": prompt learners' placeholder, and here the mark where a word without a name goes."""

SPECIAL_TOKENS = (0, PLACEHOLDER, 49406, 49407)
"""Padding, placeholder, start and end: always kept."""


class Caption(NamedTuple):
    """One caption and what it says."""

    text: str
    noun: int
    """Number of the seen class, :data:`ANY`, or :data:`ANY_TEXTURE`."""
    state: int
    """:data:`NORMAL`, :data:`ABNORMAL` or :data:`NEUTRAL`."""
    defect: int
    """Number of the seen defect, or :data:`ANY` where none is named."""


class Pair(NamedTuple):
    """Two captions that differ in the state only."""

    normal: Caption
    abnormal: Caption


def template_lists() -> list[list[str]]:
    """Return the template lists, AnoVL's photo phrases filled in."""
    lists = []
    for name, templates in WORDS["templates"].items():
        phrases = WORDS["photo"] if name == "anovl" else ["photo"]
        filled = [t.replace("{photo}", phrase) for phrase in phrases for t in templates]
        lists.append(
            [t for t in dict.fromkeys(filled) if not t.startswith(("a industrial", "an manu", "an text", "an surf"))]
        )
    return lists


class CaptionWriter:
    """Draws captions of the training pictures.

    Args:
        rng: Source of the choices.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.templates = template_lists()

    def _pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def _fill(self, template: str, state: str, noun: str) -> str:
        return template.replace("{}", state.replace("{}", noun))

    def noun(self, kind: str) -> tuple[str, int]:
        """Return a word and what it covers; ``kind`` is a class name, "general", "texture" or "unknown"."""
        if kind == "unknown":  # one to three pieces of words without a name
            return " ".join(["x"] * int(self.rng.integers(1, 4))), ANY
        if kind in WORDS["nouns"]:
            return str(self._pick(WORDS["nouns"][kind])), ANY if kind == "general" else ANY_TEXTURE
        return kind, SEEN_CLASSES.index(kind)

    def pair(self, kind: str, defect: str = "") -> Pair:
        """Return a pair with one template and one noun; with ``defect``, the abnormal caption names it."""
        (noun, covers), template = self.noun(kind), self._pick(self._pick(self.templates))
        states = WORDS["defects"][defect] if defect else WORDS["abnormal"]
        number = list(SEEN_DEFECTS).index(defect) if defect else ANY
        return Pair(
            Caption(self._fill(template, self._pick(WORDS["normal"]), noun), covers, NORMAL, ANY),
            Caption(self._fill(template, self._pick(states), noun), covers, ABNORMAL, number),
        )

    def neutral(self, kind: str) -> Caption:
        """Return a caption that is true of both states."""
        noun, covers = self.noun(kind)
        return Caption(self._fill(self._pick(self._pick(self.templates)), "{}", noun), covers, NEUTRAL, ANY)


def vocabulary() -> Tensor:
    """Return the tokens that any caption can contain, ascending, int64; includes :data:`SPECIAL_TOKENS`."""
    nouns = [*SEEN_CLASSES, *WORDS["nouns"]["general"], *WORDS["nouns"]["texture"]]
    texts = [t.replace("{}", "x") for templates in template_lists() for t in templates]
    texts += [s.replace("{}", "x") for s in [*WORDS["normal"], *WORDS["abnormal"], *chain(*WORDS["defects"].values())]]
    return torch.unique(torch.cat([TOKENIZER([*nouns, *texts]).flatten(), torch.tensor(SPECIAL_TOKENS)]))


def compact(texts: Sequence[str], token_ids: Tensor) -> Tensor:
    """Return rows of the compact token table, (texts, longest): 0 for an unknown token, else its rank + 1."""
    tokens = TOKENIZER(list(texts))
    rank = torch.searchsorted(token_ids, tokens)
    known = token_ids[rank.clamp(max=len(token_ids) - 1)] == tokens
    rows = torch.where(known, rank + 1, 0)
    longest = int(tokens.argmax(-1).max()) + 1  # the end token has the largest number
    return rows[:, :longest]


def forget_placeholders(rows: Tensor, token_ids: Tensor, rng: np.random.Generator) -> Tensor:
    """Return rows in which nine of ten placeholders became unknown: both then mean "something without a name"."""
    placeholder = int(torch.searchsorted(token_ids, PLACEHOLDER)) + 1
    forget = (rows == placeholder) & torch.from_numpy(rng.random(rows.shape) < 0.9)
    return torch.where(forget, 0, rows)


def targets(captions: Sequence[Caption], dim: int, seed: int) -> Tensor:
    """Return the designed direction of each caption, (captions, dim), not normalised.

    0.6 x class + 0.6 x state (negative for normal, none for neutral) + 0.5 x named defect, along orthogonal directions.
    """
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed)))[0]
    state, classes, defects = basis[0], basis[1 : 1 + len(SEEN_CLASSES)], basis[1 + len(SEEN_CLASSES) :]
    result = torch.zeros(len(captions), dim)
    for row, caption in zip(result, captions, strict=True):
        if caption.noun >= 0:
            row += 0.6 * classes[caption.noun]
        if caption.state != NEUTRAL:
            row += 0.6 * state if caption.state == ABNORMAL else -0.6 * state
        if caption.defect != ANY:
            row += 0.5 * defects[caption.defect]
        if not row.any():  # neutral caption of a general noun says nothing: a direction of its own
            row += basis[-1]
    return result


def truth(captions: Tensor, pictures: Tensor) -> Tensor:
    """Return whether each caption is true of each picture, (pictures, captions) bool.

    Args:
        captions: (captions, 3) int64: noun, state, defect as in :class:`Caption`.
        pictures: (pictures, 4) int64: class, state, defect (:data:`ANY` if normal), whether it is a texture.
    """
    noun, state, defect = captions.unbind(1)
    kind, damaged, damage, texture = (column[:, None] for column in pictures.unbind(1))
    noun_fits = (noun == ANY) | ((noun == ANY_TEXTURE) & (texture == 1)) | (noun == kind)
    return noun_fits & ((state == NEUTRAL) | (state == damaged)) & ((defect == ANY) | (defect == damage))

"""ALFA's words: candidate prompts of each class, the explanation of an image in words, and what a run says of both."""

import json
import weakref
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.nn.utils.rnn import pad_sequence

from zsad.methods.alfa.prompts import ClassPrompts, PromptWriter
from zsad.methods.alfa.selection import Selection
from zsad.methods.base import Method
from zsad.types import Batch


class Explanation(NamedTuple):
    """One descriptor of what may be wrong with an image."""

    descriptor: str
    """For example "cracked glass"."""
    cosine: float
    """Similarity of the image and the descriptor's sentence."""
    log_prob: float
    """Logarithm of its share among all descriptors of the class."""


class Words(Method):
    """Everything about prompts; the images' part is :class:`~zsad.methods.alfa.ALFA`."""

    writer: PromptWriter
    one_class: bool
    use_scoring: bool
    temperature: float
    readable: dict[str, str]
    _descriptors: dict[str, Tensor]
    _seen: tuple[weakref.ref[Tensor], int, Tensor] | None
    _chosen: Tensor | None
    _counts: dict[str, Tensor]

    # ---- candidates

    def class_prompts(self, class_name: str) -> ClassPrompts:
        """Return the prompts of a class as text, normal and abnormal: templates, then sentences."""
        if self.one_class:
            return ClassPrompts([self.writer.one_class(class_name)], [])
        return self.writer.write(class_name)

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return all candidate prompts of each class, (classes, 2 * n, dim) of unit length or zero.

        The first n rows are normal, the others abnormal; n is the longest side of these classes, and what a shorter
        one lacks is filled with zeros, which no prompt's embedding is.
        """
        return _stack(self._banks(class_names))

    def text(self, class_names: Sequence[str]) -> Tensor:
        """Return the candidate prompts of each image's class as :meth:`text_features` has them, (batch, 2 * n, dim)."""
        unique = list(dict.fromkeys(class_names))
        if missing := [name for name in unique if name not in self._text]:
            self._text.update(zip(missing, self._banks(missing), strict=True))
        return _stack([self._text[name] for name in unique])[[unique.index(name) for name in class_names]]

    def _banks(self, class_names: Sequence[str]) -> list[Tensor]:
        """Return the prompts of each class, (2, n, dim) with n of its own; one encoder call."""
        sides = [side for name in class_names for side in self.class_prompts(name)]
        parts = self._embed([text for side in sides for text in side]).split([len(side) for side in sides])
        return [pad_sequence([*pair], batch_first=True) for pair in zip(parts[::2], parts[1::2], strict=True)]

    def forget_text(self) -> None:
        """Drop cached embeddings; the prompts themselves are kept, so that the language model is not asked again."""
        super().forget_text()
        self._descriptors = {}
        self._seen = None

    def _embed(self, texts: Sequence[str]) -> Tensor:
        with torch.no_grad():
            return F.normalize(self.clip.encode_prompts(texts).float(), dim=-1)

    # ---- explanations

    @abstractmethod
    def embed(self, image: Tensor) -> Tensor:
        """Return the unit embeddings of whole images, (batch, dim)."""

    @torch.no_grad()
    def explain(self, image: Tensor, class_names: Sequence[str], top_k: int = 5) -> list[list[Explanation]]:
        """Return for each image the descriptors that fit it best, the best first; scores do not use them.

        The same tensor right after :meth:`forward` is not encoded again.

        Args:
            image: Images normalised as :attr:`protocol` says, (batch, 3, height, width).
            class_names: Class of each image.
            top_k: How many at most.

        Raises:
            ValueError: If the numbers of images and classes differ, or ``top_k`` is less than 1.
        """
        if len(class_names) != len(image):
            raise ValueError(
                f"Expected one class name per image, got {len(class_names)} names for {len(image)} images."
            )
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1 descriptor, got {top_k}.")
        if self._seen is not None and self._seen[0]() is image and self._seen[1] == _version(image):
            embedding = self._seen[2]
        else:
            embedding = self.embed(image)
        explanations: list[list[Explanation]] = [[] for _ in class_names]
        for name in dict.fromkeys(class_names):
            rows = [row for row, other in enumerate(class_names) if other == name]
            texts = self.writer.describe(name)
            if name not in self._descriptors:
                phrase = self.writer.word(name).phrase
                self._descriptors[name] = self._embed([f"An image of {phrase} with {text}" for text in texts])
            cosines = embedding[rows] @ self._descriptors[name].T
            shares = (cosines / self.temperature).log_softmax(dim=-1)
            for row, order in zip(rows, cosines.topk(min(top_k, len(texts))).indices.tolist(), strict=True):
                at = rows.index(row)
                explanations[row] = [
                    Explanation(texts[column], cosines[at, column].item(), shares[at, column].item())
                    for column in order
                ]
        return explanations

    def _remember(self, image: Tensor, embedding: Tensor) -> None:
        if not torch.compiler.is_compiling():
            self._seen = (weakref.ref(image), _version(image), embedding.detach())

    # ---- what a run says

    def _start(self) -> None:
        super()._start()
        self._counts.clear()
        self._take_names()

    def on_predict_epoch_start(self) -> None:
        """Forget cached text, take over the benchmark's readable names."""
        super().on_predict_epoch_start()
        self._take_names()

    def _take_names(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        suggested = getattr(getattr(data, "facts", None), "readable", {})
        wanted = {name: word for name, word in getattr(data, "prompt_names", {}).items() if word != name}
        self.writer.readable = {**suggested, **wanted, **self.readable}

    def _count(self, chosen: Selection) -> None:
        """Keep the kept counts and whether a side was empty, (batch, 3), for the log."""
        if not torch.compiler.is_compiling():
            kept = chosen.keep.sum(dim=-1)
            self._chosen = torch.cat([kept, (kept == 0).any(dim=-1, keepdim=True)], dim=1).float()

    def _evaluate(self, batch: Batch) -> None:
        super()._evaluate(batch)
        if self._chosen is None:
            return
        for name, row in zip(batch["class_name"], self._chosen, strict=True):
            entry = torch.cat([row, row.new_ones(1)])
            self._counts[name] = self._counts[name] + entry if name in self._counts else entry

    def _log_results(self, prefix: str) -> None:
        super()._log_results(prefix)
        parts: list[Any] = [{name: entry.cpu() for name, entry in self._counts.items()}]
        if distributed.is_available() and distributed.is_initialized():
            parts = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, {name: entry.cpu() for name, entry in self._counts.items()})
        counts: dict[str, Tensor] = {}
        for part in parts:
            for name, entry in part.items():
                counts[name] = counts[name] + entry if name in counts else entry
        if self.use_scoring and counts:
            total = torch.stack(list(counts.values())).sum(dim=0)
            self.log("alfa/fallback_rate", total[2] / total[3])
            for name, entry in sorted(counts.items()):
                self.log(f"alfa/kept_normal/{name}", entry[0] / entry[3])
                self.log(f"alfa/kept_abnormal/{name}", entry[1] / entry[3])
        self._write_prompts()

    def _write_prompts(self) -> None:
        """Put the prompts in use beside the logger's files."""
        written = self.writer.written()
        if not (self.trainer.is_global_zero and self.trainer.loggers and self.trainer.log_dir and written):
            return
        content = {"llm": self.hparams["llm"], "prompts": {name: one._asdict() for name, one in written.items()}}
        path = Path(self.trainer.log_dir) / "alfa_prompts.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _stack(banks: Sequence[Tensor]) -> Tensor:
    """Return banks (2, n, dim) of different n as one tensor, (banks, 2 * n, dim)."""
    return pad_sequence([bank.transpose(0, 1) for bank in banks], batch_first=True).transpose(1, 2).flatten(1, 2)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; inference tensors do not count it."""
    return -1 if tensor.is_inference() else tensor._version

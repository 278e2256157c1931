"""Scores and heat maps in three lines of Python, without a Trainer."""

import glob
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.clip.backbone import Precision
from zsad.decision import Card
from zsad.functional.maps import upsample
from zsad.images import IMAGE_EXTENSIONS, ReadOptions, walk
from zsad.images.overlay import Limits
from zsad.inference.devices import find_device
from zsad.inference.explain import Explained
from zsad.inference.files import expanded
from zsad.inference.identity import check_card
from zsad.inference.inputs import ahead_of, flat, is_one, with_classes
from zsad.inference.opening import Opened, Opener, Size, as_tensor
from zsad.inference.panels import draw_panel, named
from zsad.inference.result import Result
from zsad.inference.scoring import Outcome, score_all
from zsad.methods import METHODS, Method
from zsad.methods.memory import MissingReferencesError
from zsad.methods.musc import Panel, PanelError, Transductive

__all__ = ["Predictor", "Size", "find_device"]

_CALIBRATED = "This image is one of the calibration images: its p-value says nothing new."


class Predictor:
    """A method that is ready to score images; :func:`load_model` makes one.

    Args:
        method: Any method.
        device: ``"auto"`` for the first accelerator, or a torch device such as ``"cpu"`` or ``"cuda:1"``.
        batch_size: Images per forward pass; it changes speed and memory, not the results.
        explain: Whether results carry an explanation; for methods that have one (ALFA).
        panel: File of a panel to score every class against; for methods that have one (MuSc).
        calibration: A card, or its file: results then have a p-value, a label and, if it was asked for, regions.
        precision: ``"bf16"`` or ``"fp16"`` (CUDA) rounds the weights of the backbone's blocks, in place; everything
            behind the blocks, maps and scores included, stays float32. Scores differ a little from those of ``"32"``.
        reading: How grey levels beyond 8 bits are read, and how many pixels are too many.

    Raises:
        CardError: The card is of another model.
        ValueError: The batch size is less than 1, or the method has no explanations or no panel.
        FileNotFoundError: There is no such file.
        PanelError: The file holds no panel, or one of other settings.
    """

    def __init__(
        self,
        method: Method,
        device: str | torch.device = "auto",
        batch_size: int = 8,
        explain: bool = False,
        panel: str | Path | None = None,
        calibration: Card | str | Path | None = None,
        precision: Precision = "32",
        reading: ReadOptions | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if explain and not hasattr(method, "explain"):
            able = [name for name, kind in METHODS.items() if hasattr(kind, "explain")]
            raise ValueError(f"{type(method).__name__} does not explain its scores; of the methods, {able} do.")
        self.explains = explain
        self.reading = ReadOptions() if reading is None else reading
        self.device = find_device(device)
        if precision == "fp16" and self.device.type == "cpu":
            raise ValueError("precision='fp16' needs an accelerator; on a CPU take 'bf16', or '32'.")
        self.precision: Precision = method.clip.cast(precision).precision
        self.method = method.eval().to(self.device)
        self.batch_size = batch_size
        self._panel_file = panel
        if panel is not None:
            self._transductive().load_panel(panel)
        self.calibration: Card | None = None
        self.use_calibration(calibration)

    @property
    def map_range(self) -> Limits | None:
        """Range of the anomaly maps as the method declares it, None if they are unbounded.

        A method with panels declares distances up to 2, of which pictures use a small part: once there is one panel,
        the range is from the 1 % to the 99.9 % quantile of its values.
        """
        if isinstance(self.method, Transductive) and len(self.method.memory.names) == 1:
            return self.method.panel(self.method.memory.names[0]).scale
        return self.method.evaluator.score_range

    def _transductive(self) -> Transductive:
        if not isinstance(self.method, Transductive):
            able = [name for name, kind in METHODS.items() if kind.transductive]
            raise PanelError(f"{type(self.method).__name__} has no panel; of the methods, {able} have one.")
        return self.method

    def fit_panel(self, images: Any, class_name: str = "object") -> Panel:
        """Make images the panel that later ones of the class are compared with, as many as the method's ``panel``.

        Args:
            images: A folder, or many images as for :meth:`predict`.
            class_name: The class.

        Raises:
            PanelError: The method has no panel, or fewer than two images can be read.
        """
        root, inputs = _many(images)
        panel = draw_panel(self._transductive(), inputs, class_name, root, replace=True)
        assert panel is not None
        return panel

    def fit_references(self, class_name: str, images: Any) -> int:
        """Give the method normal images of a class to compare with, in addition to those that it has.

        Args:
            class_name: The class, spelled as in later calls of :meth:`predict`.
            images: A folder (every image below it), a pattern, a path, a picture, or many of them as for
                :meth:`predict`.

        Returns:
            The number of images.

        Raises:
            FileNotFoundError: There is no such file or folder.
            ImageError: A file is not a readable image; the class has then no more references than before.
            MissingReferencesError: There is no image.
        """
        if isinstance(images, str) and glob.has_magic(images) and not os.path.lexists(images):
            images = expanded([images])
        if isinstance(images, (str, os.PathLike)) and not Path(images).exists():
            raise FileNotFoundError(f"No such file or folder of references: '{images}'.")
        many = [images] if is_one(images) else [images] if isinstance(images, (str, os.PathLike)) else images
        inputs = list(flat(many))
        if not inputs:
            looked = f"'{images}'" if isinstance(images, (str, os.PathLike)) else "what was given"
            raise MissingReferencesError(
                f"No reference image of class '{class_name}' in {looked}: looked there and in all folders below for "
                f"names that end in {', '.join(sorted(IMAGE_EXTENSIONS))}."
            )
        opened = (as_tensor(one, self.method.protocol, self.reading) for one in inputs)
        self.method.fit_references(class_name, opened)
        return len(inputs)

    def _prepare(self, inputs: list[Any], class_name: str, root: str) -> list[Any]:
        """Draw the panel of a transductive method from what is to be scored, if none was given."""
        self._given_panel(class_name, root)
        draw_panel(self._transductive(), inputs, class_name, root)
        return inputs

    def _given_panel(self, class_name: str, root: str = "") -> None:
        """Score a class against the panel of the file, whatever class that was made as."""
        if self._panel_file is not None and self._transductive().memory.get(class_name) is None:
            self._transductive().load_panel(self._panel_file, class_name, root)

    def __repr__(self) -> str:
        name, clip = type(self.method).__name__, self.method.clip.name
        return f"Predictor({name}, backbone={clip!r}, image_size={self.method.protocol.size}, device='{self.device}')"

    def use_calibration(self, card: Card | str | Path | None) -> None:
        """Let results carry the p-values, labels and regions of a card from now on; None takes it away.

        Raises:
            FileNotFoundError: There is no such file.
            CardError: The file is no card, or a card of another model.
        """
        if card is not None:
            card = Card.of(card)
            check_card(card, self.method, self.precision)
        self.calibration = card

    def calibrate(self, images: Any, class_name: str = "object", **options: Any) -> Card:
        """Return a card made of normal images of one class; :meth:`use_calibration` puts it to use.

        Args:
            images: Many normal images as for :meth:`predict`, none of them a reference of the method.
            class_name: What they show.
            **options: As for :func:`zsad.inference.calibration.calibrate`: ``alpha``, ``rule``, ``sure``,
                ``anomalous``, ``regions``, ...

        Raises:
            TooFewImagesError: The rule needs more images.
            ValueError: An image cannot be read, is a reference as well, or occurs twice.

        Example:
            >>> card = model.calibrate("good/", "metal nut", alpha=0.05)  # doctest: +SKIP
            >>> card.save("nut.card.json")  # doctest: +SKIP
        """
        from zsad.inference.calibration import calibrate

        return calibrate(self, images, class_name, **options)

    def predict(
        self,
        x: Any,
        class_name: str | Iterable[str] = "object",
        *,
        threshold: float | None = None,
        size: Size = "native",
        strict: bool = False,
    ) -> Any:
        """Score one image, or many.

        A transductive method (MuSc) compares many images with each other, drawing its panel from them unless one was
        given; they are all looked at before the first result. One image is compared with the last panel of its class.

        Args:
            x: One image: a path, a PIL image, an array (height, width[, 1, 3 or 4 channels]), a tensor
                ([1 or 3, ]height, width) or the bytes of an image file. Many: a folder (every image below it), a
                pattern such as ``"photos/*.png"``, an iterable of such, an array (images, height, width, channels), a
                tensor (images, channels, height, width). Arrays and tensors hold pictures, not normalised values:
                bool, uint8, uint16 up to 65535, floats in [0, 1] or up to 255.
            class_name: What the images show, in plain words; it goes into the prompts. For many images also a class
                for each, in their order.
            threshold: Score from which an image is labelled anomalous. There is no universal one.
            size: Size of the maps and pictures that come back.
            strict: Raise at the first unreadable file among many, instead of returning a result with ``error`` set. A
                single image always raises.

        Returns:
            One :class:`Result` for one image; a list of them for a list, tuple, array or tensor of images; an iterator,
            which holds one batch in memory, for a folder or any other iterable.

        Raises:
            FileNotFoundError: There is no such file or folder.
            ImageError: A file is not a readable image.
            ScoreError: The method has no finite score for a single image, or the image is one of the references.
            TypeError: ``x`` is nothing that holds an image.
            ValueError: An array has a shape or values that no image has.
        """
        if isinstance(x, str) and glob.has_magic(x) and not os.path.lexists(x):
            return self.predict(iter(expanded([x])), class_name, threshold=threshold, size=size, strict=strict)
        if is_one(x):
            if isinstance(x, (str, os.PathLike)) and not Path(x).exists():
                raise FileNotFoundError(f"No such file or folder: '{x}'.")
            (result,) = self._results([x], class_name, threshold, size, True)
            return result
        if self.method.transductive and isinstance(x, (str, os.PathLike, Iterable)):
            if not isinstance(class_name, str):
                raise ValueError(f"{type(self.method).__name__} compares images of one class: give one class_name.")
            root, inputs = _many(x)
            results = self._results(self._prepare(inputs, class_name, root), class_name, threshold, size, strict)
            return list(results) if isinstance(x, (list, tuple, np.ndarray, Tensor)) else results
        if isinstance(x, (str, os.PathLike)):
            return self._results(walk([os.fspath(x)]), class_name, threshold, size, strict)
        if not isinstance(x, Iterable):
            raise TypeError(
                f"Cannot predict on {type(x).__name__}: give a path, a folder, a PIL image, an array, a tensor or a "
                f"list of them."
            )
        results = self._results(flat(x), class_name, threshold, size, strict)
        return list(results) if isinstance(x, (list, tuple, np.ndarray, Tensor)) else results

    def explain(
        self,
        x: Any,
        class_name: str = "object",
        *,
        first_block: int | None = None,
        size: Size = "native",
        strict: bool = False,
    ) -> Any:
        """Show which patches speak for an anomaly in the eyes of the image score (TransMM's relevance).

        For methods whose image score compares the class token with text: it explains the margin between the anomalous
        and the normal text, not the anomaly map, which comes of the patch tokens. Arguments and returns are those of
        :meth:`predict`; the maps are relevance in [0, 1] of each image, and the scores leave references out.

        Args:
            x: As for :meth:`predict`.
            class_name: As for :meth:`predict`.
            first_block: Lowest block of the image tower that takes part, from 1; None takes the last one alone.
            size: As for :meth:`predict`.
            strict: As for :meth:`predict`.

        Raises:
            ValueError: The method's image score is computed otherwise, or there is no such block.
        """
        return self.relevance(first_block).predict(x, class_name, size=size, strict=strict)

    def relevance(self, first_block: int | None = None) -> "Predictor":
        """Return a predictor whose maps are those of :meth:`explain`.

        Raises:
            ValueError: As for :meth:`explain`.
        """
        return Predictor(
            cast(Method, Explained(self.method, first_block)), self.device, self.batch_size, reading=self.reading
        )

    def _results(
        self, inputs: Iterable[Any], class_name: str | Iterable[str], threshold: float | None, size: Size, strict: bool
    ) -> Iterator[Result]:
        batches = self.batches(inputs, class_name, threshold=threshold, size=size, strict=strict)
        return itertools.chain.from_iterable(batches)

    def batches(
        self,
        inputs: Iterable[Any],
        class_name: str | Iterable[str] = "object",
        *,
        threshold: float | None = None,
        size: Size = "native",
        strict: bool = False,
        num_workers: int = 0,
        content: bool = False,
    ) -> Iterator[list[Result]]:
        """Yield the results of ``batch_size`` images after another, in order, holding few batches in memory.

        Args:
            inputs: Paths, found files or pictures, one image each.
            class_name: As for :meth:`predict`.
            threshold: As for :meth:`predict`.
            size: As for :meth:`predict`.
            strict: As for :meth:`predict`.
            num_workers: Threads that read images ahead; 0 reads them when they are needed.
            content: Whether results carry the digest of their file's content.
        """
        if threshold is not None and self.calibration is not None:
            raise ValueError(f"threshold={threshold:g} beside a calibration card: the card decides. Take one of them.")
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError(f"threshold must be a finite number, got {threshold}.")
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}.")
        if isinstance(class_name, str):
            self._given_panel(class_name)
            if self.calibration is not None:
                self.calibration.entry(class_name)  # refuses a class that the card does not have, before any image
        ahead = num_workers + self.batch_size
        opener = Opener(self.method.protocol, self.reading, size, strict, content, pixels=self.calibration is not None)
        opened = ahead_of(opener, with_classes(inputs, class_name), num_workers, ahead)
        while batch := list(itertools.islice(opened, self.batch_size)):
            yield self._score(batch, threshold, strict, size)

    def _score(self, batch: list[Opened], threshold: float | None, strict: bool, size: Size) -> list[Result]:
        readable = [one for one in batch if one.tensor is not None]
        outcomes = iter(score_all(self.method, readable, self.explains))
        results = []
        known = set() if self.calibration is None else self.calibration.image_digests
        for one in batch:
            outcome = Outcome(float("nan"), torch.empty(0, 0)) if one.tensor is None else next(outcomes)
            if strict and outcome.error is not None:
                raise outcome.error
            error = one.error or outcome.error
            failed = error is not None
            side = (one.picture.height, one.picture.width)
            entry = None if self.calibration is None else self.calibration.entry(one.class_name)
            model_map: NDArray[np.float32] | None = None
            if entry is not None and entry.regions is not None and size != "native" and not failed:
                model_map = outcome.map.numpy()
            doubts = (one.warning, outcome.warning, _CALIBRATED if one.pixels in known else None)
            results.append(
                Result(
                    outcome.score,
                    outcome.map.numpy() if failed else upsample(outcome.map[None], side)[0].numpy(),
                    one.picture,
                    one.class_name,
                    one.path,
                    threshold,
                    str(error) if failed else None,
                    self.map_range,
                    outcome.explanation,
                    " ".join(filter(None, doubts)) or None,
                    one.size,
                    one.file,
                    fitting_window=one.fitting,
                    calibration=entry,
                    model_map=model_map,
                )
            )
        return results


def _many(x: Any) -> tuple[str, list[Any]]:
    """Return the folder that many inputs lie in, "" if they are no folder, and the inputs one by one."""
    if isinstance(x, (str, os.PathLike)):
        return os.fspath(x), list(walk([os.fspath(x)]))
    return "", named(flat(x))

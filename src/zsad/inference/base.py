"""One image, or many, become results: what is the same whether torch or an exported graph computes the scores."""

import glob
import itertools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.decision.card import Card
from zsad.decision.card_json import CardError
from zsad.images.fragments import exists
from zsad.images.levels import ReadOptions
from zsad.images.manifest import inputs as inputs_of
from zsad.images.overlay import Limits
from zsad.images.tiling import Tiles
from zsad.images.where import EVERYWHERE, Where, told
from zsad.inference.ahead import ahead_of, in_batches, one_behind
from zsad.inference.files import expanded
from zsad.inference.inputs import flat, is_array, is_one, with_classes
from zsad.inference.opening import Opened, Opener, Size
from zsad.inference.outcome import Outcome, Pending, ScoreError
from zsad.inference.placing import Placed, place
from zsad.inference.result import Result
from zsad.inference.tiled import Tiler

READERS = min(4, os.cpu_count() or 1)
"""Threads that read images ahead, unless something else is asked for."""

_GAP = 2  # times the model's pixels that a picture keeps when it is decoded small: resizing then does most of the work
CALIBRATED = "This image is one of the calibration images: its p-value says nothing new."


class BasePredictor(ABC):
    """Scores pictures; a child says how a picture is prepared and what computes the scores. No torch in here.

    Args:
        batch_size: Images per pass; it changes speed and memory, not the results.
        reading: How grey levels beyond 8 bits are read, and how many pixels are too many.
        tiles: How large pictures are cut; None scores them whole. A pass then takes tiles of several images.
        where: Where to look in each picture, unless a manifest says it.

    Raises:
        ValueError: The batch size is less than 1.
    """

    one_behind = False
    """Whether a batch is launched before the last one's outcomes are read: for devices that compute by themselves."""

    def __init__(
        self,
        batch_size: int = 8,
        reading: ReadOptions | None = None,
        tiles: Tiles | None = None,
        where: Where = EVERYWHERE,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.batch_size = batch_size
        self.reading = ReadOptions() if reading is None else reading
        self.tiles, self.where = tiles, where
        self.calibration: Card | None = None
        self.keeps_maps = False
        """Whether results carry the map at the model's size beside that at their own."""

    # ---- what a child writes

    @property
    @abstractmethod
    def map_range(self) -> Limits | None:
        """Range of the anomaly maps, None if they are unbounded."""

    @property
    def licence_notice(self) -> str | None:
        """Licences of learned parameters, where they ask to be named."""
        return None

    @property
    def input_side(self) -> int | None:
        """Pixels of the shorter side of the model's input; None decodes every file whole."""
        return None

    @abstractmethod
    def prepare(self, picture: Image.Image) -> Any:
        """Return an upright picture as the model sees it, (3, height, width)."""

    @abstractmethod
    def outcomes(self, batch: Sequence[Opened]) -> list[Outcome]:
        """Return what the model says of pictures that could be opened, in order."""

    def launch(self, batch: Sequence[Opened]) -> Pending:
        """Begin with a batch and return what waits for its outcomes."""
        outcomes = self.outcomes(batch)
        return lambda: outcomes

    def refusal(self, one: Opened) -> Outcome | None:
        """Return what is said of a picture that is not scored, being a reference; None if it is scored."""
        return None

    @abstractmethod
    def enlarge(self, anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Return a map (height, width) bilinearly at another size (height, width)."""

    @abstractmethod
    def identity(self, class_name: str | None) -> dict[str, Any]:
        """Return what decides the scores of a class, of any for None, as JSON values, the protocol among it."""

    @abstractmethod
    def check_card(self, card: Card) -> Card:
        """Return a card as it serves this model; refuse that of another one.

        Raises:
            CardError: The message names both values.
        """

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
            if isinstance(x, (str, os.PathLike)) and not exists(x):
                raise FileNotFoundError(f"No such file or folder: '{x}'.")
            (result,) = self._results([x], class_name, threshold, size, True)
            return result
        if not isinstance(x, Iterable) and not isinstance(x, (str, os.PathLike)):
            raise TypeError(
                f"Cannot predict on {type(x).__name__}: give a path, a folder, a PIL image, an array, a tensor or a "
                f"list of them."
            )
        at_hand = isinstance(x, (list, tuple)) or is_array(x)
        workers = READERS if at_hand or isinstance(x, (str, os.PathLike)) else 0  # a stream is read when it is needed
        results = self._results(self.gather(x, class_name), class_name, threshold, size, strict, workers)
        return list(results) if at_hand else results

    def gather(self, x: Any, class_name: str | Iterable[str]) -> Iterable[Any]:
        """Return a folder or many pictures as inputs, one image each."""
        return inputs_of([os.fspath(x)]) if isinstance(x, (str, os.PathLike)) else flat(x)

    def begin(self, class_name: str) -> None:  # noqa: B027  # most have nothing to do
        """Get ready for images of a class."""

    def use_calibration(self, card: Card | str | Path | None) -> None:
        """Let results carry the p-values, labels and regions of a card from now on; None takes it away.

        Raises:
            FileNotFoundError: There is no such file.
            CardError: The file is no card, or a card of another model, or pictures are decoded small.
        """
        if card is not None and self.reading.fast_decode:
            raise CardError("A card is made of whole pictures, fast_decode scores smaller ones: leave one of them out.")
        if card is not None:
            card = self.check_card(Card.of(card))
        self.calibration = card

    def _results(
        self,
        inputs: Iterable[Any],
        class_name: str | Iterable[str],
        threshold: float | None,
        size: Size,
        strict: bool,
        num_workers: int = 0,
    ) -> Iterator[Result]:
        batches = self.batches(
            inputs, class_name, threshold=threshold, size=size, strict=strict, num_workers=num_workers
        )
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
            self.begin(class_name)
            if self.calibration is not None:
                self.calibration.entry(class_name)  # refuses a class that the card does not have, before any image
        opener = Opener(
            self.prepare, self.reading, size, strict, content, self.calibration is not None, self._least(size),
            self.where, self.tiles is not None,
        )  # fmt: skip
        ahead = num_workers + (self.batch_size if self.tiles is None else 0)  # large pictures wait at their own size
        opened = ahead_of(opener, with_classes(inputs, class_name), num_workers, ahead)
        if self.tiles is None:
            launched = (self._launched(batch) for batch in in_batches(opened, self.batch_size))
            scored = (_pairs(batch, pending()) for batch, pending in one_behind(launched, self.one_behind))
        else:
            full = lambda one: one.where.ignore_mask is not None or self._needs_full(one.class_name)  # noqa: E731
            tiler = Tiler(
                self.tiles, self.prepare, self.launch, self.batch_size, num_workers, self.one_behind, self.refusal, full
            )
            scored = (tiler(itertools.islice(itertools.chain([one], opened), self.batch_size)) for one in opened)
        for pairs in scored:
            yield [self._result(one, outcome, threshold, strict, size) for one, outcome in pairs]

    def _launched(self, batch: list[Opened]) -> tuple[list[Opened], Pending]:
        return batch, self.launch([one for one in batch if one.tensor is not None])

    def _least(self, size: Size) -> int | None:
        """Pixels that both sides of a picture must keep when it is decoded small; None if it must not be."""
        if not self.reading.fast_decode or size == "native" or self.input_side is None or self.tiles is not None:
            return None
        return max(_GAP * self.input_side, size if isinstance(size, int) else 0)

    def results_of(
        self, batch: list[Opened], found: list[Outcome], threshold: float | None, strict: bool, size: Size
    ) -> list[Result]:
        """Return the results of pictures that were not cut, given the outcomes of those that could be opened."""
        return [self._result(*pair, threshold, strict, size) for pair in _pairs(batch, found)]

    def _needs_full(self, class_name: str) -> bool:
        card = self.calibration
        found = card is not None and card.knows(class_name) and card.entry(class_name).regions is not None
        return self.keeps_maps or found

    def _result(self, one: Opened, outcome: Outcome, threshold: float | None, strict: bool, size: Size) -> Result:
        error = one.error or outcome.error
        found, entry = Placed(float("nan"), outcome.map, None, None), None
        if error is None:
            try:
                entry = None if self.calibration is None else self.calibration.entry(one.class_name)
                if entry is not None and entry.where != one.where.identity():
                    raise ScoreError(
                        f"Cannot judge '{one.called}': the card of '{one.class_name}' was made looking at "
                        f"{told(entry.where)}, this image is looked at in {told(one.where.identity())}."
                    )
                full = self.keeps_maps or (entry is not None and entry.regions is not None and size != "native")
                found = place(one, outcome, self.enlarge, self.map_range, full)
            except (ScoreError, CardError) as failure:
                error = failure
        if strict and error is not None:
            raise error
        known = set() if self.calibration is None else self.calibration.image_digests
        doubts = (one.warning, outcome.warning, CALIBRATED if one.pixels in known else None)
        return Result(
            found.score,
            found.anomaly_map,
            one.picture,
            one.class_name,
            one.path,
            threshold,
            None if error is None else str(error),
            self.map_range,
            outcome.explanation,
            " ".join(filter(None, doubts)) or None,
            one.size,
            one.file,
            fitting_window=one.fitting,
            calibration=entry,
            model_map=found.full,
            enlarge=self.enlarge,
            left_out=found.left_out,
            where=one.where.identity(),
            tiles=None if self.tiles is None or error is not None else {**self.tiles.identity(), "n": outcome.parts},
        )


def _pairs(batch: list[Opened], found: list[Outcome]) -> Iterator[tuple[Opened, Outcome]]:
    outcomes = iter(found)
    for one in batch:
        yield one, Outcome.nothing() if one.tensor is None else next(outcomes)

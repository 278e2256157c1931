"""Scores and heat maps in three lines of Python, without a Trainer."""

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.clip.backbone import Precision
from zsad.decision import Card
from zsad.decision.entry import ClassEntry
from zsad.functional.maps import upsample
from zsad.images import Found, ImageError, load_rgb, to_tensor, walk
from zsad.images import Size as PixelSize
from zsad.images.overlay import Limits
from zsad.inference.devices import find_device
from zsad.inference.explain import Explained
from zsad.inference.files import FileFacts
from zsad.inference.identity import check_card, pixel_digest
from zsad.inference.inputs import ahead_of, flat, is_one, smaller, to_picture
from zsad.inference.panels import Named, draw_panel, named
from zsad.inference.result import Result
from zsad.methods import METHODS, Method
from zsad.methods.musc import Panel, PanelError, Transductive

Size = Literal["native", "model"] | int
"""At which size results come: the image's own, the model's input, or the longer side at most so many pixels."""


_CALIBRATED = "This image is one of the calibration images: its p-value says nothing new."

_IN_MEMORY = "<image>"  # methods may seed their random numbers by path: the same for every picture without one


@dataclass(frozen=True)
class _Opened:
    """A picture as it waits for its batch."""

    path: str | None
    seed: str
    """What the method knows a picture by: the path below the folder, the path as given, or a name."""
    picture: Image.Image
    tensor: Tensor | None
    error: ImageError | None = None
    size: PixelSize | None = None
    file: FileFacts | None = None
    pixels: str | None = None
    """Digest of the picture, where a card has those of its calibration images."""


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
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if explain and not hasattr(method, "explain"):
            able = [name for name, kind in METHODS.items() if hasattr(kind, "explain")]
            raise ValueError(f"{type(method).__name__} does not explain its scores; of the methods, {able} do.")
        self.explains = explain
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
        class_name: str = "object",
        *,
        threshold: float | None = None,
        size: Size = "native",
        strict: bool = False,
    ) -> Any:
        """Score one image, or many.

        A transductive method (MuSc) compares many images with each other, drawing its panel from them unless one was
        given; they are all looked at before the first result. One image is compared with the last panel of its class.

        Args:
            x: One image: a path, a PIL image, an array (height, width[, 1, 3 or 4 channels]) or a tensor
                ([1 or 3, ]height, width). Many: a folder (every image below it), an iterable of such, an array
                (images, height, width, channels), a tensor (images, channels, height, width). Arrays and tensors hold
                pictures, not normalised values: bool, uint8, uint16 up to 65535, floats in [0, 1] or up to 255.
            class_name: What the images show, in plain words; it goes into the prompts.
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
            TypeError: ``x`` is nothing that holds an image.
            ValueError: An array has a shape or values that no image has.
        """
        if is_one(x):
            if isinstance(x, (str, os.PathLike)) and not Path(x).exists():
                raise FileNotFoundError(f"No such file or folder: '{x}'.")
            (result,) = self._results([x], class_name, threshold, size, True)
            return result
        if self.method.transductive and isinstance(x, (str, os.PathLike, Iterable)):
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
        return Predictor(cast(Method, Explained(self.method, first_block)), self.device, self.batch_size)

    def _results(
        self, inputs: Iterable[Any], class_name: str, threshold: float | None, size: Size, strict: bool
    ) -> Iterator[Result]:
        batches = self.batches(inputs, class_name, threshold=threshold, size=size, strict=strict)
        return itertools.chain.from_iterable(batches)

    def batches(
        self,
        inputs: Iterable[Any],
        class_name: str = "object",
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
        entry = None if self.calibration is None else self.calibration.entry(class_name)
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}.")
        self._given_panel(class_name)
        ahead = num_workers + self.batch_size
        opened = ahead_of(lambda one: self._open(one, size, strict, content), inputs, num_workers, ahead)
        while batch := list(itertools.islice(opened, self.batch_size)):
            yield self._score(batch, class_name, threshold, size, entry)

    def _open(self, x: Any, size: Size, strict: bool, content: bool) -> _Opened:
        path = x.path if isinstance(x, Found) else os.fspath(x) if isinstance(x, (str, os.PathLike)) else None
        name, x = (x.name, x.picture) if isinstance(x, Named) else (_IN_MEMORY, x)
        seed = x.below if isinstance(x, Found) else name if path is None else path
        facts = None
        try:
            if isinstance(x, Found) and x.error is not None:
                raise ImageError(x.error)
            facts = None if path is None else FileFacts.of(path, content)  # before reading: a later change is noticed
            picture = load_rgb(path) if path is not None else to_picture(x)
        except ImageError as error:
            if strict:
                raise
            return _Opened(path, seed, Image.new("RGB", (1, 1)), None, error, file=facts)
        source = picture.height, picture.width
        pixels = None if self.calibration is None else pixel_digest(picture)
        tensor = to_tensor(picture, self.method.protocol)
        if size == "model":
            picture = picture.resize((tensor.shape[-1], tensor.shape[-2]), Image.Resampling.BICUBIC)
        elif isinstance(size, int):
            picture = smaller(picture, size)
        return _Opened(path, seed, picture, tensor, size=source, file=facts, pixels=pixels)

    def _score(
        self, batch: list[_Opened], class_name: str, threshold: float | None, size: Size, entry: ClassEntry | None
    ) -> list[Result]:
        readable = [one for one in batch if one.tensor is not None]
        predictions = iter(self._forward(readable, class_name))
        results = []
        known = set() if self.calibration is None else self.calibration.image_digests
        for one in batch:
            score, anomaly_map = (float("nan"), np.empty((0, 0), np.float32))
            explanation: tuple[tuple[str, float], ...] = ()
            warning: str | None = None
            model_map: NDArray[np.float32] | None = None
            if one.tensor is not None:
                score, small, explanation, warning = next(predictions)
                full = upsample(small[None], (one.picture.height, one.picture.width))[0]
                anomaly_map = full.numpy()
                if entry is not None and entry.regions is not None and size != "native":
                    model_map = small.numpy()
            error = None if one.error is None else str(one.error)
            results.append(
                Result(
                    score,
                    anomaly_map,
                    one.picture,
                    class_name,
                    one.path,
                    threshold,
                    error,
                    self.map_range,
                    explanation,
                    warning=warning or (_CALIBRATED if one.pixels in known else None),
                    source_size=one.size,
                    file=one.file,
                    calibration=entry,
                    model_map=model_map,
                )
            )
        return results

    @torch.inference_mode()
    def _forward(
        self, batch: list[_Opened], class_name: str
    ) -> list[tuple[float, Tensor, tuple[tuple[str, float], ...], str | None]]:
        """Return score, map (height, width), explanation and warning of each; a pass takes images of one size."""
        results: list[tuple[float, Tensor, tuple[tuple[str, float], ...], str | None]] = []
        for _, group in itertools.groupby(batch, key=lambda one: one.tensor is not None and one.tensor.shape):
            members = list(group)
            tensors = torch.stack([one.tensor for one in members if one.tensor is not None]).to(self.device)
            paths = [one.seed for one in members]
            names = [class_name] * len(members)
            prediction = self.method(tensors, names, paths)
            reasons: list[tuple[tuple[str, float], ...]] = [()] * len(members)
            if self.explains:
                found = self.method.explain(tensors, names)  # type: ignore[operator]
                reasons = [tuple((one.descriptor, one.cosine) for one in best) for best in found]
            doubts: list[str | None] = [None] * len(members)
            if isinstance(self.method, Transductive):
                doubts = self.method.doubts(class_name, tensors, paths)
            maps = prediction.anomaly_map.float().cpu()
            results += zip(prediction.pred_score.tolist(), maps, reasons, doubts, strict=True)
        return results


def _many(x: Any) -> tuple[str, list[Any]]:
    """Return the folder that many inputs lie in, "" if they are no folder, and the inputs one by one."""
    if isinstance(x, (str, os.PathLike)):
        return os.fspath(x), list(walk([os.fspath(x)]))
    return "", named(flat(x))

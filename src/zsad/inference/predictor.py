"""Scores and heat maps in three lines of Python, without a Trainer."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.clip.backbone import Precision
from zsad.decision import Card
from zsad.images import IMAGE_EXTENSIONS, ReadOptions, to_tensor
from zsad.images.fragments import exists
from zsad.images.manifest import inputs as inputs_of
from zsad.images.overlay import Limits
from zsad.images.tensors import Look
from zsad.images.tiling import Tiles
from zsad.images.where import EVERYWHERE, Where
from zsad.inference.base import BasePredictor
from zsad.inference.devices import find_device
from zsad.inference.enlarging import enlarged
from zsad.inference.explain import Explained
from zsad.inference.files import expanded
from zsad.inference.identity import check_card, model_identity, protocol_identity
from zsad.inference.inputs import flat, is_one
from zsad.inference.opening import Opened, Size, as_picture
from zsad.inference.outcome import Outcome, Pending
from zsad.inference.panels import draw_panel, named
from zsad.inference.scoring import launch, refusal
from zsad.methods import METHODS, Method
from zsad.methods.memory import MissingReferencesError
from zsad.methods.musc import Panel, PanelError, Transductive

__all__ = ["Predictor", "Size", "find_device"]


class Predictor(BasePredictor):
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
        tiles: How large pictures are cut, references alike; None scores them whole. A pass takes tiles of several
            images then.
        where: Where to look in each picture, references too, unless a manifest says it.

    Raises:
        CardError: The card is of another model.
        ValueError: The batch size is less than 1, the method has no explanations or no panel, or it compares whole
            pictures with each other and is asked for tiles.
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
        tiles: Tiles | None = None,
        where: Where = EVERYWHERE,
    ) -> None:
        super().__init__(batch_size, reading, tiles, where)
        if tiles is not None and method.transductive:
            raise ValueError(
                f"{type(method).__name__} compares each part of a picture with those of the other pictures of its "
                f"panel, tiles would be compared with tiles of other places: score without tiles, or look at a region "
                f"of interest."
            )
        if explain and tiles is not None and not tiles.whole:
            raise ValueError("What explains a score is said of the whole picture: with explain, tiles need whole=True.")
        if explain and not hasattr(method, "explain"):
            able = [name for name, kind in METHODS.items() if hasattr(kind, "explain")]
            raise ValueError(f"{type(method).__name__} does not explain its scores; of the methods, {able} do.")
        self.explains = explain
        self.device = find_device(device)
        if precision == "fp16" and self.device.type == "cpu":
            raise ValueError("precision='fp16' needs an accelerator; on a CPU take 'bf16', or '32'.")
        self.precision: Precision = method.clip.cast(precision).precision
        self.one_behind = self.device.type == "cuda"
        self.method = method.eval().to(self.device)
        self.method.reading = self.reading  # references and panels are read as what is scored
        if tiles is not None or where:
            method.viewing = Look(method.protocol, tiles, where)
        self._panel_file = panel
        if panel is not None:
            self._transductive().load_panel(panel)
        self.use_calibration(calibration)

    @property
    def licence_notice(self) -> str | None:
        """Licences of learned parameters, where they ask to be named."""
        return getattr(self.method, "licence_notice", None)

    @property
    def input_side(self) -> int:
        """Pixels of the shorter side of the method's input."""
        return self.method.protocol.size

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
        if isinstance(images, (str, os.PathLike)) and not exists(images):
            raise FileNotFoundError(f"No such file or folder of references: '{images}'.")
        many = [images] if is_one(images) else [images] if isinstance(images, (str, os.PathLike)) else images
        inputs = list(flat(many))
        if not inputs:
            looked = f"'{images}'" if isinstance(images, (str, os.PathLike)) else "what was given"
            raise MissingReferencesError(
                f"No reference image of class '{class_name}' in {looked}: looked there and in all folders below for "
                f"names that end in {', '.join(sorted(IMAGE_EXTENSIONS))}."
            )
        opened = (self.method.parts_of(as_picture(one, self.reading)) for one in inputs)
        self.method.fit_references(class_name, opened)
        return len(inputs)

    def prepare(self, picture: Image.Image) -> Tensor:
        """Return an upright picture resized and normalised, (3, height, width)."""
        return to_tensor(picture, self.method.protocol)

    def outcomes(self, batch: Sequence[Opened]) -> list[Outcome]:
        """Return what the method says of pictures that could be opened, in order."""
        return self.launch(batch)()

    def launch(self, batch: Sequence[Opened]) -> Pending:
        """Hand pictures to the device and return what waits for the outcomes."""
        return launch(self.method, batch, self.explains)

    def refusal(self, one: Opened) -> Outcome | None:
        """Return what is said of a picture that is one of the references; None of any other."""
        if self.method.references is not None:
            self.method.is_few_shot([one.class_name])  # fetches them
        return refusal(self.method, one)

    def enlarge(self, anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Return a map (height, width) bilinearly at another size (height, width)."""
        return enlarged(anomaly_map, size)

    def identity(self, class_name: str | None) -> dict[str, Any]:
        """Return what decides the scores of a class, of any for None, as JSON values, the protocol among it."""
        return {
            **model_identity(self.method, class_name, self.precision, tiles=self.tiles),
            "protocol": protocol_identity(self.method),
        }

    def check_card(self, card: Card) -> Card:
        """Return a card; refuse that of another model, and references that calibrated it.

        Raises:
            CardError: The message names both values, or the reference image.
        """
        check_card(card, self.method, self.precision, tiles=self.tiles)
        return card

    def gather(self, x: Any, class_name: str | Iterable[str]) -> Iterable[Any]:
        """Return a folder or many pictures as inputs; a transductive method draws its panel from them, unless given."""
        if not self.method.transductive:
            return super().gather(x, class_name)
        if not isinstance(class_name, str):
            raise ValueError(f"{type(self.method).__name__} compares images of one class: give one class_name.")
        root, inputs = _many(x)
        self._given_panel(class_name, root)
        draw_panel(self._transductive(), inputs, class_name, root)
        return inputs

    def begin(self, class_name: str) -> None:
        """Score a class against the panel of the file, if there is one."""
        self._given_panel(class_name)

    def lacks_panel(self, class_name: str) -> bool:
        """Return whether the method compares images with each other and has no panel of a class yet."""
        return isinstance(self.method, Transductive) and self.method.memory.get(class_name) is None

    def get_ready(self, class_names: Sequence[str]) -> None:
        """Compute what all scores of some classes share: panels and text vectors.

        Raises:
            PanelError: The method compares images, and has no panel of a class.
        """
        for name in class_names:
            self.begin(name)
            if self.lacks_panel(name):
                raise PanelError(f"No panel of '{name}': load_model(panel=FILE), or fit_panel() of the model, first.")
        with torch.no_grad():
            self.method.text(class_names)

    def _given_panel(self, class_name: str, root: str = "") -> None:
        """Score a class against the panel of the file, whatever class that was made as."""
        if self._panel_file is not None and self._transductive().memory.get(class_name) is None:
            self._transductive().load_panel(self._panel_file, class_name, root)

    def __repr__(self) -> str:
        name, clip = type(self.method).__name__, self.method.clip.name
        return f"Predictor({name}, backbone={clip!r}, image_size={self.method.protocol.size}, device='{self.device}')"

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
            cast(Method, Explained(self.method, first_block)), self.device, self.batch_size, reading=self.reading,
            where=self.where,
        )  # fmt: skip


def _many(x: Any) -> tuple[str, list[Any]]:
    """Return the folder that many inputs lie in, "" if they are no folder, and the inputs one by one."""
    if isinstance(x, (str, os.PathLike)):
        return os.fspath(x), list(inputs_of([os.fspath(x)]))
    return "", named(flat(x))

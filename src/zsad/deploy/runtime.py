"""An exported folder scores images without torch: the standard library, numpy, Pillow and an engine are enough."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.decision.card import Card
from zsad.decision.card_json import CardError
from zsad.deploy.engines import open_engine
from zsad.deploy.folder import CARD, read_meta
from zsad.images.levels import ReadOptions
from zsad.images.overlay import Limits
from zsad.images.pixels import enlarged, model_pixels
from zsad.images.tiling import Tiles
from zsad.images.where import EVERYWHERE, Where
from zsad.inference.base import BasePredictor
from zsad.inference.opening import Opened
from zsad.inference.outcome import Outcome, ScoreError


class UnknownClassError(ValueError):
    """A class was not exported; the message lists those that were."""


class Runtime(BasePredictor):
    """The model of an exported folder, used as a :class:`zsad.Predictor` is.

    Args:
        folder: What ``zsad export`` wrote.
        runtime: ``"onnxruntime"``; ``"openvino"``, which runs the same file; ``"torch"`` for a ``model.pt2``.
        threads: Of one pass; None takes the cores that this process may use, which in a container are fewer than the
            machine has.
        precision: ``"32"``, or ``"bf16"`` for the tower alone (OpenVINO).
        batch_size: Images per pass; it changes speed and memory, not the results.
        calibration: A card or its file; None takes the folder's ``card.json``, if there is one.
        reading: How grey levels beyond 8 bits are read, and how many pixels are too many.
        tiles: How large pictures are cut; None scores them whole.
        where: Where to look in each picture, unless a manifest says it.

    Raises:
        FolderError: The folder is no export, or one of its files was changed.
        EngineError: The engine is unknown or not installed.
        CardError: The card is of another model.

    Example:
        >>> from zsad.deploy import Runtime
        >>> result = Runtime("export/").predict("nut.png", class_name="metal nut")  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | Path,
        runtime: str = "onnxruntime",
        threads: int | None = None,
        *,
        precision: str = "32",
        batch_size: int = 8,
        calibration: Card | str | Path | None = None,
        reading: ReadOptions | None = None,
        tiles: Tiles | None = None,
        where: Where = EVERYWHERE,
    ) -> None:
        super().__init__(batch_size, reading, tiles, where)
        self.folder, self.runtime = Path(folder), runtime
        self.meta: dict[str, Any] = read_meta(self.folder)
        self.precision = self.meta["precision"] if precision == "32" else precision
        self.protocol: Any = SimpleNamespace(**self.meta["protocol"])
        self._references = {digest: name for name, every in self.meta["references"].items() for digest in every}
        self.engine = open_engine(runtime, self.folder, self.meta, threads, precision)
        if calibration is None and (self.folder / CARD).is_file():
            calibration = self.folder / CARD
        self.use_calibration(calibration)

    def __repr__(self) -> str:
        return f"Runtime('{self.folder}', runtime='{self.runtime}', method='{self.meta['model']['method']}')"

    @property
    def classes(self) -> list[str]:
        """The classes that were exported, in the order of ``class_index``."""
        return list(self.meta["classes"])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what the model sees."""
        return int(self.meta["protocol"]["size"]), int(self.meta["protocol"]["size"])

    @property
    def licence_notice(self) -> str | None:
        """Licences of learned parameters, where they ask to be named."""
        return self.meta.get("licence_notice")

    @property
    def input_side(self) -> int:
        """Pixels of a side of the model's input."""
        return self.size[0]

    @property
    def map_range(self) -> Limits | None:
        """Range of the anomaly maps, None if they are unbounded."""
        found = self.meta["map_range"]
        return None if found is None else (float(found[0]), float(found[1]))

    def index(self, class_name: str) -> int:
        """Return the number of a class.

        Raises:
            UnknownClassError: It was not exported.
        """
        if self.meta["class_agnostic"]:
            return 0
        if class_name not in self.meta["classes"]:
            raise UnknownClassError(
                f"Class '{class_name}' is not in '{self.folder}', only {', '.join(map(repr, self.classes))}: export it "
                f"as well (zsad export ... --class-name '{class_name}', which may be repeated, or --words FILE)."
            )
        return self.classes.index(class_name)

    def infer(
        self, pixels: NDArray[np.uint8], class_index: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scores (batch,) and maps (batch, height, width) of prepared pictures.

        Args:
            pixels: (batch, 3, height, width) of :attr:`size`.
            class_index: (batch,) numbers of :attr:`classes`.
        """
        return self.engine.run(pixels, class_index)

    def prepare(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return an upright RGB picture resized as the model wants it, (3, height, width)."""
        return model_pixels(picture, cast(Any, self.protocol))

    def enlarge(self, anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Return a map (height, width) bilinearly at another size (height, width)."""
        return enlarged(anomaly_map, size)

    def begin(self, class_name: str) -> None:
        """Refuse a class that was not exported, before any image."""
        self.index(class_name)

    def outcomes(self, batch: Sequence[Opened]) -> list[Outcome]:
        """Return what the graph says of pictures that could be opened, in order."""
        found: list[Outcome | None] = [self._refusal(one) for one in batch]
        places = [place for place, one in enumerate(found) if one is None]
        for start in range(0, len(places), self.batch_size):
            part = places[start : start + self.batch_size]
            pixels = np.stack([batch[place].tensor for place in part])
            index = np.array([self.index(batch[place].class_name) for place in part], dtype=np.int64)
            for place, score, anomaly_map in zip(part, *self.infer(pixels, index), strict=True):
                found[place] = _outcome(batch[place], float(score), anomaly_map)
        return [one for one in found if one is not None]

    def _refusal(self, one: Opened) -> Outcome | None:
        if not self._references:
            return None
        mean, std = (np.array(self.meta["protocol"][name], np.float32)[:, None, None] for name in ("mean", "std"))
        seen = (one.tensor.astype(np.float32) / np.float32(255) - mean) / std  # what the memory took the digest of
        name = self._references.get(hashlib.blake2b(seen.tobytes(), digest_size=16).hexdigest())
        if name is None:
            return None
        return Outcome.nothing(
            ScoreError(
                f"'{one.called}' is one of the references of class '{name}': its score would compare it with itself. "
                f"Take references that are not scored."
            )
        )

    def identity(self, class_name: str | None) -> dict[str, Any]:
        """Return what decides the scores of a class, of any for None, the protocol among it."""
        return {
            **self.meta["model"],
            "references": self.meta["references_of"].get(class_name),
            "tiles": None if self.tiles is None else self.tiles.identity(),
            "precision": self.precision,
            "runtime": self.runtime,
            "protocol": self.meta["protocol"],
        }

    def check_card(self, card: Card) -> Card:
        """Return a card as it serves this engine, refuse that of another model.

        Raises:
            CardError: The card is of another model, or the engine's measured difference could move its threshold.
        """
        if (card.model.get("runtime"), card.model.get("precision")) != (self.runtime, self.precision):
            known = self.meta["verification"].get(self.runtime)
            if known is None or self.precision != self.meta["precision"]:
                raise CardError(
                    f"The card was made with {card.model.get('runtime')} at precision {card.model.get('precision')}, "
                    f"and nobody compared {self.runtime} at precision {self.precision} with that: calibrate with this "
                    f"runtime."
                )
            card = card.carried(known["score"], runtime=self.runtime, precision=self.precision)
        for name in card.classes:
            own = self.identity(name)
            card.require(own, own.pop("protocol"))
        return card


def _outcome(one: Opened, score: float, anomaly_map: NDArray[np.float32]) -> Outcome:
    bad = int((~np.isfinite(anomaly_map)).sum())
    if np.isfinite(score) and not bad:
        return Outcome(score, anomaly_map)
    what = f"the score is {score}" if not bad else f"{bad} of {anomaly_map.size} values of the map are not finite"
    return Outcome.nothing(ScoreError(f"Cannot score '{one.called}': {what}."))

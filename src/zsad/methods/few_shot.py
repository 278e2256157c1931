"""Few-shot memory: features of a few normal images per class, and the distance of new features to the nearest one."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor

from zsad.clip import Clip
from zsad.functional.maps import to_grid, upsample
from zsad.images import list_images, load_rgb
from zsad.images.levels import DEFAULT, ReadOptions
from zsad.images.tensors import Look
from zsad.methods.memory import Memory, MissingReferencesError
from zsad.types import ImageProtocol, Prediction, Record


class TestedReferenceError(ValueError):
    """An image is tested that is a reference as well."""


class _Source(Protocol):
    """What few-shot needs from a datamodule."""

    @property
    def class_names(self) -> list[str]: ...

    def select(self, split: str) -> Sequence[Record]: ...

    def dataset(self, split: str) -> Any: ...


class FewShot(LightningModule):
    """Gives every method normal reference images per class; without any it stays zero-shot.

    References come from one of three places: :meth:`fit_references`; a folder with one sub-folder per class, or with
    images for whatever class is asked for; or the normal images of the datamodule's ``train`` part, drawn by seed when
    a run starts. A method whose paper has a few-shot form replaces :meth:`reference_features` and reads
    :attr:`memory` in its ``score`` if :meth:`is_few_shot` says so; the others get :meth:`with_references`.
    """

    clip: Clip
    protocol: ImageProtocol
    memory: Memory
    draw_with_replacement: ClassVar[bool] = False
    """Whether an image may be drawn twice, as in VAND's released script."""
    reference_split: str = "train"
    """Part of the data that references are drawn from."""
    reading: ReadOptions = DEFAULT
    """How grey levels of files are read that the method opens by itself; doors set what holds for the scored images."""
    viewing: Look | None = None
    """How references are looked at, where that is not whole: as the pictures that are compared with them."""
    few_shot_in_score: ClassVar[bool] = False
    """Whether ``score`` reads the memory itself; :meth:`with_references` then changes nothing."""

    def use_references(self, shots: int, references: str | Path | None, shot_seed: int) -> None:
        """Set where references come from.

        Args:
            shots: Images per class to draw; 0 with a folder takes all of its images, without one it means zero-shot.
            references: Folder of normal images, ``<folder>/<class>/*`` or ``<folder>/*``.
            shot_seed: Decides the draw, per class.

        Raises:
            ValueError: If ``shots`` is negative.
            FileNotFoundError: If the folder does not exist.
        """
        if shots < 0:
            raise ValueError(f"shots must be 0 (zero-shot) or a number of images per class, got {shots}.")
        if references is not None and not Path(references).is_dir():
            raise FileNotFoundError(f"No folder of reference images '{references}'.")
        self.memory = Memory()
        self.shots = shots
        self.references = None if references is None else Path(references)
        self.shot_seed = shot_seed
        self._drawn: set[str] = set()

    # ---- what a method may change

    def reference_features(self, image: Tensor) -> dict[str, Tensor]:
        """Return what the memory keeps of images, kind -> (batch, positions, dim); last-block patches by default.

        Args:
            image: Normalised images, (batch, 3, height, width).
        """
        last, _ = self.clip.run_image(self.clip.embed_image(image))
        return {"patch": self.clip.ln_post(last[:, 1:])}

    # ---- filling

    def parts_of(self, picture: Image.Image) -> list[Tensor]:
        """Return a picture as the method looks at it: whole and, where :attr:`viewing` says so, its tiles.

        Raises:
            ImageError: The region of interest leaves the picture.
        """
        return (self.viewing or Look(self.protocol))(picture)

    @torch.no_grad()
    def fit_references(self, class_name: str, images: Tensor | Iterable[Tensor | Sequence[Tensor]]) -> None:
        """Add normal images of a class to the memory; an image does not influence another one's features.

        Args:
            class_name: The class, spelled as in later calls.
            images: Images normalised as :attr:`protocol` says, each (3, height, width); or what :meth:`parts_of`
                makes of it.

        Raises:
            ValueError: If an image has another shape.
        """
        features, pictures = [], []
        for image in images:
            parts = [image] if isinstance(image, Tensor) and image.ndim != 4 else list(image)
            for part in parts:
                if part.ndim != 3 or part.shape[0] != 3:
                    raise ValueError(
                        f"Each reference is an image of shape (3, height, width), got {tuple(part.shape)}."
                    )
            found = [self.reference_features(part[None].to(self.device)) for part in parts]
            features.append({kind: torch.cat([one[kind].flatten(0, 1) for one in found])[None] for kind in found[0]})
            pictures.append(parts[0])
        for one, image in zip(features, pictures, strict=True):  # all or none: a file that cannot be read must not
            self.memory.add(class_name, one)  # leave a class with half of its references
            self.memory.note(class_name, image)

    def refuse_references(self, images: Tensor, paths: Sequence[str]) -> None:
        """Refuse to test images that are references: each would be compared with itself.

        Args:
            images: Normalised images, (batch, 3, height, width).
            paths: How each is called.

        Raises:
            TestedReferenceError: An image has the content of a reference.
        """
        for image, path in zip(images, paths, strict=True):
            if (class_name := self.memory.class_of(image)) is not None:
                raise TestedReferenceError(
                    f"'{path}' is tested, and the same picture is a normal reference of class '{class_name}': its "
                    "score would compare it with itself. Take references from a part of the data that is not tested."
                )

    def forget_references(self) -> None:
        """Return to zero-shot, until images are given or drawn again."""
        self.memory.drop(self.memory.classes)
        self._drawn.clear()

    def is_few_shot(self, class_names: Iterable[str]) -> bool:
        """Return whether the memory is in use; references of these classes are fetched from the folder if need be."""
        if self.references is not None:
            for name in dict.fromkeys(class_names):
                self._fetch(name)
        elif self.shots and not self.memory.classes:
            raise MissingReferencesError(
                f"shots={self.shots}, but there are no reference images: run with a datamodule, give a folder as "
                f"'references', or call fit_references(class_name, images)."
            )
        return bool(self.memory.classes)

    def on_test_start(self) -> None:
        """Draw references from the datamodule."""
        super().on_test_start()
        self._start_references()

    def on_validation_start(self) -> None:
        """Draw references from the datamodule."""
        super().on_validation_start()
        self._start_references()

    def on_predict_start(self) -> None:
        """Draw references from the datamodule."""
        super().on_predict_start()
        self._start_references()

    def _start_references(self) -> None:
        self.draw_references(getattr(self.trainer, "datamodule", None))

    def draw_references(self, source: _Source | None) -> None:
        """Replace what an earlier draw fetched; references given by hand stay. A run does this by itself.

        Args:
            source: A datamodule; without one, or for a zero-shot method, nothing is drawn.

        Raises:
            MissingReferencesError: If a class has too few normal images.
        """
        self.memory.drop(self._drawn)
        self.reading = getattr(source, "reading", self.reading)
        self._drawn.clear()
        if source is not None and (self.shots or self.references is not None):
            for name in source.class_names:
                self._fetch(name, source)

    def _fetch(self, class_name: str, source: _Source | None = None) -> None:
        if class_name in self.memory.classes:
            return
        if self.references is not None:
            folder = self.references / class_name
            folder = folder if folder.is_dir() else self.references
            # a folder of classes that lacks this one holds no image directly; its other classes must not stand in
            paths = [path for path in list_images([folder]) if folder != self.references or path.parent == folder]
            looked = "all folders below" if folder != self.references else f"no sub-folder '{class_name}' is there"
            number, where = len(paths), f"folder '{folder}' ({looked})"
            read: Callable[[int], Any] = lambda index: self.parts_of(load_rgb(paths[index], self.reading))  # noqa: E731
        elif source is not None:
            data = source.dataset(self.reference_split)  # generated images have no file to read
            places = [
                place
                for place, one in enumerate(source.select(self.reference_split))
                if one.class_name == class_name and one.label in (0, None)
            ]
            number, where = len(places), f"the part '{self.reference_split}' of the data"
            read = lambda index: data[places[index]]["image"]  # noqa: E731
        else:
            return
        chosen = draw(number, self.shots, self.shot_seed, class_name, self.draw_with_replacement)
        if not chosen or len(chosen) < self.shots:
            raise MissingReferencesError(
                f"Class '{class_name}': {number} normal images in {where}, needed are {self.shots or 'some'}."
            )
        self.fit_references(class_name, map(read, chosen))
        self._drawn.add(class_name)

    # ---- for methods whose paper has no few-shot form

    def with_references(self, prediction: Prediction, image: Tensor, class_names: Sequence[str]) -> Prediction:
        """Return the mean of a zero-shot prediction and the distances of patches to the references.

        WinCLIP+ (arXiv 2303.14814, section 4.3) for patches alone: the map becomes the mean of both maps, the score
        the mean with the distances' maximum; distances are halved cosine distances, in [0, 1]. Without references the
        prediction comes back as it is.

        Args:
            prediction: Zero-shot maps, before smoothing, and scores.
            image: Normalised images, (batch, 3, height, width).
            class_names: Class of each image.
        """
        if self.few_shot_in_score or not self.is_few_shot(class_names):
            return prediction
        features = FewShot.reference_features(self, image)["patch"]
        distance = to_grid(self.memory.distance("patch", features, class_names) / 2, self.clip.grid(image))
        return Prediction(
            (prediction.anomaly_map + upsample(distance, (image.shape[-2], image.shape[-1]))) / 2,
            (prediction.pred_score + distance.amax(dim=(1, 2))) / 2,
        )


def draw(number: int, shots: int, seed: int, class_name: str, replace: bool = False) -> list[int]:
    """Return which ``shots`` of a class's normal images to take, all of them for 0, fewer if there are not enough.

    The draw depends on the seed, the class and the number of its images, not on other classes; a draw of fewer shots is
    the beginning of one of more.

    Args:
        number: How many normal images there are, in a fixed order.
        shots: How many to take.
        seed: Any non-negative integer.
        class_name: The class.
        replace: Whether an image may be drawn twice.
    """
    if not shots or not number:
        return list(range(number))
    rng = np.random.default_rng([seed, zlib.crc32(class_name.encode())])
    chosen = rng.integers(number, size=shots) if replace else rng.permutation(number)[:shots]
    return [int(place) for place in chosen]

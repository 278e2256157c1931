"""Methods that judge an image by the other images of its folder: where the panel comes from and who is in it."""

import warnings
from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from zsad.clip.tensor_store import tensor_key, tower_key
from zsad.datamodules.dataset import Skipped, describe
from zsad.images import ImageError
from zsad.methods.base import Method
from zsad.methods.few_shot import draw
from zsad.methods.musc.build import Encoder, Member, Progress, build_panel
from zsad.methods.musc.panel import (
    MissingPanelError,
    Panel,
    PanelError,
    Panels,
    differences,
    is_unnamed,
    relative_key,
    unnamed_keys,
)


class SamePixelsWarning(UserWarning):
    """An image outside the panel has the pixels of one in it, so its patches find themselves there."""


class Transductive(Method, ABC):
    """A method with a panel per class, drawn from the images that are scored; an image never sees itself.

    Where few-shot methods draw normal references, this draws the panel: at the start of test, validation and predict
    runs and before a benchmark's loop, from the ``test`` part of the data; labels are not read. With ``shots`` or
    ``references`` the panel is those normal images and no test image is drawn.
    """

    transductive = True
    class_agnostic = True
    few_shot_in_score = True
    panel_size: int | None
    panel_seed: int
    memory: Panels

    def use_references(self, shots: int, references: str | Path | None, shot_seed: int) -> None:
        """Set where references come from; see :class:`~zsad.methods.few_shot.FewShot`."""
        super().use_references(shots, references, shot_seed)
        self.memory = Panels()

    def text_features(self, class_names: Sequence[str]) -> Tensor:
        """Return no text at all, (classes, 0, dim): nothing is encoded."""
        return torch.zeros(len(class_names), 0, self.clip.dim, device=self.device)

    # ---- giving a panel

    def fit_panel(
        self, class_name: str, images: Tensor | Iterable[Tensor], paths: Sequence[str] | None = None
    ) -> Panel:
        """Make these images the panel of a class, in the place of an earlier one.

        Args:
            class_name: The class, spelled as in later calls.
            images: Images normalised as :attr:`protocol` says, each (3, height, width), at least two.
            paths: Path of each image, by which it is known again when it is scored. Without paths no image counts as
                one of the panel.

        Raises:
            PanelError: Fewer than two images, or of different sizes.
            ValueError: Paths and images do not go together, or a path comes twice.
        """
        opened = list(images)
        keys = unnamed_keys(len(opened)) if paths is None else [relative_key(str(path)) for path in paths]
        if len(keys) != len(opened) or len(set(keys)) != len(keys):
            raise ValueError(
                f"fit_panel needs one path per image, each once; got {len(keys)} paths, {len(set(keys))} different "
                f"ones, for {len(opened)} images."
            )
        members = [Member(key, lambda image=image: _checked(image)) for key, image in zip(keys, opened, strict=True)]  # type: ignore[misc]
        return self.set_panel(class_name, members)

    @torch.no_grad()
    def fit_references(self, class_name: str, images: Tensor | Iterable[Tensor | Sequence[Tensor]]) -> None:
        """Add normal images of a class to its panel; see :meth:`zsad.methods.few_shot.FewShot.fit_references`."""
        before = self.memory.get(class_name)
        opened = [image if isinstance(image, Tensor) else image[0] for image in images]
        keys = unnamed_keys(len(opened), first=len(before) if before else 0)
        members = [Member(key, lambda image=image: _checked(image)) for key, image in zip(keys, opened, strict=True)]  # type: ignore[misc]
        self.set_panel(class_name, members, before=before, least=1)

    def set_panel(
        self,
        class_name: str,
        members: Sequence[Member],
        *,
        root: str | Path = "",
        drawn: bool = False,
        folder: Path | None = None,
        progress: Progress | None = None,
        before: Panel | None = None,
        least: int = 2,
    ) -> Panel:
        """Compute a panel and set it; :meth:`fit_panel` and the doors come here.

        Args:
            class_name: The class.
            members: In the order in which they are to stand.
            root: Folder that the keys are relative to.
            drawn: Whether the images are drawn from those that will be scored.
            folder: Where to keep what is computed; see :func:`~zsad.methods.musc.build.build_panel`.
            progress: As there.
            before: As there.
            least: As there.
        """
        panel = build_panel(cast(Encoder, self), class_name, members, folder, progress, before, least)
        panel.settings, panel.root, panel.drawn = self.panel_settings(), str(root), drawn
        self.memory.put(panel)
        (self._drawn.add if drawn else self._drawn.discard)(class_name)
        return panel

    def panel(self, class_name: str) -> Panel:
        """Return the panel of a class.

        Raises:
            MissingPanelError: There is none.
        """
        if self.shots or self.references is not None:
            self.is_few_shot([class_name])
        found = self.memory.get(class_name)
        if found is None:
            known = f"; there are panels of {self.memory.names}" if self.memory.names else ""
            raise MissingPanelError(
                f"{type(self).__name__} cannot score an image of class '{class_name}' alone: it compares the images of "
                f"a product with each other, and there is no panel of that class{known}. Score a whole folder "
                f"(predict(folder), zsad score FOLDER), run with a data module, or give a panel: "
                f"fit_panel('{class_name}', images), load_panel(file), --panel FILE."
            )
        return found

    def forget_panel(self, class_name: str) -> None:
        """Drop the panel of a class; nothing happens if there is none."""
        self.memory.drop([class_name])
        self._drawn.discard(class_name)

    def forget_references(self) -> None:
        """Drop all panels, until images are given or drawn again."""
        self.memory.drop(self.memory.names)
        self._drawn.clear()

    def export_obstacle(self) -> str | None:
        """Return why there is no graph."""
        return "its scores compare an image with the others of its folder; score folders with 'zsad score --method'."

    def p_value_obstacle(self, class_name: str) -> str | None:
        """Return why the scores of a class have no p-value: its panel was drawn from the images that are scored."""
        panel = self.memory.get(class_name)
        if panel is None or not panel.drawn:
            return None
        return (
            "the panel was drawn from the scored images, so their scores depend on each other and on the folder; "
            "score against a panel of other images (--panel FILE) to get p-values"
        )

    # ---- files

    def panel_settings(self) -> dict[str, Any]:
        """Return what a panel's numbers depend on, as JSON values."""
        return {
            "method": type(self).__name__,
            "backbone": self.clip.name,
            "backbone_weights": tower_key(self.clip.model.visual, {"position": self.clip.position})[:16],
            "precision": self.clip.precision,
            "image_size": self.protocol.size,
        }

    def save_panel(self, path: str | Path, class_name: str) -> Path:
        """Write the panel of a class as one safetensors file, so that later images can be scored against it.

        Raises:
            MissingPanelError: There is none.
        """
        self.panel(class_name).save(Path(path))
        return Path(path)

    def load_panel(self, path: str | Path, class_name: str | None = None, root: str | Path = "") -> Panel:
        """Set the panel of a class from a file.

        Args:
            path: What :meth:`save_panel` or ``zsad score`` wrote.
            class_name: Name to score under; the file's by default.
            root: Folder that the panel's images lie in; by default they are known by the ends of their paths.

        Raises:
            FileNotFoundError: There is no such file.
            PanelError: It is no panel, or was made with other settings.
        """
        panel = Panel.load(path)
        if changed := differences(panel.settings, self.panel_settings()):
            raise PanelError(f"The panel '{path}' was made with other settings ({changed}). Make it anew.")
        panel.class_name, panel.root, panel.drawn = class_name or panel.class_name, str(root), False
        self.memory.put(panel)
        self._drawn.discard(panel.class_name)
        return panel

    # ---- drawing

    def _start_references(self) -> None:
        with self.trainer.precision_plugin.forward_context():  # the panel is computed as the images will be
            super()._start_references()

    def draw_references(self, source: Any) -> None:
        """Draw the panel of each class, or the normal references if those were asked for; a run does it by itself."""
        if self.shots or self.references is not None:
            super().draw_references(source)
            return
        self.memory.drop(self._drawn)
        self._drawn.clear()
        if source is not None:
            self.draw_panel(source)

    def draw_panel(self, source: Any) -> None:
        """Draw panels from the ``test`` part of a data module, for the classes that have none.

        Raises:
            PanelError: A class has fewer than two readable images.
        """
        data, records = source.dataset("test"), source.select("test")
        for name in source.class_names:
            if self.memory.get(name) is not None:
                continue
            places = [place for place, record in enumerate(records) if record.class_name == name]
            keys = [relative_key(describe(records[place]), source.root) for place in places]
            self.draw_from(name, keys, lambda index, places=places: _read(data, places[index]), source.root)  # type: ignore[misc]

    def draw_from(
        self, class_name: str, keys: Sequence[str], read: Callable[[int], Tensor | None], root: str | Path = ""
    ) -> Panel:
        """Draw the panel of a class from images in a fixed order and set it.

        Args:
            class_name: The class; it and the seed decide the draw.
            keys: Path of each image below ``root``.
            read: Returns the normalised image at an index, None if it cannot be read.
            root: Folder that the keys are relative to.

        Raises:
            PanelError: Fewer than two images can be read.
        """
        members: list[tuple[int, Member]] = []
        for index in self.draw_order(class_name, len(keys)):
            if len(members) == (self.panel_size or len(keys)):
                break
            image = read(index)
            if image is not None:
                members.append((index, Member(keys[index], lambda image=image: image)))  # type: ignore[misc]
        chosen = [member for _, member in sorted(members, key=lambda pair: pair[0])]
        return self.set_panel(class_name, chosen, root=root, drawn=True)

    def draw_order(self, class_name: str, number: int) -> list[int]:
        """Return the order in which images are tried for the panel."""
        return draw(number, number, self.panel_seed, class_name)

    # ---- who is in it

    def digest(self, image: Tensor) -> str:
        """Return a hash of an image's pixels as the tower gets them, in single precision."""
        return tensor_key(image.detach().float())

    def places(self, panel: Panel, image: Tensor, paths: Sequence[str]) -> list[int | None]:
        """Return which image of the panel each image is, None for all others; warn of others with equal pixels."""
        for doubt in filter(None, self.doubts(panel.class_name, image, paths)):
            warnings.warn(doubt, SamePixelsWarning, stacklevel=2)
        return [panel.place(path, self.digest(one)) for one, path in zip(image, paths, strict=True)]

    def doubts(self, class_name: str, image: Tensor, paths: Sequence[str]) -> list[str | None]:
        """Return for each image why its score is doubtful, None if it is not: its pixels are another member's.

        Args:
            class_name: The class of all images.
            image: Normalised images, (batch, 3, height, width).
            paths: Path of each image.
        """
        panel = self.panel(class_name)
        found: list[str | None] = []
        for one, path in zip(image, paths, strict=True):
            digest = self.digest(one)
            same = panel.holds_pixels(digest) if panel.place(path, digest) is None else None
            if same is None:
                found.append(None)
                continue
            member = "an image" if is_unnamed(same) else f"'{same}'"
            found.append(
                f"Image '{path}' has the same pixels as {member} of the panel, where its patches find themselves: its "
                f"score is too low if it has a defect."
            )
        return found


def _checked(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"Each image of a panel has the shape (3, height, width), got {tuple(image.shape)}.")
    return image


def _read(data: Any, place: int) -> Tensor | None:
    try:
        sample = data[place]
    except ImageError:
        return None
    return None if isinstance(sample, Skipped) else sample["image"]

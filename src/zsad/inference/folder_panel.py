"""The panel of a folder that is scored by comparing its images: drawn once, on the disk, continued after a kill."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from zsad.images import Found, ImageError, load_rgb
from zsad.inference.files import FileList, sha256
from zsad.inference.panels import seen
from zsad.inference.settings import replace
from zsad.methods.musc import Panel, PanelError, Transductive
from zsad.methods.musc.build import Member, Progress
from zsad.methods.musc.mutual import nearest_both
from zsad.methods.musc.panel import differences

_FORMAT = 1
_LONG = 180.0  # seconds of comparisons from which a run is announced


class FolderPanel:
    """The panel in the results folder of a run.

    ``panel.json`` lists the images with the hashes of their files as soon as they are drawn; it is read, never drawn
    again, so a folder may grow and old rows stay right. ``panel/`` holds what is computed until ``panel.safetensors``
    is complete. A run that was killed loses at most one image's pass or one layer and neighbourhood.

    Args:
        method: On its device.
        files: What is scored.
        out: The results folder.
        class_name: What the rows are scored as.
        say: Told what a user wants to know.
    """

    def __init__(
        self,
        method: Transductive,
        files: FileList | Sequence[Found],
        out: Path,
        class_name: str,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.method = method
        self.files = files
        self.class_name = class_name
        self.say = say
        self.notes, self.file, self.work = out / "panel.json", out / "panel.safetensors", out / "panel"

    def forget(self) -> None:
        """Remove the panel of an earlier run."""
        self.notes.unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def load(self, path: Path) -> Panel:
        """Set the panel of another folder or day, and say how old it is."""
        panel = self.method.load_panel(path, self.class_name)
        self.say(f"Compared with {len(panel)} images: panel '{path}', {_age(panel.made)}.")
        self._announce(0, len(self.files), len(panel))
        return panel

    def make(self, progress: Progress) -> Panel:
        """Set the folder's own panel: the one that is there, or one that is drawn now.

        Raises:
            PanelError: Fewer than two images can be read, an image of the panel has changed since it was drawn, or the
                panel was made with other settings.
        """
        if not self.notes.is_file():
            self.notes.parent.mkdir(parents=True, exist_ok=True)
            self._draw(progress)
        listed = self._read_notes()
        if self.file.is_file():
            panel = self.method.load_panel(self.file, self.class_name)
            panel.drawn = True
            self.say(f"Compared with the {len(panel)} images of the earlier run's panel, {_age(panel.made)}.")
        else:
            self._announce(len(listed), max(0, len(self.files) - len(listed)), len(listed))
            panel = self.method.set_panel(self.class_name, listed, drawn=True, folder=self.work, progress=progress)
            panel.save(self.file)
        shutil.rmtree(self.work, ignore_errors=True)
        return panel

    def _draw(self, progress: Progress) -> None:
        """Choose the images and write their list."""
        files = [one for one in self.files if one.error is None]
        chosen: list[tuple[int, dict[str, str]]] = []
        most = min(self.method.panel_size or len(files), len(files))
        progress.start("panel: drawing", most)
        for index in self.method.draw_order(self.class_name, len(files)):
            if len(chosen) == most:
                break
            try:
                load_rgb(files[index].path, self.method.reading)
            except ImageError:
                continue
            chosen.append((index, {"path": files[index].below, "sha256": sha256(files[index].path)}))
            progress.advance(1)
        if len(chosen) < 2:
            raise PanelError(
                f"{len(chosen)} readable image(s) of {len(files)}: {type(self.method).__name__} compares images of "
                f"one product with each other and needs at least 2, better 30 or more; or give a panel with --panel "
                f"FILE."
            )
        content = {
            "format": _FORMAT,
            "class_name": self.class_name,
            "seed": self.method.panel_seed,
            "drawn_from": len(files),
            "settings": self.method.panel_settings(),
            "images": [one for _, one in sorted(chosen, key=lambda pair: pair[0])],
        }
        replace(self.notes, json.dumps(content, indent=1) + "\n")

    def _read_notes(self) -> list[Member]:
        """The list of images, all as they were when it was written."""
        try:
            content: dict[str, Any] = json.loads(self.notes.read_text(encoding="utf-8"))
            listed, settings = content["images"], content["settings"]
        except (ValueError, KeyError) as error:
            raise PanelError(f"'{self.notes}' is no list of a panel ({error}); --fresh draws one anew.") from error
        there: dict[str, list[Found]] = {}
        wanted = {one["path"] for one in listed}
        for found in self.files:
            if found.below in wanted and os.path.isfile(found.path):
                there.setdefault(found.below, []).append(found)
        if changed := differences(settings, self.method.panel_settings()):
            raise PanelError(
                f"'{self.notes}' was drawn with other settings ({changed}). Use another folder, or --fresh to start "
                f"over."
            )
        return [self._member(one["path"], one["sha256"], there.get(one["path"], [])) for one in listed]

    def _member(self, key: str, content: str, files: Sequence[Found]) -> Member:
        """The image of that content among the files of that name."""
        file = next((one for one in files if sha256(one.path) == content), None)
        if file is None and files:
            raise PanelError(
                f"'{files[0].path}' is an image of the panel and has changed since it was drawn: every score depends "
                f"on it. Restore it, or start over with --fresh."
            )

        def opened() -> torch.Tensor:
            if file is None:
                raise PanelError(
                    f"'{key}' is an image of the panel and was gone before it was looked at. Restore it, or start over "
                    f"with --fresh."
                )
            return seen(self.method, file)

        return Member(key, opened, content)

    def _announce(self, panel: int, others: int, size: int) -> None:
        """Say how long the comparisons will take, if it is long."""
        seconds = comparison_seconds(self.method) * (panel * panel / 2 + others * size)
        if seconds > _LONG:
            self.say(
                f"Comparing {panel + others} images with a panel of {size} takes about {_duration(seconds)}, beside "
                f"the images' passes. A smaller backbone or panel (--option panel=64) takes less."
            )


def comparison_seconds(method: Any) -> float:
    """Return how long comparing two images takes, measured on random features of the method's shape."""
    patches, width = (method.protocol.size // method.clip.patch_size) ** 2, method.clip.width
    tile = max(1, 512 // patches)
    features = torch.randn(tile, patches, width, device=method.device) / width**0.5
    times = []
    for _ in range(3):
        before = time.perf_counter()
        nearest_both(features, features)[0].sum().item()  # item(): wait for the device
        times.append(time.perf_counter() - before)
    return min(times) / tile**2 * len(method.units())


def _duration(seconds: float) -> str:
    for name, length in (("days", 86400.0), ("hours", 3600.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds / 60:.0f} minutes"


def _age(made: str) -> str:
    """How old a panel is, in words."""
    try:
        age = datetime.now(timezone.utc) - datetime.fromisoformat(made)
    except ValueError:
        return "of unknown age"
    if age.days:
        return f"made {age.days} day(s) ago"
    return f"made {age.seconds // 3600} h {age.seconds // 60 % 60} min ago"

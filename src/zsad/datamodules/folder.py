"""A user's own images: any folder, with or without labels and masks, or a list of files."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from zsad.datamodules.base import BenchmarkDataModule
from zsad.datamodules.checks import DatasetNotFoundError
from zsad.datamodules.layout import child, flat_pair, folders_in, images_in, mvtec_class, pair, stem
from zsad.datamodules.manifest import read_manifest
from zsad.images import expand_slices, list_images, load_mask
from zsad.images.fragments import split
from zsad.images.listing import extension
from zsad.images.medical import slice_step
from zsad.types import Record

Layout = Literal["auto", "tree", "pairs", "beside", "plain", "manifest"]
_NORMAL_DIRS = ("good", "ok", "normal", "no")


class Folder(BenchmarkDataModule):
    """Your own images, in whichever of these layouts they are; labels and masks are optional.

    * ``"tree"``: ``[<class>/]{train,test}/<kind>/*`` with masks ``[<class>/]ground_truth/<kind>/*``; ``<kind>`` is a
      name in ``normal_dirs`` or of a defect. Without ``train`` and ``test`` the folder itself is the test part, and
      there is no other: references must come from elsewhere.
    * ``"pairs"``: ``images/`` and ``masks/``, equal names but for the suffix; all anomalous unless
      ``label_from_mask``.
    * ``"beside"``: each mask beside its image, told apart by ``mask_suffixes`` and ``mask_extensions``. Images below a
      folder in ``normal_dirs`` are normal, else those without a mask.
    * ``"plain"``: images in any nesting, nothing known about them.
    * ``"manifest"``: a CSV, JSON-lines or ``meta.json`` file, see :func:`~zsad.datamodules.manifest.read_manifest`.

    ``"auto"`` takes a ``meta.json`` in the root, then the first of ``tree``, ``pairs``, ``beside`` (only if
    ``mask_extensions`` is given) and ``plain`` that fits.

    Args:
        root: The folder, or the manifest file itself.
        manifest: A list of images; its paths are relative to ``root``.
        layout: See above.
        split: Name of the folder, or value in the manifest, that counts as the test part.
        class_name: Class of images that no folder or list gives one.
        normal_dirs: Names of folders with normal images, ignoring case.
        mask_suffixes: Endings that make an image's stem its mask's.
        mask_extensions: Extensions of mask files, e.g. ``[".png"]``; None for any.
        label_from_mask: Label an image by whether its mask has a marked pixel (opens all masks at the start).
        strict: Refuse a manifest whose paths lead out of ``root``; False allows it.
        data_domain: What kind of images they are; a method may treat the two differently.
        slices: ``"all"`` or ``"every:5"``: volumes and files of several pictures stand for so many of their slices,
            each with the same slice of its mask; labels are the volume's unless ``label_from_mask``.
        **options: Those of :class:`~zsad.datamodules.base.BenchmarkDataModule`.
    """

    name = "folder"

    def __init__(
        self,
        root: str | Path,
        manifest: str | Path | None = None,
        layout: Layout = "auto",
        split: str = "test",
        class_name: str = "object",
        normal_dirs: Sequence[str] = _NORMAL_DIRS,
        mask_suffixes: Sequence[str] = ("_mask", ""),
        mask_extensions: Sequence[str] | None = None,
        label_from_mask: bool = False,
        strict: bool = True,
        data_domain: Literal["industrial", "medical"] = "industrial",
        slices: str | None = None,
        **options: Any,
    ) -> None:
        root = Path(root).expanduser()
        if manifest is None and root.is_file():
            root, manifest = root.parent, root
        super().__init__(root, **options)
        self.manifest = None if manifest is None else Path(manifest).expanduser()
        self.layout = layout
        self.split = split
        self.class_name = class_name
        self.normal_dirs = tuple(name.lower() for name in normal_dirs)
        self.mask_suffixes = tuple(mask_suffixes)
        self.mask_extensions = mask_extensions and tuple(one.lower() for one in mask_extensions)
        self.label_from_mask = label_from_mask
        self.strict = strict
        self.data_domain = data_domain
        if slices is not None:
            slice_step(slices)
        self.slices = slices

    @property
    def domain(self) -> str:
        """``"industrial"`` or ``"medical"``, as given."""
        return self.data_domain

    def records(self, split: str) -> Iterator[Record]:
        """Yield the records of the layout.

        Raises:
            DatasetNotFoundError: The root does not exist, or does not have the layout that was asked for.
            PairingError: Images and masks do not belong together.
            ManifestError: The manifest is not understood.
        """
        part = self.split if split == "test" else split
        layout = self._detect(part) if self.layout == "auto" else self.layout
        readers: dict[str, Callable[[str], Iterator[Record]]] = {
            "tree": self._tree,
            "pairs": self._pairs,
            "beside": self._beside,
            "plain": self._plain,
            "manifest": self._manifest,
        }
        if layout not in readers:
            raise ValueError(f"layout must be 'auto' or one of {list(readers)}, got {layout!r}.")
        if part != self.split and not self._has_parts(layout, part):
            raise self.missing(f"no part '{split}' (all images are the test part)")
        for record in readers[layout](part):
            for one in self._sliced(record):
                yield self._relabelled(one) if self.label_from_mask else one

    def _sliced(self, record: Record) -> Iterator[Record]:
        """Yield a record for each slice of a volume, with the same slice of its mask."""
        if self.slices is None:
            yield record
            return
        for part in expand_slices(record.image_path, self.slices):
            _, fragment = split(part)
            mask = record.mask_path
            if mask is not None and part != str(record.image_path):
                mask = Path(f"{split(mask)[0]}#{fragment}")
            yield Record(Path(part), record.class_name, record.label, mask, record.defect, record.box)

    def missing(self, what: str) -> DatasetNotFoundError:
        """Return the error for a folder without images, with the layouts that would do."""
        error = super().missing(what)
        return DatasetNotFoundError(
            f"{error}\nExpected image files, <class>/{self.split}/<kind>/*, images/ + masks/, or a manifest "
            "(.csv, .jsonl, meta.json)."
        )

    def _detect(self, split: str) -> str:
        if not self.root.is_dir():
            raise self.missing("no images")
        if self.manifest is not None or (self.root / "meta.json").is_file():
            return "manifest"
        if self._class_folders(split):
            return "tree"
        if child(self.root, "images") and child(self.root, "masks"):
            return "pairs"
        return "beside" if self.mask_extensions else "plain"

    def _has_parts(self, layout: str, split: str) -> bool:
        """Whether the layout tells parts apart; if not, every image would be in each of them."""
        return layout == "manifest" or (layout == "tree" and all(part for *_, part in self._class_folders(split)))

    def _class_folders(self, split: str) -> list[tuple[Path, str, str]]:
        """Return (folder, class name, split folder or ``""``) of each class of a tree; empty if it is none."""
        below = folders_in(self.root)
        names = {folder.name for folder in below}
        if split in names:
            return [(self.root, self.class_name, split)]
        if {"train", "test"} & names:
            return []
        classes = [(folder, folder.name, split) for folder in below if (folder / split).is_dir()]
        if classes:
            return classes
        if self._has_normal(below):
            return [(self.root, self.class_name, "")]
        kinds = {folder: folders_in(folder) for folder in below}
        return [(folder, folder.name, "") for folder in below if self._has_normal(kinds[folder])]

    def _has_normal(self, folders: Sequence[Path]) -> bool:
        return any(folder.name.lower() in self.normal_dirs and images_in(folder) for folder in folders)

    def _tree(self, split: str) -> Iterator[Record]:
        classes = self._class_folders(split)
        if not classes:
            raise self.missing(f"no folders [<class>/]{split}/<kind>")
        for folder, name, part in classes:
            yield from mvtec_class(folder, name, part, self.normal_dirs, self.mask_suffixes, require_masks=False)

    def _pairs(self, split: str) -> Iterator[Record]:
        images, masks = child(self.root, "images"), child(self.root, "masks")
        if images is None or masks is None:
            raise self.missing("no folders 'images' and 'masks'")
        yield from flat_pair(images, masks, self.class_name, self.mask_suffixes)

    def _beside(self, split: str) -> Iterator[Record]:
        if not self.mask_extensions and "" in self.mask_suffixes:
            raise ValueError(
                "layout='beside' with an empty mask suffix needs mask_extensions, to tell masks from images; "
                f"got mask_suffixes={list(self.mask_suffixes)}, mask_extensions=None."
            )
        groups: dict[Path, list[Path]] = {}
        for path in list_images([self.root]):
            groups.setdefault(path.parent, []).append(path)
        for folder, files in groups.items():
            masks = self._masks_among(files)
            images = [path for path in files if path not in masks]
            pairs = pair([image for image in images if image in masks.values()], masks, self.mask_suffixes)
            parts = folder.relative_to(self.root).parts
            normal = any(part.lower() in self.normal_dirs for part in parts)
            for image in images:
                label = 0 if normal or image not in pairs else 1
                yield Record(image, self.class_name, label, pairs.get(image), parts[0] if parts else "")

    def _masks_among(self, files: Sequence[Path]) -> dict[Path, Path]:
        """Return mask -> image of the files of one folder."""
        by_stem: dict[str, list[Path]] = {}
        for path in files:
            by_stem.setdefault(stem(path), []).append(path)
        masks = {}
        for path in files:
            if self.mask_extensions and extension(path.name).lower() not in self.mask_extensions:
                continue
            own = stem(path)
            for suffix in self.mask_suffixes:
                if own.lower().endswith(suffix.lower()):
                    owners = by_stem.get(own[: len(own) - len(suffix)], [])
                    image = next((one for one in owners if one != path and (suffix or not self._may_mask(one))), None)
                    if image is not None:
                        masks[path] = image
                        break
        return masks

    def _may_mask(self, path: Path) -> bool:
        return bool(self.mask_extensions) and extension(path.name).lower() in (self.mask_extensions or ())

    def _plain(self, split: str) -> Iterator[Record]:
        if not self.root.is_dir():
            raise self.missing("no images")
        yield from (Record(path, self.class_name) for path in list_images([self.root]))

    def _manifest(self, split: str) -> Iterator[Record]:
        path = self.manifest or self.root / "meta.json"
        yield from read_manifest(path, self.root, split, self.class_name, self.strict)

    def _relabelled(self, record: Record) -> Record:
        label = record.label
        if record.mask_path is not None:
            label = int(load_mask(record.mask_path, self.mask_threshold).any())
        return Record(record.image_path, record.class_name, label, record.mask_path, record.defect, record.box)

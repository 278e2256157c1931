"""Regions for other tools: COCO and Label Studio as JSON, CVAT as XML, masks as pictures.

All coordinates are those of the upright picture that was scored; a file with an orientation note in its EXIF data is
turned.
"""

import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zsad.decision.regions import Region

FORMATS = ("coco", "labelstudio", "cvat", "masks")
Format = Literal["coco", "labelstudio", "cvat", "masks"]

UPRIGHT = "Coordinates are those of the upright picture: where a file's EXIF data says so, it was turned before."


@dataclass(frozen=True)
class Found:
    """One image and its regions."""

    path: str
    width: int
    height: int
    class_name: str
    regions: Sequence[Region]
    score: float | None = None


def export(images: Iterable[Found], format: Format, out: Path, model_version: str = "", url_prefix: str = "") -> Path:
    """Write the regions of a run for another tool.

    Args:
        images: In any order; their names are their paths below the folder that they share.
        format: One of :data:`FORMATS`.
        out: File to write; a folder for masks.
        model_version: Hash of the card.
        url_prefix: What Label Studio finds the images under, e.g. ``/data/local-files/?d=photos/``.

    Returns:
        What was written.

    Raises:
        ValueError: The format is unknown, or two images would get one mask.
    """
    if format not in FORMATS:
        raise ValueError(f"The format must be one of {', '.join(FORMATS)}, got '{format}'.")
    found = list(images)
    names = shared_names([one.path for one in found])
    if format == "masks":
        return _masks(found, names, out)
    if format == "coco":
        text = json.dumps(coco(found, names, model_version), indent=1)
    elif format == "labelstudio":
        text = json.dumps(label_studio(found, names, model_version, url_prefix), indent=1)
    else:
        text = cvat(found, names)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(out)
    return out


def shared_names(paths: Sequence[str]) -> list[str]:
    """Return the paths below the folder that all of them share, with forward slashes."""
    if not paths:
        return []
    whole = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [PurePath(os.path.relpath(path, root)).as_posix() for path in whole]


def coco(images: Sequence[Found], names: Sequence[str], model_version: str = "") -> dict[str, Any]:
    """Return COCO's dictionary: one category per class; regions with holes as run lengths, since polygons have none."""
    classes = sorted({one.class_name for one in images})
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(images, start=1):
        for region in one.regions:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.index(one.class_name) + 1,
                    "bbox": list(region.box),
                    "area": region.area,
                    "segmentation": _segmentation(region, one.height, one.width),
                    "iscrowd": int(len(region.rings) > 1),  # COCO's sign of run lengths
                    "score": region.score,
                }
            )
    return {
        "info": {"description": f"Anomalous regions found by zsad. {UPRIGHT}", "version": model_version},
        "licenses": [],
        "images": [
            {"id": number, "file_name": name, "width": one.width, "height": one.height}
            for number, (one, name) in enumerate(zip(images, names, strict=True), start=1)
        ],
        "categories": [
            {"id": number, "name": name, "supercategory": "anomaly"} for number, name in enumerate(classes, start=1)
        ],
        "annotations": annotations,
    }


def label_studio(
    images: Sequence[Found], names: Sequence[str], model_version: str = "", url_prefix: str = ""
) -> list[dict[str, Any]]:
    """Return Label Studio's tasks with predictions: polygons in per cent of the picture, outlines only."""
    return [
        {
            "data": {"image": f"{url_prefix}{name}"},
            "predictions": [
                {
                    "model_version": model_version,
                    "score": one.score,
                    "result": [
                        {
                            "id": f"{number}-{place}",
                            "type": "polygonlabels",
                            "from_name": "label",
                            "to_name": "image",
                            "original_width": one.width,
                            "original_height": one.height,
                            "image_rotation": 0,
                            "score": region.score,
                            "value": {
                                "points": [[100 * x / one.width, 100 * y / one.height] for x, y in region.rings[0]],
                                "closed": True,
                                "polygonlabels": [one.class_name],
                            },
                        }
                        for place, region in enumerate(one.regions, start=1)
                    ],
                }
            ],
        }
        for number, (one, name) in enumerate(zip(images, names, strict=True), start=1)
    ]


def cvat(images: Sequence[Found], names: Sequence[str]) -> str:
    """Return CVAT's XML "for images 1.1": outlines only."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    root.append(ElementTree.Comment(f" {UPRIGHT} "))
    for number, (one, name) in enumerate(zip(images, names, strict=True)):
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=_xml(name), width=str(one.width), height=str(one.height)
        )
        for region in one.regions:
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in region.rings[0])
            ElementTree.SubElement(
                image, "polygon", label=_xml(one.class_name), source="auto", occluded="0", points=points, z_order="0"
            )
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False)


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return COCO's uncompressed run lengths of a mask: column by column, the first run counts zeros."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False, append=not bool(flat[-1]) if flat.size else True))
    counts = np.diff(changes, prepend=0).tolist()
    return {"counts": counts, "size": list(mask.shape)}


def _segmentation(region: Region, height: int, width: int) -> Any:
    if len(region.rings) == 1:
        return [[round(value, 2) for corner in region.rings[0] for value in corner]]
    return run_lengths(region.mask(height, width))


def _masks(images: Sequence[Found], names: Sequence[str], out: Path) -> Path:
    from PIL import Image

    targets = [out / PurePath(name).with_suffix(".png") for name in names]
    twice = {str(target).lower() for target in targets}
    if len(twice) != len(targets):
        seen: set[str] = set()
        same = next(name for name in map(str, targets) if name.lower() in seen or seen.add(name.lower()))  # type: ignore[func-returns-value]
        raise ValueError(f"Two images would get the mask '{same}': their names differ in the ending only.")
    for one, target in zip(images, targets, strict=True):
        mask = np.zeros((one.height, one.width), dtype=np.uint8)
        for region in one.regions:
            mask[region.mask(one.height, one.width)] = 255
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(target)
    return out


def _xml(text: str) -> str:
    """Text without what XML cannot hold."""
    return "".join(char for char in text if char in "\t\n\r" or (ord(char) >= 32 and not 0xD800 <= ord(char) <= 0xDFFF))

"""A large image of a data set through a method: its tiles pass by pass, its map and score made of theirs."""

from typing import Any, cast

import torch
from torch import Tensor

from zsad.images.tiling import Box, Merge, Tiles, named
from zsad.types import Batch, Prediction


def predict_tiles(method: Any, batch: Batch, most: int = 8) -> Prediction:
    """Return the map (1, height, width), of the mask's size, and the score (1,) of an image that comes in tiles.

    Args:
        method: A :class:`~zsad.methods.Method` in eval mode.
        batch: One image, with ``tiles``, ``tile_box`` and ``source_size``.
        most: Tiles per pass.

    Raises:
        ValueError: The method compares whole pictures with each other.
        TestedReferenceError: The image is one of the references.
    """
    if method.transductive:
        raise ValueError(
            f"{type(method).__name__} compares each part of a picture with those of the other pictures: test it "
            f"without tiles."
        )
    tiles = Tiles(**batch["tiles"])
    image, path, name = batch["image"][0], batch["image_path"][0], batch["class_name"][0]
    height, width = (int(side) for side in batch["source_size"][0])
    boxes = [cast(Box, tuple(box)) for box in batch["tile_box"][0].tolist()]
    whole = (0, 0, width, height)
    if boxes[0] == whole:
        method.refuse_references(image[:1], [path])
    if boxes == [whole]:
        return cast(Prediction, method(image, [name], [path]))
    size = tiles.map_size((height, width), method.protocol.size)
    merges = [Merge(tiles, (height, width), size)]
    if tiles.score == "map" and size != (height, width):
        merges.append(Merge(tiles, (height, width), (height, width)))
    scores: list[float] = []
    for start in range(0, len(boxes), most):
        parts = boxes[start : start + most]
        paths = [path if box == whole else named(path, box) for box in parts]
        found = method(image[start : start + most], [name] * len(parts), paths)
        maps = found.anomaly_map.float().cpu().numpy()
        scores += found.pred_score.tolist()
        for box, anomaly_map in zip(parts, maps, strict=True):
            for merge in merges:
                merge.add(box, anomaly_map)
    score = merges[-1].maximum if tiles.score == "map" else tiles.score_of(scores)
    return Prediction(
        torch.from_numpy(merges[0].map)[None].to(image.device), torch.tensor([score], device=image.device)
    )


def as_batch(sample: dict[str, Any], device: torch.device) -> Batch:
    """Return one sample of a data set as a batch on a device."""
    batch = {key: value[None].to(device) if isinstance(value, Tensor) else [value] for key, value in sample.items()}
    if "tile_box" in sample:
        batch["tiles"] = sample["tiles"]
    return cast(Batch, batch)

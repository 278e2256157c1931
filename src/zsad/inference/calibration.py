"""Cards from images: scores of normal images, and of labelled ones, become a calibration."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zsad import __version__
from zsad.decision import Card
from zsad.decision.entry import RegionRule
from zsad.decision.entry import calibrate as entry_of
from zsad.decision.grouping import one_per_group, split
from zsad.decision.regions import area_in_pixels, largest_area
from zsad.decision.rules import Rule
from zsad.images import list_images, load_rgb
from zsad.images.where import told
from zsad.inference.identity import reference_paths
from zsad.inference.inputs import pixel_digest
from zsad.inference.result import Result
from zsad.methods.musc import Transductive

Regions = Literal["max", "area"]

_GRID = 256
"""Longest side of the grid of a map's pixels that a quantile looks at."""


@dataclass(frozen=True)
class Seen:
    """What a calibration keeps of one image."""

    path: str
    score: float
    peak: float
    """Largest value of the map."""
    area: int
    """Number of pixels of the largest region above the threshold that was given; 0 without one."""
    digest: str
    """Of the pixels."""
    where: Mapping[str, str | None] | None = None
    """Where was looked, see :meth:`zsad.images.where.Where.identity`."""

    @classmethod
    def of(cls, result: Result, pixel_threshold: float | None = None) -> "Seen":
        """Return what is kept of a result at the image's own size.

        Raises:
            ValueError: The image could not be read.
        """
        if result.error is not None:
            raise ValueError(f"A calibration needs readable images: {result.error}")
        area = 0 if pixel_threshold is None else largest_area(result.anomaly_map, pixel_threshold)
        peak = float(result.anomaly_map.max())
        return cls(
            str(result.image_path or ""), result.pred_score, peak, area, pixel_digest(result.image), result.where
        )


def calibrate(
    predictor: Any,
    images: Any,
    class_name: str = "object",
    *,
    alpha: float = 0.05,
    rule: str | None = None,
    sure: float | None = None,
    anomalous: Any = (),
    prevalence: float | None = None,
    regions: Regions | bool = False,
    pixel_threshold: float | None = None,
    min_area: float = 0,
    mm_per_pixel: float | None = None,
    group_by: str | None = None,
    split: float | None = None,
    seed: int = 0,
    pooled: bool = False,
) -> Card:
    """Return a card of one class.

    Args:
        predictor: A :class:`~zsad.Predictor`.
        images: Many normal images as for :meth:`~zsad.Predictor.predict`; none of them a reference of the method.
        class_name: What they show.
        alpha: Share of false alarms among normal images, on average.
        rule: ``"far=0.05"`` in place of ``alpha``, or a rule of labelled images: see :class:`zsad.decision.rules.Rule`.
        sure: Confidence that the rate is at most alpha, e.g. 0.95, which needs more images.
        anomalous: Many anomalous images.
        prevalence: Share of anomalous images in production, if known.
        regions: Whether regions are calibrated: True or ``"max"`` by the largest value of each normal map, ``"area"``
            by the largest area above ``pixel_threshold``.
        pixel_threshold: For ``"area"``; not chosen by looking at these images, see :func:`pixel_quantile`.
        min_area: Least area of a region, for ``"max"``: in pixels, or in square millimetres with ``mm_per_pixel``.
        mm_per_pixel: Length of a pixel's side; kept in the card.
        group_by: Regular expression that finds a part's name in a path: one photo of each part is taken.
        split: Share of the images, which are then paths, that become references of the method, or its panel, before
            the others calibrate it; for who has few images in all.
        seed: Of these choices and of held-out estimates.
        pooled: Whether the card serves other classes as well, for which it promises nothing.

    Raises:
        TooFewImagesError: The rule needs more images.
        ValueError: An image cannot be read, occurs twice, or is a reference of the method.
    """
    before, predictor.calibration = predictor.calibration, None
    try:
        given = images if group_by is None else one_per_group(as_paths(images), group_by, seed)
        if split is not None:
            given = share_out(predictor, as_paths(given), class_name, split, seed)
        good = [Seen.of(one, pixel_threshold) for one in predictor.predict(given, class_name)]
        bad = [Seen.of(one, pixel_threshold) for one in predictor.predict(anomalous, class_name)]
    finally:
        predictor.calibration = before
    return card_of(
        predictor, good, class_name, rule or f"far={alpha!r}", sure=sure, anomalous=bad, prevalence=prevalence,
        regions="max" if regions is True else regions or None, pixel_threshold=pixel_threshold, min_area=min_area,
        mm_per_pixel=mm_per_pixel,
        groups=None if group_by is None else {"pattern": group_by, "seed": seed}, seed=seed, pooled=pooled,
    )  # fmt: skip


def card_of(
    predictor: Any,
    good: Sequence[Seen],
    class_name: str,
    rule: str,
    *,
    sure: float | None = None,
    anomalous: Sequence[Seen] = (),
    prevalence: float | None = None,
    regions: Regions | None = None,
    pixel_threshold: float | None = None,
    min_area: float = 0,
    mm_per_pixel: float | None = None,
    groups: dict[str, Any] | None = None,
    seed: int = 0,
    pooled: bool = False,
    what: str = "the folder",
) -> Card:
    """Return the card of images that were seen; arguments and errors as for :func:`calibrate`."""
    method = getattr(predictor, "method", None)  # an exported folder has none, and refuses its references by itself
    if isinstance(method, Transductive):
        _refuse_panel(method, class_name, good)
    if method is not None:
        refuse_references(method, class_name, [one.path for one in good if one.path])
    refuse_twice(good)
    chosen = Rule.read(rule)
    if chosen.name == "any" and regions is None:
        regions = "max"
    region_rule = None
    if regions is not None:
        peaks, areas = [one.peak for one in good], [one.area for one in good]
        alpha = (chosen.value or 0.05) / 2 if chosen.name == "any" else chosen.value if chosen.name == "far" else 0.05
        if regions == "max":
            least = round(min_area) if mm_per_pixel is None else area_in_pixels(min_area, mm_per_pixel)
            region_rule = RegionRule.of_maxima(peaks, alpha or 0.05, least, what)
        elif min_area:
            raise ValueError(f"min_area={min_area:g} beside regions by area: there the least area is what comes out.")
        elif pixel_threshold is None:
            raise ValueError("Regions by area need a pixel threshold that was not chosen by looking at these images.")
        else:
            region_rule = RegionRule.of_areas(areas, peaks, pixel_threshold, alpha or 0.05, what)
        region_rule = replace(region_rule, mm_per_pixel=mm_per_pixel)
    entry = entry_of(
        [one.score for one in good], chosen, sure=sure,
        anomalous=np.asarray([one.score for one in anomalous], dtype=np.float32), prevalence=prevalence,
        image_digests=[one.digest for one in good], groups=groups, regions=region_rule, what=what, seed=seed,
    )  # fmt: skip
    entry = replace(entry, where=_one_place(good, class_name))
    own = predictor.identity(class_name)
    protocol = own.pop("protocol")
    return Card(
        own,
        protocol,
        {class_name: entry},
        pooled,
        datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        __version__,
        licence_notice=str(predictor.licence_notice or "") or None,
    )


def _one_place(good: Sequence[Seen], class_name: str) -> Mapping[str, str | None] | None:
    first = good[0]
    other = next((one for one in good if one.where != first.where), None)
    if other is None:
        return first.where
    raise ValueError(
        f"'{first.path}' is looked at in {told(first.where)}, '{other.path}' in {told(other.where)}: the card of "
        f"'{class_name}' needs one region of interest and one mask for all of them, or a class name for each."
    )


def pixel_quantile(results: Iterable[Result], share: float, apart: Iterable[str] = ()) -> float:
    """Return the value that a share of the pixels of normal maps lies below.

    Each map gives at most 256 x 256 of its values, evenly spaced.

    Args:
        results: At least one, at the images' own size, of normal images that are *not* those that calibrate.
        share: Such as 0.999.
        apart: Images that calibrate; none of the results may show one of them.

    Raises:
        ValueError: The share is not between 0 and 1, there is no image, or one calibrates as well.
    """
    if not 0 < share < 1:
        raise ValueError(f"A pixel quantile must be between 0 and 1, got {share:g}.")
    own = {pixel_digest(load_rgb(path)): path for path in apart}
    values = []
    for result in results:
        seen = Seen.of(result)
        if seen.digest in own:
            raise ValueError(
                f"'{seen.path}' gives the pixel threshold and '{own[seen.digest]}', the same picture, calibrates the "
                f"area above it: take other good images for one of them."
            )
        rows, columns = (
            np.linspace(0, side - 1, min(side, _GRID)).round().astype(int) for side in result.anomaly_map.shape
        )
        values.append(result.anomaly_map[np.ix_(rows, columns)].ravel())
    if not values:
        raise ValueError("A pixel quantile needs at least one good image, got none.")
    return float(np.float32(np.quantile(np.concatenate(values), share)))


def share_out(predictor: Any, paths: Sequence[str], class_name: str, share: float, seed: int) -> list[str]:
    """Give a method a share of the images as its references, or as its panel, and return the others."""
    first, others = split(paths, share, seed)
    if isinstance(predictor.method, Transductive):
        predictor.fit_panel(first, class_name)
    else:
        predictor.fit_references(class_name, first)
    return others


def refuse_references(method: Any, class_name: str, paths: Iterable[str]) -> None:
    """Raise if an image is a reference of the method as well: scores of images that it has seen are lower.

    Args:
        method: Loaded.
        class_name: Class whose references count.
        paths: Images that are to calibrate.

    Raises:
        ValueError: It names both files.
    """
    own = {pixel_digest(load_rgb(path, method.reading)): path for path in reference_paths(method, class_name)}
    if not own:
        return
    for path in paths:
        if (digest := pixel_digest(load_rgb(path, method.reading))) in own:
            raise ValueError(
                f"'{path}' is also a reference image of the method, '{own[digest]}': images that the method has seen "
                f"cannot calibrate it. Keep references and calibration images apart."
            )


def _refuse_panel(method: Transductive, class_name: str, seen: Iterable[Seen]) -> None:
    panel = method.memory.get(class_name)
    if panel is None or panel.drawn:
        raise ValueError(
            f"{type(method).__name__} draws its panel from the images that it scores, and such scores promise nothing: "
            f"give a saved panel of other good images (panel=FILE), to calibrate and to score."
        )
    for one in seen:
        key = (
            panel.holds_pixels(method.digest(method.parts_of(load_rgb(one.path, method.reading))[0]))
            if one.path
            else None
        )
        if key is not None:
            raise ValueError(
                f"'{one.path}' is also in the panel, as '{key}': images that the method has seen cannot calibrate it. "
                f"Keep the panel and the calibration images apart."
            )


def refuse_twice(seen: Sequence[Seen]) -> None:
    """Raise if an image occurs twice, since its second score is no new witness.

    Raises:
        ValueError: It names both files.
    """
    first: dict[tuple[str, float], str] = {}
    for one in seen:
        other = first.setdefault((one.digest, one.score), one.path)
        if other != one.path:
            raise ValueError(f"'{one.path}' and '{other}' are the same picture: calibrate with one of them.")


def as_paths(images: Any) -> list[str]:
    """Return the paths of a folder, or of a list of files and folders."""
    return [str(path) for path in list_images([images] if isinstance(images, (str, Path)) else images)]

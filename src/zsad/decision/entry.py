"""What a card knows of one class: its calibration, its rule, its regions, and what they say of a score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.decision.conformal import Calibration, k_for, rate_upper, sure_k
from zsad.decision.rules import Rule, choose, figures, held_out

_SURE = 0.95


class Decision(NamedTuple):
    """What a calibration says of one score."""

    label: int
    """1 anomalous, 0 normal."""
    p_value: float
    """Share of normal images that score at least as high, this one counted among them."""
    p_upper: float
    """The rate at which normal images score as high is below this, 95 % sure."""
    alarm_rate: float | None
    """Share of normal images that alarm by this rule, on average; None where it is not known."""


@dataclass(frozen=True, eq=False)
class RegionRule:
    """From which value on a pixel belongs to a region, and which regions count.

    Args:
        kind: ``"max"``: the threshold comes from the largest value of each normal map. ``"area"``: the threshold was
            given, and the least area comes from the largest area above it in each normal map.
        alpha: Share of normal images that show a region, on average.
        k: Greatest rank that counts.
        pixel_threshold: A pixel belongs to a region if its value is at least this.
        min_area: Least area in pixels of the image.
        maxima: Largest value of each normal map.
        areas: Largest area above the threshold in each normal map, for ``"area"``.
        mm_per_pixel: Length of a pixel's side, if areas were asked for in square millimetres.
    """

    kind: Literal["max", "area"]
    alpha: float
    k: int
    pixel_threshold: float
    min_area: int
    maxima: Calibration
    areas: Calibration | None = None
    mm_per_pixel: float | None = None

    @classmethod
    def of_maxima(cls, maxima: ArrayLike, alpha: float, min_area: int = 0, what: str = "the folder") -> "RegionRule":
        """Return the rule by which a normal image shows no region with a probability of at least ``1 - alpha``."""
        calibration = Calibration.of(maxima)
        k = k_for(alpha, calibration.n, what)
        return cls("max", alpha, k, calibration.threshold(k), min_area, calibration)

    @classmethod
    def of_areas(
        cls, areas: ArrayLike, maxima: ArrayLike, pixel_threshold: float, alpha: float, what: str = "the folder"
    ) -> "RegionRule":
        """Return the rule of a given threshold: the least area has the same promise.

        Args:
            areas: (n,) largest area in pixels above the threshold in each normal map, 0 where there is none.
            maxima: (n,) largest value of each normal map.
            pixel_threshold: Given; not chosen by looking at these images.
            alpha: Share of normal images that show a region, on average.
            what: Where the images come from, for messages.
        """
        calibration = Calibration.of(areas)
        k = k_for(alpha, calibration.n, what)
        largest = int(np.floor(calibration.threshold(k)))  # the float after a whole number: alarm above that number
        return cls("area", alpha, k, pixel_threshold, largest + 1, Calibration.of(maxima), calibration)

    def p_value(self, peak: float, area: int) -> float:
        """Return the share of normal images with a region like this: of such a maximum, or of such an area."""
        return float((self.areas or self.maxima).p_values(area if self.areas else peak))


@dataclass(frozen=True, eq=False)
class ClassEntry:
    """What a card knows of one class.

    Args:
        calibration: Scores of normal images.
        rule: How the threshold was chosen.
        delta: 1 - ``sure`` of the tolerance rule; None without it.
        k: Greatest rank that alarms; None for the rules with labelled images.
        threshold: A score alarms from here on.
        rate: Mean share of normal images that alarm, and the bound that holds in 95 % of calibrations; None if not
            known.
        p_upper: Bound of each number of kept scores below a score, (kept + 1,).
        image_digests: Short hashes of the calibration images' pixels, sorted; nothing else of the images is kept.
        groups: How one photo per part was taken.
        where: Region of interest, as text, and hash of the mask of what does not count; None for whole pictures.
        anomalous: Numbers of the labelled images and what the rule does to them, in sample and held out.
        regions: None if maps were not calibrated.
    """

    calibration: Calibration
    rule: Rule
    delta: float | None
    k: int | None
    threshold: float
    rate: tuple[float | None, float | None]
    p_upper: NDArray[np.float64]
    image_digests: tuple[str, ...] = ()
    groups: Mapping[str, Any] | None = None
    anomalous: Mapping[str, Any] | None = field(default=None)
    regions: RegionRule | None = None
    where: Mapping[str, str | None] | None = None

    @property
    def alpha(self) -> float | None:
        """Share of false alarms that was asked for; None for the rules with labelled images."""
        return self.rule.value if self.rule.name in ("far", "any") else None

    @property
    def gap(self) -> float:
        """Distance from the score at the threshold to the nearest other calibration score; infinite without one."""
        scores = self.calibration.scores.astype(np.float64)
        below = int(np.searchsorted(self.calibration.scores, np.float32(self.threshold), side="left"))
        own = self.threshold if self.k is None else scores[below - 1]  # the threshold is the next float above it
        others = scores if self.k is None else np.delete(scores, below - 1)
        return float(np.abs(others - own).min()) if len(others) else float("inf")

    def label(self, score: float, n_regions: int = 0) -> int:
        """Return 1 if a score alarms: by its rank, in whole numbers, or by the threshold of the labelled images.

        Args:
            score: Finite.
            n_regions: Regions found, which alarm as well by the rule ``any``.
        """
        if self.rule.name == "any" and n_regions:
            return 1
        if self.k is not None:
            return int(self.calibration.ranks(score) <= self.k)
        return int(np.float32(score) >= np.float32(self.threshold))

    def decide(self, score: float, n_regions: int = 0) -> Decision:
        """Return everything that the calibration says of a score."""
        below = int(np.searchsorted(self.calibration.scores, np.float32(score), side="left"))
        p_value = float(self.calibration.p_values(score))
        return Decision(self.label(score, n_regions), p_value, float(self.p_upper[below]), self.rate[0])


def calibrate(
    normal: ArrayLike,
    rule: Rule,
    *,
    sure: float | None = None,
    anomalous: Sequence[float] | NDArray[np.float32] = (),
    prevalence: float | None = None,
    image_digests: Sequence[str] = (),
    groups: Mapping[str, Any] | None = None,
    regions: RegionRule | None = None,
    what: str = "the folder",
    seed: int = 0,
) -> ClassEntry:
    """Return the entry of a class from the scores of its images.

    Args:
        normal: (n0,) scores of normal images, in any order.
        rule: How the threshold is chosen.
        sure: Confidence of the tolerance rule, with ``far`` only.
        anomalous: (n1,) scores of anomalous images.
        prevalence: Share of anomalous images in production, if known.
        image_digests: Of the normal images.
        groups: How one photo per part was taken, to be kept.
        regions: Of the rule ``any`` at half its alpha.
        what: Where the images come from, for messages.
        seed: Of the held-out estimate.

    Raises:
        TooFewImagesError: The rule needs more images.
        ValueError: A score is not finite, or the arguments do not go together.
    """
    calibration = Calibration.of(normal)
    n = calibration.n
    if sure is not None and rule.name != "far":
        raise ValueError(f"sure={sure:g} goes with the rule far=ALPHA, not with {rule}.")
    if rule.name == "any" and regions is None:
        raise ValueError(f"The rule {rule} joins the image's score and its regions: calibrate regions as well.")
    k: int | None = None
    if rule.name in ("far", "any"):
        alpha = (rule.value or 0.05) / (2 if rule.name == "any" else 1)
        k = k_for(alpha, n, what) if sure is None else sure_k(alpha, sure, n, what)
        threshold = calibration.threshold(k)
        rate: tuple[float | None, float | None] = (k / (n + 1), float(rate_upper(k, n)))
        if rule.name == "any" and regions is not None:  # of the union: at most the sum
            more = regions.k / (regions.maxima.n + 1), float(rate_upper(regions.k, regions.maxima.n, 0.975))
            rate = (k / (n + 1) + more[0], min(1.0, float(rate_upper(k, n, 0.975)) + more[1]))
    else:
        threshold = choose(rule, normal, anomalous, prevalence)
        rank = int(calibration.ranks(threshold))
        rate = (rank / (n + 1), float(rate_upper(rank, n))) if rule.name == "recall" else (None, None)
    found: dict[str, Any] | None = None
    if len(anomalous):
        labelled = rule.name not in ("far", "any")
        outside = held_out(rule, normal, anomalous, prevalence, seed) if labelled else None
        if labelled and rule.name != "recall" and outside is not None:
            rate = (outside.far, None)
        found = {
            "n": len(anomalous),
            "prevalence": prevalence,
            "in_sample": figures(threshold, normal, anomalous, prevalence)._asdict(),
            "held_out": None if outside is None else outside._asdict(),
        }
    return ClassEntry(
        calibration, rule, None if sure is None else short(1 - sure), k, threshold, (short(rate[0]), short(rate[1])),
        np.array([short(value) for value in rate_upper(calibration.above, n, _SURE).tolist()]),
        tuple(sorted(image_digests)), groups, found, regions,
    )  # fmt: skip


@overload
def short(value: float) -> float: ...
@overload
def short(value: None) -> None: ...
def short(value: float | None) -> float | None:
    """Return a rate with the six digits that a card keeps."""
    return None if value is None else float(f"{value:.6g}")

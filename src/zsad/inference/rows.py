"""What is kept of one image, the same for every engine: columns of ``scores.csv``, keys of ``scores.jsonl``."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.inference.result import Result

FORMAT = 2
"""Of a folder of rows; ``settings.json`` says it."""

JSON_ONLY = ("regions", "explanation", "sop_instance", "where", "tiles")
"""Keys that only the JSON lines have, where there is something to say."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of one image; ``rows.schema.json`` beside this module is the same for other programs.

    Args:
        path: Of the image, as it was given or found.
        score: Larger is more anomalous; None if there is none.
        label: 1 or 0; None without a threshold or a score.
        error: What went wrong, in a sentence; None if all is well.
        class_name: What the image was taken for.
        warning: What makes the score doubtful, in a sentence.
        p_value: Of a calibration: share of normal images that score as high or higher.
        p_upper: Upper confidence bound of that share.
        alarm_rate: Mean share of normal images above the threshold.
        n_regions: Number of anomalous regions.
        width: Of the upright picture, in pixels.
        height: Of the upright picture, in pixels.
        bytes: Size of the file.
        mtime: When the file was last written, in seconds since 1970, to the microsecond.
        sha256: Digest of the file's content, if it was asked for.
        overlay: Heat map, below the run's folder, with forward slashes.
        map: Raw anomaly map, below the run's folder.
        regions: The anomalous regions; in the JSON lines only.
        explanation: Descriptors and their cosines, or the kind and the picture of another explanation; in the JSON
            lines only.
        sop_instance: SHA-256 of a DICOM file's SOP instance UID; in the JSON lines only. No other word of a header.
        where: Region of interest and hash of the mask of what does not count; in the JSON lines only.
        tiles: How the picture was cut, what its score is of those of its tiles, and their number; in the JSON lines
            only.
    """

    path: str
    score: float | None = None
    label: int | None = None
    error: str | None = None
    class_name: str | None = None
    warning: str | None = None
    p_value: float | None = None
    p_upper: float | None = None
    alarm_rate: float | None = None
    n_regions: int | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    mtime: float | None = None
    sha256: str | None = None
    overlay: str | None = None
    map: str | None = None
    regions: list[Any] | None = None
    explanation: Any = None
    sop_instance: str | None = None
    where: Mapping[str, Any] | None = None
    tiles: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, result: "Result", **more: Any) -> "Self":
        """Return the row of a result, with the score in nine digits, which are single precision exactly.

        Hence a label that is given later is the label that would have been given at once.

        Args:
            result: Of one image.
            **more: What the result does not know, such as ``overlay``, and what is to be said differently.
        """
        known: dict[str, Any] = {
            "path": str(result.image_path),
            "score": float(f"{result.pred_score:.9g}") if math.isfinite(result.pred_score) else None,
            "label": result.pred_label,
            "error": result.error,
            "class_name": result.class_name,
            "warning": result.warning,
            "width": result.source_size[1] if result.source_size else None,
            "height": result.source_size[0] if result.source_size else None,
            "n_regions": result.n_regions,
            "regions": [one.to_json() for one in result.regions()] if result.n_regions else None,
            "explanation": _plain(result.explanation),
            "where": result.where,
            "tiles": result.tiles,
        }
        if (decision := result.decision) is not None:
            known |= {name: getattr(decision, name) for name in ("p_value", "p_upper", "alarm_rate")}
        if result.file is not None:
            known |= asdict(result.file)
        return cls(**{**known, **more})

    @classmethod
    def read(cls, line: str) -> "Self":
        """Return the row of a JSON line; keys that it lacks are None, keys that nobody knows are passed over.

        Raises:
            ValueError: The line is no row.
        """
        values = json.loads(line, parse_constant=_no_constant)
        if not isinstance(values, Mapping) or not isinstance(values.get("path"), str):
            raise ValueError("A row is an object with a path.")
        row = cls(**{name: values[name] for name in NAMES if name in values})
        row.check()
        return row

    def check(self) -> None:
        """Raise unless the numbers that others compute with are what they should be.

        Raises:
            ValueError: A score is no finite number, a label neither 0 nor 1, or a text none.
        """
        for name in ("score", "p_value", "mtime"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not number:
                raise ValueError(f"The {name} of a row must be a finite number or null, got {value!r}.")
        if self.label not in (None, 0, 1) or isinstance(self.label, bool):
            raise ValueError(f"The label of a row must be 0, 1 or null, got {self.label!r}.")
        for name in ("error", "class_name", "warning", "overlay", "map", "sha256"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise ValueError(f"The {name} of a row must be a text or null, got {getattr(self, name)!r}.")

    def line(self) -> str:
        """Return the row as one line of strict JSON: no NaN, no infinity.

        Raises:
            ValueError: A number is not finite.
        """
        values = {name: getattr(self, name) for name in (*COLUMNS, *JSON_ONLY)}
        shown = {name: value for name, value in values.items() if name not in JSON_ONLY or value is not None}
        return json.dumps(shown, allow_nan=False) + "\n"

    def cells(self) -> list[str | float | None]:
        """Return the row's cells in the order of :data:`COLUMNS`."""
        return [getattr(self, name) for name in COLUMNS]


NAMES = tuple(field.name for field in fields(Row))
COLUMNS = (
    *("path", "class_name", "score", "label", "error", "warning", "p_value", "p_upper", "alarm_rate", "n_regions"),
    *("width", "height", "bytes", "mtime", "sha256", "overlay", "map"),
)
"""The columns of the CSV file, in this order."""


def _plain(explanation: tuple[tuple[str, float], ...] | Mapping[str, str]) -> Any:
    if isinstance(explanation, Mapping):
        return dict(explanation)
    return [[text, round(cosine, 6)] for text, cosine in explanation] or None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON.")

"""Weights in eight bits, and the report of what that changes: not a proof, since it changes something."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.decision.card import Card
from zsad.deploy.graph import ExportError
from zsad.deploy.verify import Comparison, VerificationError, flips

MAX_FLIPS = 0.01
"""Most labels, as a share, that may differ under a card."""

_LEAST_SAVING = 0.5  # a file that shrinks less was not quantised, whatever the tool says


def quantize(path: Path, products: Sequence[str]) -> None:
    """Replace an ONNX file by one whose products with the tower's weights are in eight bits, weights per channel.

    Args:
        path: The file.
        products: Names of the nodes: the image tower's; the head stays as it is.

    Raises:
        ExportError: A package is missing, or the file does not shrink to half.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ExportError("--quantize needs onnx and onnxruntime: pip install 'zsad[onnx]'.") from error
    before, part = _size(path), path.with_name(f"int8.{path.name}")
    external = _data(path).is_file()
    quantize_dynamic(
        path, part, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8,
        nodes_to_quantize=list(products), use_external_data_format=external,
        extra_options={"MatMulConstBOnly": True},
    )  # fmt: skip
    after = _size(part)
    if after > _LEAST_SAVING * before:
        raise ExportError(
            f"int8 made the file {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB: most of its weights are not those of "
            f"products in the image tower, so it would be no faster. Leave out --quantize."
        )
    _data(path).unlink(missing_ok=True)
    part.replace(path)  # a file of weights beside it keeps its name, which the graph knows


def report(
    seen: Comparison, card: Card | None = None, labels: Mapping[str, int] | None = None, max_flips: float = MAX_FLIPS
) -> dict[str, Any]:
    """Return what is different about the folder's scores and maps.

    Args:
        seen: By model and folder.
        card: Of the model: how many labels flip.
        labels: 0 or 1 of pictures by resolved path: AUROC before and after.
        max_flips: Share of labels that may flip.

    Raises:
        VerificationError: More flip.
    """
    scores, maps = seen.found[min(seen.found)]
    apart, wide = np.abs(scores - seen.scores), max(float(np.ptp(seen.scores)), 1e-12)
    found: dict[str, Any] = {
        "score": {
            "greatest": float(apart.max()),
            "mean": float(apart.mean()),
            "share_of_range": float(apart.max()) / wide,
        },
        "map": {"greatest": float(np.abs(maps - seen.maps).max()), "mean": float(np.abs(maps - seen.maps).mean())},
        "spearman_of_scores": _correlation(_ranks(seen.scores), _ranks(scores)),
        "correlation_of_maps": _correlation(seen.maps.ravel(), maps.ravel()),
    }
    if labels is not None:
        found["image_auroc"] = {"before": _auroc(seen, seen.scores, labels), "after": _auroc(seen, scores, labels)}
    if card is not None:
        changed = flips(seen, scores, card)
        judged = sum(card.pooled or name in card.classes for name in seen.classes)
        found["flips"] = {"number": len(changed), "of": judged}
        if len(changed) > max_flips * judged:
            worst = changed[int(np.argmax(apart[changed]))]
            raise VerificationError(
                f"{len(changed)} of {judged} labels under the card differ from the model's, more than "
                f"--max-flips {max_flips:g} allows; '{seen.names[worst]}' scores {scores[worst]:.6g} for "
                f"{seen.scores[worst]:.6g}. Calibrate the exported model by itself, or export without --quantize."
            )
    return found


def _auroc(seen: Comparison, scores: NDArray[np.float64], labels: Mapping[str, int]) -> float | None:
    """AUROC of the pictures with a label, None where one side is missing."""
    from scipy.stats import rankdata

    real = [os.path.realpath(name) for name in seen.names]
    known = [place for place, name in enumerate(real) if name in labels]
    truth = np.array([labels[real[place]] for place in known], dtype=bool)
    bad, good = int(truth.sum()), int((~truth).sum())
    if not bad or not good:
        return None
    return float((rankdata(scores[known])[truth].sum() - bad * (bad + 1) / 2) / (bad * good))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values))


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Pearson's correlation, None where something is constant."""
    if not np.ptp(a) or not np.ptp(b):
        return None
    return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])


def _data(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _size(path: Path) -> int:
    return path.stat().st_size + (_data(path).stat().st_size if _data(path).is_file() else 0)

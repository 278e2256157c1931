"""One folder that scores images without torch, written whole, with the proof that it says what the model says."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch

from zsad import __version__
from zsad.datamodules.manifest import read_manifest
from zsad.decision.card import Card
from zsad.deploy import verify as proofs
from zsad.deploy.folder import CARD, FORMAT, META, MODEL, PROGRAM, PROOF
from zsad.deploy.graph import UNBOUND, ExportError, Graph
from zsad.deploy.onnx_file import OPSET, trace, write_onnx
from zsad.deploy.quantize import MAX_FLIPS, quantize, report
from zsad.deploy.runtime import Runtime
from zsad.deploy.surroundings import write_surroundings
from zsad.inference.files import sha256
from zsad.inference.predictor import Predictor

Format = Literal["onnx", "pt2"]


@dataclass(frozen=True)
class Verification:
    """How the written folder is compared with the model.

    Args:
        pictures: Folder of images to add to sixteen generated ones.
        tolerance: Allowed difference of scores and maps, times their range where that is above 1; not for int8.
        labels: Manifest of which images are anomalous, for AUROC before and after int8.
        max_flips: Share of labels under a card that int8 may change.
    """

    pictures: str | Path | None = None
    tolerance: float = proofs.TOLERANCE
    labels: str | Path | None = None
    max_flips: float = MAX_FLIPS


@dataclass
class _Plan:
    predictor: Predictor
    names: list[str]
    form: Format
    quantized: bool
    card: Card | None
    meta: dict[str, Any] = field(default_factory=dict)


def export(
    predictor: Predictor,
    folder: str | Path,
    class_names: Sequence[str] = (UNBOUND,),
    *,
    format: Format = "onnx",
    quantize: Literal["int8"] | None = None,
    calibration: Card | str | Path | None = None,
    verify: Verification | None = Verification(),  # frozen
) -> Path:
    """Write a model as a folder that needs no torch, and return the folder.

    Args:
        predictor: On the CPU, in float32.
        folder: Must not exist, or be empty.
        class_names: What may be asked for; passed over by methods whose text does not depend on it.
        format: ``"onnx"``, or ``"pt2"`` for those who stay with torch.
        quantize: ``"int8"`` makes the weights of the tower's products eight bits, a third of the size.
        calibration: A card to lie in the folder, or, for int8, whose labels are counted that flip; None takes the
            predictor's.
        verify: How the folder is read back and compared with the model; None does not.

    Raises:
        ExportError: The method, or the method with these options, has no graph; or the folder is not empty.
        VerificationError: The folder differs from the model; it is kept with ``.failed`` behind its name.
        CardError: The card is of another model, or what the graph changes could move its threshold.
    """
    folder, method = Path(folder), predictor.method
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"'{folder}' is there already and not empty: take another name, or remove it.")
    if predictor.device.type != "cpu":
        raise ExportError(f"The model is on '{predictor.device}': load it with device='cpu' to export it.")
    if quantize is not None and format != "onnx":
        raise ExportError(f"quantize='{quantize}' is for format='onnx', not for '{format}'.")
    names = [UNBOUND] if method.class_agnostic else list(dict.fromkeys(class_names))
    if not names:
        raise ExportError("Name at least one class (--class-name).")
    card = predictor.calibration if calibration is None else predictor.check_card(Card.of(calibration))
    if card is not None and verify is None:
        raise ExportError("A card goes with a verified export only, since its threshold must not move: verify as well.")
    plan = _Plan(predictor, names, format, quantize is not None, card)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _fill(part, plan, verify)
    except proofs.VerificationError as error:
        failed = _rename(part, folder.with_name(f"{folder.name}.failed"))
        raise proofs.VerificationError(f"{error} The folder is kept as '{failed}'.") from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return _rename(part, folder)


def _fill(folder: Path, plan: _Plan, verify: Verification | None) -> None:
    program = trace(Graph(plan.predictor.method, plan.names))
    plan.meta = _describe(plan)
    if plan.form == "pt2":
        torch.export.save(program, folder / PROGRAM)
    else:
        plan.meta["cut"], products = write_onnx(program, folder / MODEL)
        if plan.quantized:
            quantize(folder / MODEL, products)
    write_surroundings(folder, plan.predictor.method, plan.meta)
    _write_meta(folder, plan.meta)
    if verify is not None:
        engine = "torch" if plan.form == "pt2" else "onnxruntime"
        found = {engine: _compare(folder, plan, engine, verify)}
        if plan.form == "onnx" and not plan.quantized and proofs.version("openvino") is not None:
            found["openvino"] = _compare_other(folder, plan, "openvino", verify)
        (folder / PROOF).write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if plan.card is not None and not plan.quantized:  # int8 moves scores: it needs a card of its own
        plan.card.save(folder / CARD)
    _write_meta(folder, plan.meta)
    Runtime(folder, "torch" if plan.form == "pt2" else "onnxruntime")  # takes the card, or says why not


def _compare(folder: Path, plan: _Plan, engine: str, verify: Verification) -> dict[str, Any]:
    """Read the folder back, compare, note the differences in meta, and return the content of the proof."""
    seen = proofs.compare(plan.predictor, Runtime(folder, engine), proofs.pictures_for(verify.pictures))
    if plan.quantized:
        labels = None if verify.labels is None else read_labels(verify.labels)
        outcome = report(seen, plan.card, labels, verify.max_flips)
    else:
        proofs.prove(seen, verify.tolerance, plan.card)
        outcome = {"tolerance": verify.tolerance}
    found = proofs.proof(seen, outcome)
    plan.meta["verification"][engine] = {**({} if plan.quantized else outcome), **found["difference"]}
    return found


def _compare_other(folder: Path, plan: _Plan, engine: str, verify: Verification) -> dict[str, Any]:
    """Do the same with an engine that the folder can do without: what goes wrong is noted."""
    try:
        return _compare(folder, plan, engine, verify)
    except Exception as error:  # an engine's compiler raises almost any type
        return {"failed": str(error)}


def read_labels(path: str | Path) -> dict[str, int]:
    """Return 0 or 1 of images by path, from a manifest; images without a label are left out."""
    records = read_manifest(Path(path), strict=False)
    return {os.path.realpath(one.image_path): one.label for one in records if one.label is not None}


def _describe(plan: _Plan) -> dict[str, Any]:
    predictor, method = plan.predictor, plan.predictor.method
    identities = {name: predictor.identity(name) for name in plan.names}
    own = identities[plan.names[0]]
    return {
        "format": FORMAT,
        "zsad": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {key: own[key] for key in own if key not in ("references", "runtime", "precision", "protocol")},
        "classes": plan.names,
        "class_agnostic": method.class_agnostic,
        "references_of": {name: one["references"] for name, one in identities.items()},
        "references": {name: method.memory.pictures(name) for name in plan.names},
        "protocol": own["protocol"],
        "sigma": method.sigma,
        "map_range": predictor.map_range,
        "precision": "int8" if plan.quantized else "32",
        "opset": OPSET if plan.form == "onnx" else None,
        "producer": {name: proofs.version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
        "score": "per image",
        "licence_notice": getattr(method, "licence_notice", None),
        "verification": {},
        "cut": [],
    }


def _write_meta(folder: Path, meta: dict[str, Any]) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / META]
    meta["files"] = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    (folder / META).write_text(json.dumps(meta, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _rename(part: Path, folder: Path) -> Path:
    if folder.is_dir() and (folder.name.endswith(".failed") or not any(folder.iterdir())):
        shutil.rmtree(folder)
    part.chmod(0o777 & ~_umask())  # a temporary folder is its owner's alone
    return part.replace(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""What runs an exported graph: ONNX Runtime, OpenVINO with its precision said aloud, or torch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zsad.deploy.folder import MODEL, PROGRAM

ENGINES = ("onnxruntime", "openvino", "torch")
"""What ``runtime`` may be; the first two run ``model.onnx``, torch runs ``model.pt2``."""

PRECISIONS = ("32", "bf16")
"""What ``precision`` may be; bf16 is the tower's alone, and OpenVINO's."""

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]


class EngineError(ValueError):
    """An engine is unknown or not installed, or cannot do what is asked."""


class Engine(Protocol):
    """A loaded graph."""

    def run(self, pixels: NDArray[np.uint8], class_index: NDArray[np.int64]) -> Outputs:
        """Return scores (batch,) and maps (batch, height, width)."""


def open_engine(
    name: str, folder: Path, meta: Mapping[str, Any], threads: int | None = None, precision: str = "32"
) -> Engine:
    """Return the graph in a folder, loaded.

    Args:
        name: One of :data:`ENGINES`.
        folder: Of an export.
        meta: Content of ``meta.json``.
        threads: Of one pass; None takes the cores that this process may use.
        precision: One of :data:`PRECISIONS`.

    Raises:
        EngineError: The engine is unknown or not installed, or cannot do this precision.
    """
    if name not in ENGINES:
        raise EngineError(f"runtime must be one of {', '.join(ENGINES)}, got '{name}'.")
    if precision not in PRECISIONS:
        raise EngineError(f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'.")
    if threads is not None and threads < 1:
        raise EngineError(f"threads must be at least 1, got {threads}.")
    path = folder / (PROGRAM if name == "torch" else MODEL)
    if not path.is_file():
        there, other = (MODEL, "onnxruntime or openvino") if name == "torch" else (PROGRAM, "torch")
        raise EngineError(f"'{folder}' holds {there} and no {path.name}: runtime '{name}' cannot run it, take {other}.")
    number = usable_cores() if threads is None else threads
    if name == "openvino":
        return OpenvinoEngine(path, meta, number, precision)
    if precision != "32":
        raise EngineError(f"precision '{precision}' is OpenVINO's: add runtime='openvino' (--runtime openvino).")
    return TorchEngine(path, number) if name == "torch" else OnnxEngine(path, number)


def usable_cores() -> int:
    """Return how many cores this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OnnxEngine:
    """ONNX Runtime, on CUDA if the installed package has it."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(
                "This needs ONNX Runtime: pip install onnxruntime, or pip install 'zsad[onnx]'."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        there = onnxruntime.get_available_providers()
        self.session = onnxruntime.InferenceSession(path, options, providers=[one for one in wanted if one in there])

    def run(self, pixels: NDArray[np.uint8], class_index: NDArray[np.int64]) -> Outputs:
        """Return scores (batch,) and maps (batch, height, width)."""
        score, anomaly_map = self.session.run(
            ["pred_score", "anomaly_map"], {"pixels": pixels, "class_index": class_index}
        )
        return score, anomaly_map


class TorchEngine:
    """A program of ``torch.export``, for those who stay with torch."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import torch
        except ImportError as error:
            raise EngineError("'model.pt2' needs torch: pip install torch, or export with --format onnx.") from error
        torch.set_num_threads(threads)
        self._torch: Any = torch
        self._program = torch.export.load(path).module()

    def run(self, pixels: NDArray[np.uint8], class_index: NDArray[np.int64]) -> Outputs:
        """Return scores (batch,) and maps (batch, height, width)."""
        with self._torch.inference_mode():
            score, anomaly_map = self._program(*map(self._torch.from_numpy, (pixels, class_index)))
        return score.numpy(), anomaly_map.numpy()


class OpenvinoEngine:
    """OpenVINO on the CPU, in float32 throughout; or, with bf16, the tower in that and the head in float32.

    Its own choice on CPUs with bfloat16 is to compute everything in it, without a word: AnoVL's maps then correlate
    with the true ones at .56, since its probabilities lie within .003 of .5.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any], threads: int, precision: str) -> None:
        try:
            import openvino
        except ImportError as error:
            raise EngineError("This needs OpenVINO: pip install openvino, or pip install 'zsad[openvino]'.") from error
        core = openvino.Core()
        whole = core.read_model(path)
        common = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self.cut: list[str] = []
        self.tower: Any = None
        if precision == "bf16":
            self.cut = list(meta["cut"])
            tower, whole = _parted(openvino, whole, self.cut)
            self.tower = core.compile_model(tower, "CPU", {**common, "INFERENCE_PRECISION_HINT": "bf16"})
        self.compiled = core.compile_model(whole, "CPU", {**common, "INFERENCE_PRECISION_HINT": "f32"})

    def run(self, pixels: NDArray[np.uint8], class_index: NDArray[np.int64]) -> Outputs:
        """Return scores (batch,) and maps (batch, height, width)."""
        given: dict[str, Any] = {"pixels": pixels, "class_index": class_index}
        if self.tower is not None:
            found = self.tower(given)
            given |= {name: found[place] for place, name in enumerate(self.cut)}
        found = self.compiled(given)
        return np.array(found["pred_score"]), np.array(found["anomaly_map"])


def _parted(openvino: Any, whole: Any, cut: list[str]) -> tuple[Any, Any]:
    """Return the graph up to some named values, and the graph from there on."""
    outputs = {name: port for node in whole.get_ops() for port in node.outputs() for name in port.get_names()}
    inputs = list(whole.get_parameters())
    tower = openvino.Model([outputs[name] for name in cut], inputs, "tower").clone()  # batch sizes are of either input
    for name in cut:
        port = outputs[name]
        value = openvino.opset13.parameter(port.get_partial_shape(), port.get_element_type(), name=name)
        for target in port.get_target_inputs():
            target.replace_source_output(value.output(0))
        value.output(0).set_names({name})
        inputs.append(value)
    return tower, openvino.Model(whole.get_results(), inputs, "head")

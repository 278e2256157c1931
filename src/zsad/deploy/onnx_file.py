"""A graph in an ONNX file: dynamic batch, weights as constants, and which of its nodes are the image tower."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsad.deploy.graph import ExportError, Graph

OPSET = 20
INPUTS, OUTPUTS = ("pixels", "class_index"), ("pred_score", "anomaly_map")
_EXTERNAL_FROM = 10**9  # bytes of weights; a protobuf ends at 2 GB
_TOWER = "clip.model.visual."


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """Return the graph with a batch of any size.

    Raises:
        ExportError: The method's code fixes the batch, or does what cannot be traced.
    """
    pixels = torch.zeros(2, 3, graph.size, graph.size, dtype=torch.uint8)  # a batch of 1 would be taken as constant
    dynamic = {0: torch.export.Dim("batch", min=1, max=2**20)}
    try:
        with torch.no_grad():
            return torch.export.export(
                graph.eval(), (pixels, torch.zeros(2, dtype=torch.int64)), dynamic_shapes=(dynamic, dynamic)
            )
    except Exception as error:  # torch's tracer raises almost any type
        name, said = type(graph.method).__name__, str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{name} cannot be traced: {said[0]}") from error


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> tuple[list[str], list[str]]:
    """Write a traced graph; return where its tower ends, see :func:`boundary`, and the products in the tower by name.

    Raises:
        ExportError: A package is missing.
    """
    try:
        import onnx_ir as ir
        import onnxscript  # noqa: F401  # torch's exporter writes with it
    except ImportError as error:
        raise ExportError("An ONNX file needs the packages onnx and onnxscript: pip install 'zsad[onnx]'.") from error
    with _quiet():
        exported: Any = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=INPUTS, output_names=OUTPUTS, verbose=False
        )
    model = exported.model
    fold_transposes(model.graph)
    for number, node in enumerate(model.graph):
        node.name = node.name or f"node_{number}"
    weights = sum(int(value.const_value.nbytes) for value in model.graph.initializers.values())
    external = f"{path.name}.data" if weights >= _EXTERNAL_FROM else None
    ir.save(model, path, external_data=external)
    products = [node.name for node in tower(model.graph) if node.op_type in ("MatMul", "Gemm")]
    return boundary(model.graph), products


def fold_transposes(graph: Any) -> int:
    """Replace each ``Transpose`` of a weight by the transposed weight; return how many.

    The exporter leaves one before every use of a weight that serves several passes (WinCLIP), and int8 is for products
    with constants only.
    """
    import onnx_ir as ir

    done: dict[tuple[str, tuple[int, ...]], Any] = {}
    for node in [one for one in graph if one.op_type == "Transpose"]:
        source = node.inputs[0]
        if source is None or source.name not in graph.initializers:
            continue
        order = tuple(node.attributes["perm"].as_ints())
        key = (source.name, order)
        if key not in done:
            values = np.ascontiguousarray(source.const_value.numpy().transpose(order))
            name = f"{source.name}.{'x'.join(map(str, order))}"
            new = ir.Value(name=name, const_value=ir.tensor(values, name=name))
            new.shape, new.type = ir.Shape(values.shape), source.type
            graph.initializers[name] = done[key] = new
        ir.convenience.replace_all_uses_with(node.outputs[0], done[key])
        graph.remove(node, safe=True)
    for name in {name for name, _ in done}:
        if not graph.initializers[name].uses():
            del graph.initializers[name]
    return len(done)


def tower(graph: Any) -> set[Any]:
    """Return the nodes on which a product with a weight of CLIP's image tower depends, those products among them."""
    todo = [node for node in graph if any(one is not None and _TOWER in (one.name or "") for one in node.inputs)]
    found: set[Any] = set()
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += [one.producer() for one in node.inputs if one is not None and one.producer() is not None]
    return found


def boundary(graph: Any) -> list[str]:
    """Return the values that the head takes from the tower, by name: there a runtime may change the precision."""
    inside = tower(graph)
    return [
        value.name
        for node in graph
        if node in inside
        for value in node.outputs
        if any(user not in inside for user, _ in value.uses())
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks about its own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)

"""Every method exports, or says why not; the proof holds, and fails where it should."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from jsonschema import Draft202012Validator, ValidationError
from onnx import numpy_helper

from tests.deploy.exporting import CLASSES, copy, edit, model, pictures, smooth, write
from zsad import Predictor
from zsad.cli.main import main
from zsad.decision import CardError
from zsad.deploy import ExportError, Runtime, export, graph
from zsad.deploy.exporting import Verification
from zsad.deploy.folder import FolderError
from zsad.deploy.graph import Graph, obstacle
from zsad.deploy.onnx_file import trace
from zsad.deploy.verify import VerificationError, compare, prove
from zsad.inference.files import sha256
from zsad.methods import METHODS, Method, list_methods

NO_GRAPH = {
    "musc": "the others of its folder",
    "transmm": "made of gradients",
    "adaclip": "its text depends on the image",
}
"""Methods that have no graph, with the reason that they give; all others export."""


@pytest.mark.filterwarnings("ignore:.* is not trained")
@pytest.mark.parametrize("name", list_methods())
def test_every_method_becomes_a_graph_of_any_batch_or_says_why_not(name: str) -> None:
    predictor = model(name)
    method = predictor.method
    if name in NO_GRAPH:
        with pytest.raises(ExportError, match=NO_GRAPH[name]):
            Graph(method, CLASSES)
        return
    names = ["object"] if method.class_agnostic else CLASSES
    graph = Graph(method, names)
    program = trace(graph).module()
    images = [smooth(place) for place in range(5)]
    pixels = torch.stack([torch.from_numpy(np.array(one.resize((graph.size,) * 2))) for one in images])
    pixels = pixels.permute(0, 3, 1, 2).contiguous()
    for number in (1, 3, 5):  # traced with 2
        index = torch.arange(number) % len(names)
        with torch.inference_mode():
            score, anomaly_map = program(pixels[:number], index)
            normalised = (pixels[:number].float() / 255 - graph.mean) / graph.std
            expected = method(normalised, [names[place] for place in index])
        wide = max(1.0, float(np.ptp(expected.anomaly_map.numpy())))
        assert (score - expected.pred_score).abs().max() < 1e-5
        assert (anomaly_map - expected.anomaly_map).abs().max() < 1e-5 * wide


def test_table_of_reasons_names_registered_methods_only() -> None:
    assert set(NO_GRAPH) <= set(METHODS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"adapter": "text"}, "adapter='none'"),
        ({"views": None}, "views='none'"),
        ({"tiling": True, "views": None}, "squashes"),
    ],
)
def test_options_without_a_graph_say_what_to_take(options: dict[str, Any], said: str) -> None:
    assert said in str(obstacle(model(**options).method))


def test_folder_is_whole_and_proved(exported: Path) -> None:
    meta = json.loads((exported / "meta.json").read_text())
    proof = json.loads((exported / "verify.json").read_text())
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    wanted = {"model.onnx", "verify.json", "LICENCES.txt", "README.md", "run.py", "requirements.txt", "Dockerfile"}
    assert wanted <= files
    assert meta["files"] == {name: sha256(exported / name) for name in files - {"meta.json"}}
    assert meta["classes"] == CLASSES
    for engine in ("onnxruntime", "openvino"):
        assert proof[engine]["batch_sizes"] == [1, 2, 5]
        assert proof[engine]["classes"] == CLASSES
        assert 0 <= meta["verification"][engine]["map"] < 1e-5
    assert str(exported.parent) not in (exported / "meta.json").read_text()  # no path of this machine


def test_the_onnx_file_is_dynamic_and_sound(exported: Path) -> None:
    graph = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(graph)
    (opset,) = [one.version for one in graph.opset_import if one.domain == ""]
    assert opset == 20
    for value in (*graph.graph.input, *graph.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param
    assert [one.name for one in graph.graph.input] == ["pixels", "class_index"]
    assert [one.name for one in graph.graph.output] == ["pred_score", "anomaly_map"]


def test_winclips_weights_are_constants_without_a_transpose(few_shot: Path) -> None:
    graph = onnx.load(few_shot / "model.onnx").graph
    weights = {one.name for one in graph.initializer}
    assert not [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]


def test_references_are_constants_and_are_refused_as_pictures(
    few_shot: Path, few_shot_model: Predictor, photos: Path
) -> None:
    runtime = Runtime(few_shot, threads=1)
    for name in CLASSES:
        expected, got = (one.predict(smooth(90), name) for one in (few_shot_model, runtime))
        assert got.pred_score == pytest.approx(expected.pred_score, abs=1e-6)
        np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, atol=1e-5)
    with pytest.raises(ValueError, match="one of the references of class 'wood'"):
        runtime.predict(smooth(50), "wood")


def spoil(folder: Path, change: Any) -> None:
    """Change the initialisers of a graph and let meta.json agree."""
    graph = onnx.load(folder / "model.onnx")
    change(graph.graph)
    onnx.save(graph, folder / "model.onnx")
    files = json.loads((folder / "meta.json").read_text())["files"]
    edit(folder, files={**files, "model.onnx": sha256(folder / "model.onnx")})


def words_by(amount: float) -> Any:
    def change(graph: Any) -> None:
        (words,) = [one for one in graph.initializer if list(one.dims[:2]) == [2, 2] and len(one.dims) == 3]
        values = numpy_helper.to_array(words).copy()
        values[:, 1] += amount * np.sign(values[:, 1])
        words.CopyFrom(numpy_helper.from_array(values, words.name))

    return change


def swapped(graph: Any) -> None:
    (words,) = [one for one in graph.initializer if list(one.dims[:2]) == [2, 2] and len(one.dims) == 3]
    words.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(words)[::-1].copy(), words.name))


@pytest.mark.parametrize(("change", "said"), [(words_by(1e-3), "differs from the model"), (swapped, "differs")])
def test_a_spoiled_graph_fails_the_proof(
    exported: Path, predictor_of_export: Predictor, tmp_path: Path, change: Any, said: str
) -> None:
    folder = copy(exported, tmp_path / "spoiled")
    spoil(folder, change)
    two = {"one": smooth(1), "two": smooth(2)}
    seen = compare(predictor_of_export, Runtime(folder, threads=1), two, (2,))
    with pytest.raises(VerificationError, match=rf"{said}.* batch size 2, by"):
        prove(seen)


def test_a_failed_export_is_kept_under_another_name_and_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    stripped = graph._stripped

    def unsmoothed(method: Method) -> Method:
        made = stripped(method)
        made.sigma = 0.0
        return made

    monkeypatch.setattr(graph, "_stripped", unsmoothed)
    command = ["export", "--method", "clip", "--backbone", "zsad-mini", "--option", "sigma=4", "--class-name", "wood"]
    assert main([*command, "--verify", str(photos), "--out", str(tmp_path / "out")]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "map of" in said
    assert "batch size 1" in said
    assert (tmp_path / "out.failed" / "model.onnx").is_file()
    assert not (tmp_path / "out").exists()


def test_a_changed_byte_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = copy(exported, tmp_path / "changed")
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(FolderError, match=r"model\.onnx' is not the file of this export"):
        Runtime(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"format": "zsad-export/9"}, "has format 'zsad-export/9'"), ({"classes": None, "files": None}, "")],
)
def test_unknown_formats_are_refused(exported: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = copy(exported, tmp_path / "changed")
    meta = {**json.loads((folder / "meta.json").read_text()), **change}
    (folder / "meta.json").write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
    with pytest.raises(FolderError, match=said or "lacks files, classes"):
        Runtime(folder)
    with pytest.raises(FolderError, match="is no exported model"):
        Runtime(tmp_path)


def test_what_is_there_is_not_overwritten(exported: Path, predictor_of_export: Predictor) -> None:
    with pytest.raises(ExportError, match="is there already and not empty"):
        export(predictor_of_export, exported, CLASSES)


def test_int8_is_reported_smaller_and_close(quantized: Path, exported: Path, predictor_of_export: Predictor) -> None:
    proof = json.loads((quantized / "verify.json").read_text())["onnxruntime"]
    assert proof["spearman_of_scores"] > 0.8
    assert proof["correlation_of_maps"] > 0.99
    assert (quantized / "model.onnx").stat().st_size < 0.5 * (exported / "model.onnx").stat().st_size
    assert json.loads((quantized / "meta.json").read_text())["precision"] == "int8"
    graph = onnx.load(quantized / "model.onnx").graph
    kept = [node for node in graph.node if node.op_type == "MatMul"]
    assert kept, "products of the head stay as they are"


def test_int8_is_refused_where_labels_flip(predictor_of_export: Predictor, tmp_path: Path, photos: Path) -> None:
    good = [smooth(seed) for seed in range(24)]
    scores = [predictor_of_export.predict(one, "wood").pred_score for one in good]
    card = predictor_of_export.calibrate(good, "wood", alpha=0.5)
    folder = tmp_path / "at the threshold"
    folder.mkdir()
    for place in np.argsort(np.abs(np.array(scores) - card.entry("wood").threshold))[:4]:
        good[place].save(folder / f"{place}.png")
    with pytest.raises(VerificationError, match=r"labels under the card differ .* --max-flips"):
        write(predictor_of_export, tmp_path / "out", folder, quantize="int8", calibration=card)
    assert (tmp_path / "out.failed").is_dir()


def test_a_card_goes_with_the_folder_and_gives_the_models_labels(
    predictor_of_export: Predictor, tmp_path: Path, photos: Path
) -> None:
    card = predictor_of_export.calibrate([smooth(seed) for seed in range(24)], "wood", alpha=0.1)
    folder = write(predictor_of_export, tmp_path / "out", photos, calibration=card)
    runtime = Runtime(folder, threads=1)
    predictor_of_export.use_calibration(card)
    try:
        for seed in (100, 101, 102):
            expected, got = (one.predict(smooth(seed), "wood") for one in (predictor_of_export, runtime))
            assert (got.pred_label, got.p_value) == (expected.pred_label, expected.p_value)
    finally:
        predictor_of_export.use_calibration(None)
    other = replace(card, model={**card.model, "backbone_weights": "0" * 16})
    with pytest.raises(CardError, match="backbone weights"):
        runtime.use_calibration(other)
    with pytest.raises(ExportError, match="verified export only"):
        export(predictor_of_export, tmp_path / "two", CLASSES, calibration=card, verify=None)


def test_pt2_is_for_torch(predictor_of_export: Predictor, tmp_path: Path, photos: Path) -> None:
    folder = write(predictor_of_export, tmp_path / "out", photos, format="pt2")
    got = Runtime(folder, "torch", threads=1).predict(smooth(3), "coin")
    assert got.pred_score == pytest.approx(predictor_of_export.predict(smooth(3), "coin").pred_score, abs=1e-6)
    assert (folder / "model.pt2").stat().st_size < 5e6  # the text tower is not in it
    with pytest.raises(ValueError, match=r"holds model\.pt2 and no model\.onnx"):
        Runtime(folder)


def test_unverified_folders_say_so(predictor_of_export: Predictor) -> None:
    assert Verification().tolerance == 1e-5


def test_external_data_beyond_the_limit(
    predictor_of_export: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    monkeypatch.setattr("zsad.deploy.onnx_file._EXTERNAL_FROM", 1000)
    folder = write(predictor_of_export, tmp_path / "out", pictures(tmp_path / "few", 1))
    assert (folder / "model.onnx.data").stat().st_size > 10 * (folder / "model.onnx").stat().st_size
    assert "model.onnx.data" in json.loads((folder / "meta.json").read_text())["files"]


def test_meta_obeys_its_schema(exported: Path, few_shot: Path, quantized: Path) -> None:
    schema = json.loads(resources.files("zsad.deploy").joinpath("meta.schema.json").read_text(encoding="utf-8"))
    validator = Draft202012Validator(schema)
    for folder in (exported, few_shot, quantized):
        validator.validate(json.loads((folder / "meta.json").read_text()))
    with pytest.raises(ValidationError):
        validator.validate({"format": "zsad-export/1"})

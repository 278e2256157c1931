"""How methods, data sets and cells are written and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from zsad.benchmark.grid import Cell, DataSpec, MethodSpec, write_json
from zsad.benchmark.run import cells_of
from zsad.benchmark.train import TrainingDataError, source_for


def test_method_with_options() -> None:
    spec = MethodSpec.parse("AnoVL:views=none,vv_blocks=6")
    assert (spec.name, spec.label, dict(spec.options)) == (
        "anovl",
        "AnoVL:views=none,vv_blocks=6",
        {"views": "none", "vv_blocks": 6},
    )
    assert MethodSpec.parse("clip").label == "clip"


def test_method_from_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "maskclip_values.yaml"
    path.write_text("model:\n  class_path: zsad.methods.MaskCLIP\n  init_args: {residual: false}\n", encoding="utf-8")
    assert MethodSpec.parse(str(path)) == MethodSpec("maskclip_values", "maskclip", {"residual": False})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clap", "Unknown method 'clap'"),
        ("clip:sigma", "expected key=value after the colon, got 'sigma'"),
        ("clip:colour=red", r"CLIP has no options \['colour'\]"),
    ],
)
def test_wrong_methods(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MethodSpec.parse(text)


def test_data_with_root_and_options() -> None:
    spec = DataSpec.parse("MVTecAD=data/mvtec:classes=[screw,pill],batch_size=2")
    assert (spec.name, spec.label) == ("MVTecAD", "mvtec_ad")
    assert dict(spec.options) == {"classes": ["screw", "pill"], "batch_size": 2, "root": "data/mvtec"}
    assert DataSpec.parse("Synthetic:split=seen").label == "synthetic"


def test_a_cells_seed_sets_what_is_random() -> None:
    data = DataSpec.parse("Synthetic:classes=[gear]")
    for text, options in (
        ("clip", {}),
        ("clip:shots=2", {"shots": 2, "shot_seed": 7}),
        ("anovl", {"seed": 7}),
        ("vand:shots=1", {"shots": 1, "seed": 7, "shot_seed": 7}),
    ):
        spec = MethodSpec.parse(text)
        assert dict(spec.at(7).options) == options
        assert len(cells_of([spec], [data], [0, 7])) == (1 if text == "clip" else 2)


def test_the_source_is_the_first_that_is_other_data(tmp_path: Path) -> None:
    names = ("MVTecAD=mvtec", "VisA=visa", "Folder=bolts", "Folder=./nuts", "Synthetic")
    mvtec, visa, bolts, nuts, synthetic = (DataSpec.parse(name) for name in names)
    assert source_for(mvtec, [mvtec, visa]) is visa
    assert source_for(mvtec, [visa, mvtec], own=True) is mvtec  # supervised few-shot, only where it is asked for
    assert source_for(mvtec, [visa], own=True) is visa
    assert source_for(bolts, [DataSpec.parse("Folder=./bolts"), nuts]) is nuts
    assert source_for(synthetic, [synthetic]) is synthetic  # its training pictures are others
    with pytest.raises(TrainingDataError, match="auxiliary data that is not MVTecAD"):
        source_for(mvtec, [DataSpec.parse("MVTecAD=elsewhere")])


def test_paths_are_readable_and_unique(tmp_path: Path) -> None:
    data = DataSpec.parse("Synthetic")
    cells = [Cell(MethodSpec("a:b", "clip"), data, name, 0) for name in ("x y", "x/y", "x_y")]
    paths = {cell.path(tmp_path) for cell in cells}
    assert len(paths) == 3
    assert all(tmp_path in path.parents and path.suffix == ".json" for path in paths)
    assert cells[2].path(tmp_path).name == "x_y-s0.json"


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert path.read_text(encoding="utf-8") == '{\n "a": 2\n}'
    assert list(path.parent.iterdir()) == [path]

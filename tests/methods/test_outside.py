"""A method and a data module of another package, in every door that takes a name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from zsad import load_model
from zsad.benchmark.grid import DataSpec, MethodSpec
from zsad.cli import main as cli
from zsad.cli.model_options import method_table
from zsad.datamodules import get_datamodule, list_datamodules
from zsad.methods import get_method, list_methods
from zsad.synthetic import generate

PACKAGE = '''
"""A user's package."""
from __future__ import annotations
from pathlib import Path
Path({marker!r}).touch()
from zsad.methods import CLIP
from zsad.datamodules import Folder

class MyMethod(CLIP):
    """CLIP with an option of its own."""
    def __init__(self, backbone: str = "zsad-mini", shift: float = 0.0, **kwargs) -> None:
        super().__init__(backbone, **kwargs)
        self.shift = shift

    def score(self, image, text, context):
        found = super().score(image, text, context)
        return found._replace(pred_score=found.pred_score + self.shift)

class MyData(Folder):
    """A folder."""
    name = "mine"

class Nothing:
    """No method."""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Name of a package on the path that leaves a marker when it is imported; with its entry points."""
    name = f"mine_{abs(hash(request.node.name)) % 10**8}"
    site = tmp_path / "site"
    site.mkdir()
    (site / f"{name}.py").write_text(PACKAGE.format(marker=str(tmp_path / "marker")))
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[zsad.methods]\nplugged = {name}:MyMethod\nwrong = {name}:Nothing\n"
        f"[zsad.datamodules]\nmyset = {name}:MyData\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for part, defect in (("good", ""), ("bad", "hole")):
        (tmp_path / "data" / "coin" / "test" / part).mkdir(parents=True)
        picture = generate("coin", defect, seed=1).image
        Image.fromarray(picture).save(tmp_path / "data" / "coin" / "test" / part / "0.png")
    return tmp_path / "data"


@pytest.mark.parametrize("by", ["path", "entry point"])
def test_every_door(by: str, package: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method, data = (f"{package}.MyMethod", f"{package}.MyData") if by == "path" else ("plugged", "myset")
    picture = pictures / "coin" / "test" / "bad" / "0.png"
    plain = load_model("clip", "zsad-mini", device="cpu").predict(picture).pred_score
    mine = load_model(method, "zsad-mini", device="cpu", shift=2.0).predict(picture).pred_score
    assert mine == pytest.approx(plain + 2)

    out = tmp_path / "scores"
    scored = ["score", str(picture), "--method", method, "--backbone", "zsad-mini", "--option", "shift=2"]
    assert cli.main([*scored, "--out", str(out)]) == 0
    assert json.loads((out / "scores.jsonl").read_text())["score"] == pytest.approx(mine, abs=1e-5)

    run = ["benchmark", "--methods", f"{method}:shift=2", "clip", "--data", f"{data}={pictures}", "--device", "cpu"]
    results = ["--backbone", "zsad-mini", "--out", str(tmp_path / "results")]
    assert cli.main([*run, *results]) == 0
    assert cli.main(["report", str(tmp_path / "results")]) == 0
    assert method.partition(".")[0] in (tmp_path / "results" / "report.md").read_text()

    quiet = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]
    test = ["test", "--model", method, "--model.backbone=zsad-mini", "--model.shift=2", "--data", data]
    assert cli.main([*test, "--data.root", str(pictures), *quiet]) == 0

    config = tmp_path / "mine.yaml"
    config.write_text(f"model:\n  class_path: {package}.MyMethod\n  init_args: {{backbone: zsad-mini, shift: 2.0}}\n")
    assert cli.main(["test", "--config", str(config), "--data", data, "--data.root", str(pictures), *quiet]) == 0
    assert MethodSpec.parse(str(config)).kind.__name__ == "MyMethod"


def test_names_are_listed_and_nothing_is_imported_for_it(
    package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"plugged      of another package: {package}:MyMethod" in method_table()
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["methods_of_other_packages"]["plugged"] == f"{package}:MyMethod"
    assert cli.main(["doctor"]) == 0
    assert f"{package}:MyMethod" in capsys.readouterr().out
    assert list_methods()[-2:] == ["plugged", "wrong"]
    assert list_datamodules()[-1] == "myset"
    assert not (tmp_path / "marker").exists()
    with pytest.raises(ValueError, match=r"entry point 'wrong' of .*:Nothing is no Method"):
        get_method("wrong")


@pytest.mark.parametrize("kind", ["method", "data"])
def test_a_dotted_path_in_a_file_is_not_imported(
    kind: str, package: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{package}.My{'Method' if kind == 'method' else 'Data'}"
    find = get_method if kind == "method" else get_datamodule
    with pytest.raises(ValueError, match="A dotted path is imported only when you type it"):
        find(name)
    run = [
        "benchmark",
        "--methods",
        "clip",
        "--data",
        f"Folder={pictures}",
        "--device",
        "cpu",
        "--backbone",
        "zsad-mini",
    ]
    assert cli.main([*run, "--out", str(tmp_path / "out")]) == 0
    [cell] = (tmp_path / "out").glob("cells/*/*/*.json")
    content = json.loads(cell.read_text())
    content[kind]["name"] = name
    cell.write_text(json.dumps(content))
    assert cli.main(["check", str(cell), "--root", str(pictures)]) == 2
    assert "A dotted path is imported only when you type it" in capsys.readouterr().err
    assert not (tmp_path / "marker").exists()
    assert package not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package_at_all.Method", r"cannot be imported: No module named .* on PYTHONPATH"),
        ("json.Method", r"cannot be imported: module 'json' has no attribute"),
        ("json.JSONDecoder", r"is no Method"),
        ("clpi", r"Did you mean 'clip'"),
    ],
)
def test_wrong_names_are_said(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(name)


def test_an_option_whose_value_is_a_file_is_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = MethodSpec.parse("clip:prompts=my.yaml")
    assert (spec.name, spec.options) == ("clip", {"prompts": "my.yaml"})
    data = DataSpec.parse("Folder=some/where:augment=jitter.yaml")
    assert data.options == {"augment": "jitter.yaml", "root": "some/where"}


def test_a_worker_process_knows_it_too(package: str, pictures: Path, tmp_path: Path) -> None:
    arguments = ["benchmark", "--methods", f"{package}.MyMethod", "--data", f"{package}.MyData={pictures}"]
    arguments += ["--backbone", "zsad-mini", "--device", "cpu", "--out", "out", "--jobs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "zsad.cli.main", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("cells/*/*/*.json"))) == 1

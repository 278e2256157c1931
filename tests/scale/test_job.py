"""Jobs on Ray: their rows are those of one machine, they go on where they stopped, and say what is wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from tests.scale.conftest import MODEL
from zsad import load_model
from zsad.cli import main as cli
from zsad.inference import Predictor
from zsad.inference.rows import Row
from zsad.inference.settings import SettingsError
from zsad.methods.musc import PanelError
from zsad.scale import Cluster, collect, score
from zsad.scale.cluster import TooFewSlotsError


def read(folder: Path) -> dict[str, Row]:
    lines = (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [Row.read(line) for line in lines]
    assert len({row.path for row in rows}) == len(rows), "an image has two rows"
    return {row.path: row for row in rows}


def same(rows: dict[str, Row], others: dict[str, Row]) -> None:
    """Scores to 1e-5: a worker has other threads; all else to the letter."""
    assert sorted(rows) == sorted(others)
    for path, row in rows.items():
        mine, other = (json.loads(one.line()) for one in (row, others[path]))
        for name in ("score", "p_value", "p_upper"):
            assert mine.pop(name) == pytest.approx(other.pop(name), abs=1e-5)
        assert mine == other


def durable(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "scores").glob("*.parquet")}


def test_the_command_on_a_cluster_is_the_command_on_one_machine(
    ray: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pictures, tmp_path / "coins")
    monkeypatch.chdir(tmp_path)
    given = ["score", "coins", *MODEL, "--threshold=0.45", "--batch-size=3", "--maps=npy", "--map-size=24", "--hash"]
    cluster = ["--engine=ray", "--workers=2", "--block=5"]  # whole batches: 6, 6 and 1
    assert cli.main([*given, "--out=one"]) == 0
    assert cli.main([*given, "--out=many", *cluster]) == 0
    assert "1 file(s) could not be read" in capsys.readouterr().err
    assert cli.main(["collect", "many", "--format=parquet"]) == 0
    one, many = Path("one"), Path("many")
    same(read(many), read(one))
    assert list(read(many)) == sorted(read(many)), "in the order of their paths"
    assert (many / "index.html").is_file()
    assert (many / "scores.parquet").is_file()
    settings = [json.loads((folder / "settings.json").read_text()) for folder in (one, many)]
    assert settings[1].pop("engine") == "ray"
    assert settings[0].pop("scale") == pytest.approx(settings[1].pop("scale"), abs=1e-5)
    assert settings[0] == settings[1]
    for path in sorted(one.glob("maps/**/*.npy")):
        np.testing.assert_allclose(np.load(many / path.relative_to(one)), np.load(path), atol=1e-5)
    names = [sorted(path.relative_to(folder) for path in folder.glob("overlays/**/*.jpg")) for folder in (one, many)]
    assert names[0] == names[1]
    assert len(names[0]) == 12

    first = durable(many)
    assert sorted(parquet.read_metadata(path).num_rows for path in (many / "scores").glob("*.parquet")) == [1, 6, 6]
    shutil.copy(pictures / "00.png", "coins/00-again.png")
    assert cli.main([*given, "--out=many", *cluster]) == 0
    added = {name: time for name, time in durable(many).items() if name not in first}
    assert {name: durable(many)[name] for name in first} == first, "what was durable is not touched"
    assert len(added) == 1
    assert cli.main(["collect", "many"]) == 0
    assert len(read(many)) == 14
    assert read(many)["coins/00-again.png"].score == pytest.approx(read(many)["coins/00.png"].score, abs=1e-6)

    capsys.readouterr()
    assert cli.main([*given[:-1], "--threshold=0.5", "--out=many", *cluster]) == 2
    assert "threshold: 0.45 then, 0.5 now" in capsys.readouterr().err
    assert cli.main([*given, "--out=one", *cluster]) == 2
    assert "engine: None then, 'ray' now" in capsys.readouterr().err
    assert not (many / "runs.jsonl").read_text(encoding="utf-8").count("\n") < 2


def test_a_panel_is_state_that_all_workers_share(ray: Any, pictures: Path, tmp_path: Path) -> None:
    model = load_model("musc", "zsad-mini", device="cpu", batch_size=3)
    with pytest.raises(PanelError, match="No panel of 'coin'"):
        score(pictures, tmp_path / "none", model, "coin", overlays=False)
    panel = model.fit_panel([path for path in sorted(pictures.glob("*.png")) if path.name != "07b.png"], "coin")
    assert len(panel) == 11
    done = score(pictures, tmp_path / "many", model, "coin", cluster=Cluster(workers=1), overlays=False)
    assert (done.rows, done.errors) == (13, 1)
    collect(tmp_path / "many", page=False)
    expected = {one.image_path: one for batch in model.batches(pictures.rglob("*.png"), "coin") for one in batch}
    for path, row in read(tmp_path / "many").items():
        assert row.score == pytest.approx(expected[path].pred_score, abs=1e-5) if row.score else row.error


def test_inputs_and_results_at_addresses(
    ray: Any, model: Predictor, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing takes the results' folder for one of this machine: it is an address of fsspec, as s3:// is."""
    out = f"file://{tmp_path}/out"
    given = ["score", f"file://{pictures}", "--out", out, *MODEL, "--engine=ray", "--workers=1", "--batch-size=3"]
    assert cli.main(given) == 0
    assert cli.main([*given, "--threshold=0.5"]) == 2
    assert "threshold: None then, 0.5 now" in capsys.readouterr().err
    assert cli.main(["collect", out]) == 2
    assert "say into which folder" in capsys.readouterr().err
    assert cli.main(["collect", out, "--into", str(tmp_path / "here"), "--no-page"]) == 0
    rows = read(tmp_path / "here")
    expected = [one for batch in model.batches(sorted(pictures.rglob("*.png")), "coin") for one in batch]
    assert len(rows) == len(expected) == 13
    for one in expected:
        row = rows[f"file://{one.image_path}"]
        assert row.score == (pytest.approx(one.pred_score, abs=1e-5) if one.error is None else None)
        assert (row.error is None) == (one.error is None)
        if row.overlay:
            assert (tmp_path / "out" / row.overlay).is_file()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("scores", "checkpoint", "inputs", "overlays", "settings.json")
    }
    assert cli.main(["collect", out, "--into", str(tmp_path / "here"), "--no-page"]) == 0, "the same run again"
    (tmp_path / "out" / "settings.json").unlink()
    assert cli.main(["collect", out, "--into", str(tmp_path / "here"), "--no-page"]) == 2
    assert "holds the rows of another run" in capsys.readouterr().err
    with pytest.raises(SettingsError, match=r"holds 'scores', .* no settings"):
        score(pictures, tmp_path / "out", model, "coin")


def test_what_is_refused_before_anything_is_scored(
    ray: Any, model: Predictor, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TooFewSlotsError, match=r"9 worker\(s\) need 13 CPU slots .* the cluster has 6"):
        score(pictures, tmp_path / "out", model, cluster=Cluster(workers=9), overlays=False)
    with pytest.raises(TooFewSlotsError, match=r"with 0.5 GPU\(s\) each need 1, the cluster has 0"):
        score(pictures, tmp_path / "out", model, cluster=Cluster(workers=2, gpus_per_worker=0.5), overlays=False)
    with pytest.raises(FileNotFoundError, match="No such file or folder"):
        score(tmp_path / "nothing", tmp_path / "out2", model)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        Cluster(workers=0)
    with pytest.raises(ValueError, match="block must be at least 1 image, got 0"):
        score(pictures, tmp_path / "out", model, block=0)
    with pytest.raises(FileNotFoundError, match="holds no rows"):
        collect(tmp_path / "out3")
    given = ["score", os.fspath(pictures), *MODEL, "--out", os.fspath(tmp_path / "out4")]
    for options, message in (
        (["--engine=ray", "--relative"], "--relative needs the run of one machine"),
        (["--engine=ray", "--explain=transmm"], "--explain transmm needs the run of one machine"),
        (["--engine=ray", "--format=parquet"], "writes Parquet anyway"),
        (["--engine=ray", "--watch"], "--watch needs the run of one machine"),
        (["--engine=ray", "--threshold=0.5", "--on-anomaly=true"], "--on-anomaly needs the run of one machine"),
        (["--workers=2"], "--workers is about --engine ray"),
        (["--out=s3://bucket/out"], "one machine writes into a folder"),
    ):
        assert cli.main([*given, *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out4").exists()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["inputs", "checkpoint", "scores"])
def test_folders_of_other_people_are_not_removed(
    model: Predictor, pictures: Path, tmp_path: Path, name: str, fresh: bool
) -> None:
    shutil.copytree(pictures, tmp_path / name)
    before = sorted(tmp_path.rglob("*.*"))
    with pytest.raises(SettingsError, match=rf"holds '{name}', .* use another folder"):
        score(pictures, tmp_path, model, "coin", fresh=fresh)
    assert [path for path in sorted(tmp_path.rglob("*.*")) if path.name != ".zsad.lock"] == before


def test_a_fresh_job_starts_over(ray: Any, model: Predictor, pictures: Path, tmp_path: Path) -> None:
    for threshold in (None, 0.5):
        done = score(
            pictures, tmp_path, model, "coin", cluster=Cluster(workers=1), overlays=False, threshold=threshold,
            fresh=threshold is not None,
        )  # fmt: skip
        assert done.rows == 13
    collect(tmp_path, page=False)
    assert {row.label is None for row in read(tmp_path).values() if row.error is None} == {False}

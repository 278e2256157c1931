import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from zsad import __version__
from zsad.cli import main as cli
from zsad.cli.trainer import class_names
from zsad.inference import load_model
from zsad.methods import get_method, list_methods
from zsad.synthetic import generate

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]
MINI = ["--model.backbone=zsad-mini"]


def _benchmark(root: Path) -> Path:
    """A folder in MVTec AD's layout with two classes of four pictures."""
    for class_name in ("bottle", "screw"):
        for number in range(4):
            defect = "hole" if number % 2 else ""
            sample = generate("coin", defect, seed=number)
            folder = root / class_name / "test" / (defect or "good")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.image).save(folder / f"{number:03d}.png")
            if defect:
                masks = root / class_name / "ground_truth" / defect
                masks.mkdir(parents=True, exist_ok=True)
                Image.fromarray(sample.mask).save(masks / f"{number:03d}_mask.png")
    return root


@pytest.mark.parametrize("argument", ["--help", "-h", "help"])
def test_help_names_every_command(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([argument]) == 0
    shown = capsys.readouterr().out
    for name, (_, what) in cli.COMMANDS.items():
        assert f"  {name} " in shown
        assert what in shown


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_do_not_load_torch(argument: str) -> None:
    code = f"import sys; from zsad.cli.main import main; main(['{argument}']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"zsad {__version__}\n"


def test_no_command_shows_the_usage_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: zsad COMMAND" in capsys.readouterr().out


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scroe", "x"]) == 2
    assert "zsad: error: Unknown command 'scroe'. Did you mean 'score'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "no/such/folder", "--out", "{tmp}"], "No such file or folder: 'no/such/folder'"),
        (["score", "{tmp}", "--out", "{tmp}/out"], "No images under"),
        (["score", __file__, "--out", "{tmp}/out", "--method", "anvl"], "Unknown method 'anvl'. Did you mean 'anovl'"),
        (["score", __file__, "--out", "{tmp}/out", "--backbone", "ViT-X/none"], "Unknown backbone 'ViT-X/none'"),
        (
            ["score", __file__, "--out", "{tmp}/out", "--device", "tpu9", "--backbone=zsad-mini"],
            "Device 'tpu9' cannot be used",
        ),
        (
            ["score", __file__, "--out", "{tmp}/out", "--strict", "--method", "clip", "--backbone=zsad-mini"],
            "Cannot read image",
        ),
        (["score", __file__, "--out", "{tmp}/out", "--method", "coop"], "CoOp learns parameters, and no checkpoint"),
        (["demo", "--images", "0", "--out", "{tmp}"], "n must be at least 1"),
        (
            ["test", "--model", "CLIP", *MINI, "--data", "MVTecAD", "--data.root", "{tmp}/none"],
            "That folder does not exist",
        ),
        (["fit", "--model", "CLIP", *MINI, "--data", "Synthetic", "--data.images", "10"], "CLIP is training-free"),
        (["export", "--out", "{tmp}/out", "--words", "no/such"], "No such file or directory: 'no/such'."),
        (["calibrate", "{tmp}", "--out", "c.json", "--alpha", "2"], "--alpha must be a share of good parts between 0"),
    ],
)
def test_users_errors_are_one_message_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([part.replace("{tmp}", str(tmp_path)) for part in arguments]) == 2
    shown = capsys.readouterr().err
    assert "zsad: error: " in shown
    assert message in shown.partition("zsad: error: ")[2]
    assert "[Errno" not in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_shows_the_trace(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("ZSAD_DEBUG", "1")
    assert cli.main(["score", "no/such", "--out", str(tmp_path), *(["--debug"] if how == "flag" else [])]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_our_own_errors_keep_their_trace_and_interruption_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zsad.cli import doctor

    def broken(arguments: list[str]) -> int:
        raise ZeroDivisionError("a bug")

    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "main", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main(["doctor"])
    monkeypatch.setattr(doctor, "main", interrupted)
    assert cli.main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _benchmark(tmp_path_factory.mktemp("mvtec"))


def _cells(shown: str, name: str) -> list[str]:
    """The cells of a row of a printed table."""
    line = next(line for line in shown.splitlines() if re.match(rf"\W*{name}\b", line))
    return [cell.strip() for cell in re.split(r"[│┃|]|\s{2,}", line) if cell.strip()]


@pytest.mark.parametrize(("model", "data"), [("CLIP", "MVTecAD"), ("clip", "mvtec_ad")])
def test_test_by_short_names_prints_classes_and_mean(
    model: str,
    data: str,
    mvtec: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    arguments = [
        "test",
        "--model",
        model,
        *MINI,
        "--data",
        data,
        f"--data.root={mvtec}",
        "--data.counts=ignore",
        *QUIET,
    ]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert _cells(shown, "bottle")[1] == _cells(shown, "screw")[1] == "2+2"
    assert _cells(shown, "mean")[1] == "4+4"
    assert list(tmp_path.iterdir()) == []  # a test leaves no log folders behind


@pytest.mark.filterwarnings("ignore::UserWarning")  # untrained methods say that they are
@pytest.mark.parametrize("name", list_methods())
def test_printed_metrics_are_those_of_the_predictor(
    name: str, mvtec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    arguments = [
        "test",
        f"--model={name}",
        *MINI,
        "--data=folder",
        f"--data.root={mvtec}",
        "--data.batch_size=3",
        *QUIET,
    ]
    assert cli.main(arguments) == 0
    printed = float(_cells(capsys.readouterr().out, "bottle")[2])
    trained = hasattr(get_method(name), "training_stages")
    model = load_model(name, "zsad-mini", "untrained" if trained else None, device="cpu")
    paths = sorted((mvtec / "bottle" / "test").rglob("*.png"))
    scores = [result.pred_score for result in model.predict(paths, "bottle")]
    assert printed == pytest.approx(
        100 * roc_auc_score([path.parent.name == "hole" for path in paths], scores), abs=0.06
    )


def test_config_file_and_validate(
    mvtec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text(
        f"""
        model:
          class_path: MaskCLIP
          init_args: {{backbone: zsad-mini, residual: false}}
        data:
          class_path: Folder
          init_args: {{root: {mvtec}, classes: [screw]}}
        trainer: {{accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}}
        """
    )
    assert cli.main(["validate", "--config", str(config)]) == 0
    assert _cells(capsys.readouterr().out, "screw")[1] == "2+2"


def test_the_methods_protocol_reaches_the_data_unless_another_is_given(mvtec: Path, tmp_path: Path) -> None:
    common = ["--model=clip", *MINI, "--model.image_size=48", "--data=folder", f"--data.root={mvtec}", *QUIET]
    assert cli.main(["predict", *common, f"--out={tmp_path / 'a'}"]) == 0
    assert {np.load(path).shape for path in (tmp_path / "a" / "maps").rglob("*.npy")} == {(48, 48)}
    assert cli.main(["predict", *common, f"--out={tmp_path / 'b'}", "--data.protocol.size=60"]) == 0
    assert {np.load(path).shape for path in (tmp_path / "b" / "maps").rglob("*.npy")} == {(60, 60)}


def test_predict_writes_scores_and_maps_of_the_predictor(mvtec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["predict", "--model=MaskCLIP", *MINI, "--data=Folder", f"--data.root={mvtec}", f"--out={out}", *QUIET]
    for batch_size in (3, 8):  # a second run replaces the first
        assert cli.main([*arguments, f"--data.batch_size={batch_size}"]) == 0
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert {row["class_name"] for row in rows} == {"bottle", "screw"}
    model = load_model("maskclip", "zsad-mini", device="cpu")
    for row in rows[::3]:
        result = model.predict(row["path"], row["class_name"], size="model")
        assert row["score"] == pytest.approx(result.pred_score, abs=1e-5)
        np.testing.assert_allclose(np.load(out / row["map"]), result.anomaly_map, atol=1e-5)


def test_fit_test_and_score_with_the_checkpoint(
    mvtec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    model = ["--model=anomalyclip", *MINI, "--model.n_ctx=2", "--model.depth=1"]
    fit = ["fit", *model, "--data=synthetic", "--data.images=20", "--data.train_images=52", "--data.batch_size=16"]
    assert cli.main([*fit, *QUIET, "--trainer.max_epochs=1"]) == 0
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    capsys.readouterr()
    test = ["test", *model, "--data=synthetic", "--data.images=20", *QUIET, f"--ckpt_path={checkpoint}"]
    assert cli.main(test) == 0
    assert _cells(capsys.readouterr().out, "cork")[1] == "1+1"
    score = ["score", str(mvtec), "--method=anomalyclip", f"--checkpoint={checkpoint}", f"--out={tmp_path / 'out'}"]
    assert cli.main([*score, "--device=cpu", "--no-overlays"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    pictures = sorted(str(path) for path in mvtec.rglob("*.png"))
    assert [row["path"] for row in rows] == pictures
    expected = load_model("anomalyclip", checkpoint=checkpoint, device="cpu").predict(pictures[0]).pred_score
    assert rows[0]["score"] == pytest.approx(expected, abs=1e-5)


def test_registry_names_become_class_names_and_others_stay() -> None:
    given = ["test", "--model", "anovl", "--data=MVTEC_AD", "--model.sigma", "clip", "--data", "my.module.Mine"]
    assert class_names(given) == [
        "test",
        "--model",
        "AnoVL",
        "--data=MVTecAD",
        "--model.sigma",
        "clip",
        "--data",
        "my.module.Mine",
    ]


def test_unknown_model_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["test", "--model", "AnovL2", "--data", "Synthetic"]) == 2
    assert "Unknown method 'AnovL2'. Did you mean 'anovl'" in capsys.readouterr().err


def test_python_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "zsad", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("zsad ")


def test_a_process_of_its_own_keeps_its_imports_from_the_garbage_collector() -> None:
    code = (
        "import gc, sys; from zsad.cli.main import main\n"
        "sys.argv = ['zsad', 'weights', 'list']\n"
        "for given in (sys.argv[1:], None): main(given); print('FROZEN', gc.get_freeze_count() > 0, gc.isenabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if "FROZEN" in line] == ["FROZEN False True", "FROZEN True True"]


def test_maps_of_predict_find_their_masks(mvtec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model=MaskCLIP", *MINI, "--data=Folder", f"--data.root={mvtec}", *QUIET]
    assert cli.main(["predict", *arguments, f"--out={tmp_path / 'out'}"]) == 0
    capsys.readouterr()
    maps = ["--maps", str(tmp_path / "out" / "maps"), "--resize", "mask", "--mode", "exact", "--json", "-"]
    assert cli.main(["evaluate", *maps, "--masks", str(mvtec)]) == 0  # the root of the data set
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["screw"] == [2, 2]
    assert found["per_class"]["screw"]["pixel_auroc"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export"], "The following arguments are required: --out (see 'zsad export --help')."),
        (["score", "photos"], "The following arguments are required: --out (see 'zsad score --help')."),
        (["data"], "The following arguments are required: COMMAND (see 'zsad data --help')."),
        (["data", "show"], "The following arguments are required: name (see 'zsad data show --help')."),
        (["demo", "--foo"], "Unrecognized arguments: --foo (see 'zsad demo --help')."),
        (
            ["export", "--out", "x", "--tolerance", "few"],
            "Argument --tolerance: invalid float value: 'few' (see 'zsad export --help').",
        ),
    ],
)
def test_a_mistake_in_the_arguments_is_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"zsad: error: {message}\n"

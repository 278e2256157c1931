"""From good parts to labels through the command line, on the embedded CLIP and synthetic pictures."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import betabinom

from zsad import load_model
from zsad.cli.main import main
from zsad.decision import Card
from zsad.decision.grouping import split
from zsad.decision.regions import largest_area
from zsad.images import load_rgb
from zsad.inference.inputs import pixel_digest
from zsad.synthetic import generate

CLASSES = ("leather", "grid", "mosaic")
MODEL = ["--method", "clip", "--backbone", "zsad-mini", "--device", "cpu", "--num-workers", "0"]


def pictures(folder: Path, class_name: str, number: int, first: int = 0, defect: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(first, first + number):
        Image.fromarray(generate(class_name, defect, seed=20_000 + place).image).save(folder / f"{place:03d}.png")
    return folder


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "scores.jsonl").read_text(encoding="utf-8").splitlines()]


def score(paths: list[str], out: Path, card: Path, class_name: str, *more: str) -> None:
    options = ["--out", str(out), "--calibration", str(card), "--class-name", class_name, "--device", "cpu"]
    assert main(["score", *paths, *options, "--num-workers", "0", *more]) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 good pictures of three classes, 100 to calibrate, and defects of one."""
    root = tmp_path_factory.mktemp("data")
    for name in CLASSES:
        pictures(root / name / "good", name, 100)
        pictures(root / name / "rest", name, 87, 100)
    for defect in ("hole", "stain"):
        pictures(root / "leather" / "bad" / defect, "leather", 6, 0, defect)
    return root


@pytest.fixture(scope="module")
def cards(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One card with the three classes, maps calibrated for leather."""
    folder = tmp_path_factory.mktemp("cards")
    card = folder / "parts.card.json"
    for number, name in enumerate(CLASSES):
        more = ["--add"] if number else []
        regions = ["--regions"] if name == "leather" else []
        base = ["calibrate", str(data / name / "good"), "--out", str(card), "--class-name", name]
        assert main([*base, *MODEL, *more, *regions]) == 0
    return card


@pytest.fixture(scope="module")
def runs(data: Path, cards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in CLASSES:
        more = [str(data / name / "bad")] if name == "leather" else []
        score([str(data / name / "rest"), *more], folder / name, cards, name)
    return folder


def test_false_alarms_are_those_promised(cards: Path, runs: Path) -> None:
    card, judged = Card.load(cards), 0
    for name in CLASSES:
        good = [row for row in rows(runs / name) if "/rest/" in row["path"]]
        entry = card.entry(name)
        assert entry.k is not None
        alarms = sum(row["label"] for row in good)
        low, high = betabinom.ppf([0.0005, 0.9995], len(good), entry.k, 101 - entry.k)
        assert low <= alarms <= high
        judged += len(good)
        for row in good:
            p = (1 + int((entry.calibration.scores >= np.float32(row["score"])).sum())) / 101
            assert row["p_value"] == pytest.approx(p)
            assert row["label"] == int(p <= 5 / 101 + 1e-9)
            assert row["alarm_rate"] == pytest.approx(5 / 101, abs=1e-6)
            assert row["p_upper"] >= row["p_value"] or row["p_value"] == 1
    assert judged == 261


def test_defects_are_found_with_their_regions(runs: Path) -> None:
    found = rows(runs / "leather")
    bad = [row for row in found if "/bad/" in row["path"]]
    assert np.mean([row["label"] for row in bad]) >= 0.75
    with_regions = [row for row in found if row["n_regions"]]
    assert np.mean([row["n_regions"] > 0 for row in bad]) >= 0.75
    assert np.mean([row["n_regions"] > 0 for row in found if row not in bad]) < 0.2
    for row in with_regions:
        for region in row["regions"]:
            x, y, width, height = region["box"]
            assert 0 <= x < x + width <= row["width"]
            assert 0 <= y < y + height <= row["height"]
            assert 0 < region["p_value"] <= 5 / 101 + 1e-9
    assert rows(runs / "grid")[0]["n_regions"] is None


def test_relabelling_says_what_scoring_with_the_card_says(data: Path, cards: Path, runs: Path, tmp_path: Path) -> None:
    paths = [str(data / "leather" / "rest"), str(data / "leather" / "bad")]
    run = tmp_path / "run"
    assert main(["score", *paths, "--out", str(run), "--class-name", "leather", "--no-overlays", *MODEL]) == 0
    assert {row["label"] for row in rows(run)} == {None}
    assert main(["relabel", str(run), "--calibration", str(cards)]) == 0
    for own, other in zip(rows(run), rows(runs / "leather"), strict=True):
        for name in ("path", "score", "label", "p_value", "p_upper", "alarm_rate"):
            assert own[name] == other[name]
    # the run goes on with that card, and with no other threshold
    again = ["score", *paths, "--out", str(run), "--class-name", "leather", "--no-overlays", "--device", "cpu"]
    assert main([*again, "--calibration", str(cards)]) == 0
    assert main([*again, *MODEL]) == 2


def test_regions_stay_where_the_pixel_threshold_does(cards: Path, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "leather", run)
    before = rows(run)
    assert main(["relabel", str(run), "--calibration", str(cards)]) == 0
    assert rows(run) == before
    assert main(["relabel", str(run), "--threshold", "0.5"]) == 0
    assert {row["p_value"] for row in rows(run)} == {None}


def test_another_model_is_refused(data: Path, cards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["score", str(data / "leather" / "rest"), "--out", str(tmp_path / "run"), "--calibration", str(cards)]
    for more, message in (
        (["--class-name", "leather", "--method", "clipac"], "made with method 'CLIP', this model has 'CLIPAC'"),
        (
            ["--class-name", "leather", "--option", "temperature=0.5"],
            "made with options {}, this model has {'temperature'",
        ),
        (["--class-name", "cork"], "The card has no class 'cork', only 'leather', 'grid', 'mosaic'"),
        (["--class-name", "leather", "--threshold", "0.5"], "the card decides"),
    ):
        assert main([*base, *more, "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_card_names_no_files(data: Path, cards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(cards.read_text(encoding="utf-8"))
    evil = tmp_path / "evil.card.json"
    base = ["score", str(data / "leather" / "rest"), "--out", str(tmp_path / "run"), "--calibration", str(evil)]
    for change, message in (
        ({"backbone": "ViT-B-32/../../evil.pt"}, "no registered model and tag; files are not followed"),
        ({"method": "os.path.join"}, "which is not registered"),
        ({"options": {"references": "/etc"}}, "is not taken from a file"),
        ({"options": {"prompts": "/etc/passwd"}}, "is not taken from a file"),
    ):
        evil.write_text(json.dumps({**content, "model": {**content["model"], **change}}), encoding="utf-8")
        assert main([*base, "--class-name", "leather", "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err


def test_an_interrupted_calibration_goes_on_and_batches_do_not_matter(data: Path, cards: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.card.json"
    command = ["calibrate", str(data / "leather" / "good"), "--out", str(out), "--class-name", "leather", "--regions"]
    assert main([*command, *MODEL]) == 0
    whole = Card.load(out)
    lines = tmp_path / "one.card.run" / "class leather" / "good" / "scores.jsonl"
    text = lines.read_text(encoding="utf-8").splitlines(keepends=True)
    lines.write_text("".join(text[:40]) + text[40][:30], encoding="utf-8")
    out.unlink()
    assert main([*command, *MODEL]) == 0
    assert Card.load(out).digest == whole.digest
    single = tmp_path / "single.card.json"
    assert main([*command[:3], str(single), *command[4:], *MODEL, "--batch-size", "1"]) == 0
    own, other = Card.load(single).entry().calibration, whole.entry().calibration
    assert own.scores == pytest.approx(other.scores, abs=1e-5)
    assert Card.load(cards).entry("leather").calibration.scores.tobytes() == other.scores.tobytes()


def test_too_few_images_are_refused_before_anything_is_scored(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for path in sorted((data / "leather" / "good").iterdir())[:12]:
        shutil.copy(path, folder)
    command = ["calibrate", str(folder), "--out", str(tmp_path / "c.json"), *MODEL]
    assert main(command) == 2
    said = f"alpha=0.05 needs at least 19 normal images, '{folder}' has 12: add 7, or take alpha=0.08 (the smallest"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c.run").exists()
    assert main([*command, "--alpha", "0.08"]) == 0
    assert Card.load(tmp_path / "c.json").entry().k == 1
    assert main([*command, "--alpha", "0.08", "--rule", "f1"]) == 2
    assert main([*command, "--rule", "f1"]) == 2
    assert "needs normal and anomalous images" in capsys.readouterr().err


def test_the_same_picture_twice_and_groups(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for place, path in enumerate(sorted((data / "leather" / "good").iterdir())[:25]):
        shutil.copy(path, folder / f"part{place:02d}_a.png")
        shutil.copy(path, folder / f"part{place:02d}_b.png")
    command = ["calibrate", str(folder), "--out", str(tmp_path / "c.json"), *MODEL]
    assert main(command) == 2
    assert "are the same picture" in capsys.readouterr().err
    assert main([*command, "--group-by", r"part(\d+)"]) == 0
    entry = Card.load(tmp_path / "c.json").entry()
    assert entry.calibration.n == 25
    assert entry.groups == {"pattern": r"part(\d+)", "seed": 0}


def test_references_that_calibrate_are_refused(
    data: Path, cards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references = tmp_path / "references"
    references.mkdir()
    for path in sorted((data / "grid" / "good").iterdir())[:3]:
        shutil.copy(path, references / f"renamed_{path.name}")
    command = ["calibrate", str(data / "grid" / "good"), "--out", str(tmp_path / "c.json"), "--class-name", "grid"]
    assert main([*command, *MODEL, "--references", str(references)]) == 2
    assert "cannot calibrate" in capsys.readouterr().err.replace("\n", " ")
    apart = pictures(tmp_path / "apart", "grid", 3, 500)
    assert main([*command, *MODEL, "--references", str(apart)]) == 0
    score = [
        "score",
        str(data / "grid" / "rest"),
        "--out",
        str(tmp_path / "run"),
        "--class-name",
        "grid",
        "--no-overlays",
    ]
    calibration = ["--calibration", str(tmp_path / "c.json"), "--device", "cpu"]
    assert main([*score, *calibration]) == 2
    assert "made with reference images" in capsys.readouterr().err
    assert main([*score, *calibration, "--references", str(apart)]) == 0


def test_the_report_of_a_calibration(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "nut.card.json"
    leather = data / "leather"
    assert main(
        ["calibrate", str(leather / "good"), "--out", str(out), "--class-name", "leather", "--evaluate", *MODEL,
         "--anomalous", str(leather / "bad"), "--held-out", str(leather / "rest"), "--rule", "f1",
         "--prevalence", "0.01"]
    ) == 0  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert "no promise about further images" in said
    assert "held out (5 folds, 20" in said
    assert re.search(r"% recall and 1 % defects are a precision of [\d.]+ %", said)
    assert re.search(r"Held out, 'leather': \d+ of 87 good images alarm", said)
    html = (tmp_path / "nut.card.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 1
    assert html.count("data:image/jpeg") == 5
    assert "200 random splits" in html
    assert "Recall by folder" in html


def test_predictions_of_a_trainer_are_judged(
    data: Path, cards: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    for part, source in (("good", "rest"), ("hole", "bad/hole")):
        shutil.copytree(data / "leather" / source, root / "leather" / "test" / part)
    masks = root / "leather" / "ground_truth" / "hole"
    masks.mkdir(parents=True)
    for path in (root / "leather" / "test" / "hole").iterdir():
        Image.new("L", Image.open(path).size, 255).save(masks / f"{path.stem}_mask.png")
    shutil.copy(next((data / "leather" / "good").iterdir()), root / "leather" / "test" / "good" / "calibrates.png")
    base = ["predict", "--model", "CLIP", "--model.backbone=zsad-mini", "--data", "MVTecAD", f"--data.root={root}",
            "--data.classes=[leather]", "--data.counts=ignore", "--trainer.accelerator=cpu", "--data.num_workers=0",
            "--trainer.enable_progress_bar=false", f"--out={tmp_path / 'out'}"]  # fmt: skip
    assert main([*base, f"--calibration={cards}"]) == 0
    lines = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    found = {Path(row["path"]).name: row for row in map(json.loads, lines) if "/good/" in row["path"]}
    known = {Path(row["path"]).name: row for row in rows(runs / "leather") if "/rest/" in row["path"]}
    assert set(found) == {*known, "calibrates.png"}
    card = Card.load(cards)
    for name, row in known.items():
        own = found[name]
        assert own["score"] == pytest.approx(row["score"], abs=1e-5)
        assert own["p_value"] == card.p_value(own["score"], "leather")
        assert own["alarm_rate"] == row["alarm_rate"]
        if own["score"] == np.float32(row["score"]):
            assert (own["label"], own["n_regions"]) == (row["label"], row["n_regions"])
            boxes = [one["box"] for one in row.get("regions") or []]
            assert [one["box"] for one in own["regions"]] == boxes
    assert "one of the calibration images" in found["calibrates.png"]["warning"]
    assert found[name]["warning"] is None
    capsys.readouterr()
    for more, message in (
        (["--model.sigma=8"], "made with options {}"),
        (["--trainer.precision=bf16-true"], "the Trainer has 'bf16-true'"),
    ):
        assert main([*base, f"--calibration={cards}", *more]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_false_discoveries_and_places(data: Path, cards: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs / "leather"
    assert main(["relabel", str(run), "--calibration", str(cards), "--fdr", "0.2"]) == 0
    assert re.search(r"\d+ alarms in .*fdr.csv; with 100 calibration images it takes \d+ top", capsys.readouterr().out)
    lines = (run / "fdr.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,score,p_value,label_fdr"
    assert len(lines) == 1 + len(rows(run))
    score([str(data / "leather" / "rest"), str(data / "leather" / "bad")], run, cards, "leather", "--relative")
    relative = (run / "relative.csv").read_text(encoding="utf-8").splitlines()
    assert relative[0] == "path,score,rank,robust_z,kind"
    assert sorted(int(line.split(",")[-3]) for line in relative[1:])[0] == 1


def test_drift_of_finished_runs(cards: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (runs / "grid" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    assert main(["drift", str(cards), str(runs / "grid" / "scores.jsonl"), "--html", str(tmp_path / "d.html")]) == 0
    assert "No sign of a change in 50 images of 'grid'." in capsys.readouterr().out
    assert (tmp_path / "d.html").read_text(encoding="utf-8").count("<svg") == 1
    spread = float(np.std([json.loads(line)["score"] for line in lines]))
    moved = tmp_path / "moved.jsonl"
    shifted = [{**row, "score": row["score"] + 2 * spread} for row in map(json.loads, lines)]
    moved.write_text("".join(f"{json.dumps(row)}\n" for row in shifted), encoding="utf-8")
    assert main(["drift", str(cards), str(moved), "--json"]) == 0
    (window,) = json.loads(capsys.readouterr().out)["grid"]["windows"]
    assert (window["first"], window["last"], window["kind"]) == (1, 50, "changed")
    assert main(["drift", str(cards), str(moved)]) == 0
    assert "Your images have changed: images 1 to 50 of 'grid'" in " ".join(capsys.readouterr().out.split())


def test_score_warns_of_drift(data: Path, cards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dark = tmp_path / "dark"
    dark.mkdir()
    for path in (data / "grid" / "rest").iterdir():
        with Image.open(path) as picture:
            noise = np.random.default_rng(0).integers(0, 120, (96, 96, 3))
            Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)).save(dark / path.name)
    score([str(dark)], tmp_path / "run", cards, "grid", "--no-overlays")
    said = " ".join(capsys.readouterr().err.split())
    assert "Your images have changed: images 1 to 50 of 'grid'" in said
    assert f'zsad calibrate NEW_GOOD_IMAGES --out {cards} --add --class-name "grid"' in said


@pytest.mark.parametrize("kind", ["coco", "labelstudio", "cvat", "masks"])
def test_regions_for_other_tools(runs: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "regions"
    assert main(["export-regions", str(runs / "leather"), "--format", kind, "--out", str(out)]) == 0
    number = sum(len(row.get("regions") or []) for row in rows(runs / "leather"))
    assert f"{number} regions of 99 images in {out}" in capsys.readouterr().out
    if kind == "coco":
        assert len(json.loads(out.read_text(encoding="utf-8"))["annotations"]) == number
    if kind == "masks":
        assert len(list(out.rglob("*.png"))) == 99
    assert main(["export-regions", str(runs / "grid"), "--format", kind, "--out", str(out)]) == 2
    assert "has no regions: score with a card" in capsys.readouterr().err


def test_in_python(data: Path, cards: Path, runs: Path, tmp_path: Path) -> None:
    model = load_model("clip", "zsad-mini", device="cpu")
    made = model.calibrate(data / "leather" / "good", "leather", regions=True)
    assert (
        made.digest == Card.load(cards).digest or made.entry().threshold == Card.load(cards).entry("leather").threshold
    )
    with pytest.raises(ValueError, match="Regions need a threshold of the map"):
        model.predict(data / "leather" / "bad" / "hole" / "000.png", "leather").regions()
    model = load_model("clip", "zsad-mini", device="cpu", calibration=made.save(tmp_path / "c.json"))
    expected = {row["path"]: row for row in rows(runs / "leather")}
    for result in model.predict(data / "leather" / "bad", "leather"):
        row = expected[str(result.image_path)]
        assert (result.pred_label, result.p_value, result.n_regions) == (row["label"], row["p_value"], row["n_regions"])
        assert [one.to_json() for one in result.regions()] == (row.get("regions") or [])
        assert f"(p={result.p_value:.3f}, {'anomalous' if result.pred_label else 'normal'} at 5 %)" in repr(result)
        assert len(result.regions(threshold=0.0)) == 1  # all of the map
    with pytest.raises(ValueError, match=r"threshold=0\.5 beside a calibration card"):
        model.predict(data / "leather" / "bad" / "hole" / "000.png", "leather", threshold=0.5)
    seen = model.predict(data / "leather" / "good" / "000.png", "leather")
    assert "one of the calibration images" in str(seen.warning)


def test_outlines_are_drawn_where_the_regions_are(data: Path, cards: Path) -> None:
    path = data / "leather" / "bad" / "hole" / "000.png"
    plain = load_model("clip", "zsad-mini", device="cpu").predict(path, "leather")
    result = load_model("clip", "zsad-mini", device="cpu", calibration=cards).predict(path, "leather")
    changed = (np.asarray(plain.overlay()) != np.asarray(result.overlay())).any(-1)
    near = np.zeros_like(changed)
    for one in result.regions():
        x, y, width, height = one.box
        near[max(0, y - 2) : y + height + 2, max(0, x - 2) : x + width + 2] = True
    assert changed.any() == bool(result.regions())
    assert not (changed & ~near).any()


@pytest.mark.parametrize("method", ["clip", "musc"])
def test_few_images_are_shared_out(data: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    good = pictures(tmp_path / "good", "leather", 32)
    card, model = tmp_path / "nut.card.json", ["--method", method, *MODEL[2:]]
    base = ["calibrate", str(good), "--out", str(card), "--class-name", "leather", "--alpha", "0.1"]
    given = [] if method == "musc" else ["--split"]
    assert main([*base, *model, *given]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "16 of the good images are the" in said
    beside = tmp_path / {"clip": "nut.references", "musc": "nut.panel.safetensors"}[method]
    flag = said.partition("score with ")[2].split()
    assert flag[:2] == [{"clip": "--references", "musc": "--panel"}[method], str(beside)]
    found = Card.load(card)
    assert found.entry().calibration.n == 16
    assert found.model["references" if method == "clip" else "panel"] is not None
    first, rest = split([str(path) for path in sorted(good.iterdir())], 0.5)
    digests = {path: pixel_digest(load_rgb(path)) for path in (*first, *rest)}
    assert found.image_digests == {digests[path] for path in rest}
    if method == "clip":
        assert {pixel_digest(load_rgb(path)) for path in beside.iterdir()} == {digests[path] for path in first}
    run = ["--out", str(tmp_path / "run"), "--calibration", str(card), "--no-overlays", "--device", "cpu"]
    assert main(["score", *rest[:4], *run, *flag[:2]]) == 0
    judged = rows(tmp_path / "run")
    assert all("one of the calibration images" in row["warning"] for row in judged)
    for row in judged:  # what calibrated is scored alike
        assert np.abs(found.entry().calibration.scores - row["score"]).min() < 1e-5
    assert main(["score", *rest[:4], *run[:1], str(tmp_path / "other"), *run[2:]]) == 2  # without the first half
    capsys.readouterr()
    # the same again is the same card; another seed must not mix with the references that lie there
    before = found.digest
    assert main([*base, *model, *given]) == 0
    assert Card.load(card).digest == before
    if method == "clip":
        assert main([*base, *model, *given, "--seed", "1"]) == 2
        assert "holds other references: remove it" in " ".join(capsys.readouterr().err.split())
        assert main([*base, *model, *given, "--references", str(beside)]) == 2
        assert "leave out --references, or --split" in " ".join(capsys.readouterr().err.split())


def test_a_split_in_python(data: Path) -> None:
    paths = [str(path) for path in sorted((data / "leather" / "good").iterdir())[:24]]
    model = load_model("clip", "zsad-mini", device="cpu")
    card = model.calibrate(paths, "leather", alpha=0.1, split=0.5, seed=3)
    first, rest = split(paths, 0.5, 3)
    assert card.image_digests == {pixel_digest(load_rgb(path)) for path in rest}
    other = load_model("clip", "zsad-mini", device="cpu")
    other.fit_references("leather", first)
    other.use_calibration(card)
    score = other.predict(rest[0], "leather").pred_score
    assert np.abs(card.entry().calibration.scores - score).min() < 1e-5


def test_the_pixel_threshold_of_other_images(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leather, out = data / "leather", tmp_path / "c.json"
    good = sorted(map(str, (leather / "good").iterdir()))[:25]
    others = sorted(map(str, (leather / "rest").iterdir()))[:6]
    base = ["calibrate", *good, "--out", str(out), "--class-name", "leather", "--regions", "area", *MODEL]
    assert main([*base, "--pixel-images", *others, "--pixel-quantile", "0.99", "--mm-per-pixel", "0.2"]) == 0
    rule = Card.load(out).entry().regions
    assert rule is not None
    assert rule.mm_per_pixel == 0.2
    model = load_model("clip", "zsad-mini", device="cpu")
    maps = [one.anomaly_map for one in model.predict(others, "leather")]
    assert all(max(one.shape) <= 256 for one in maps)  # every pixel counts
    assert rule.pixel_threshold == pytest.approx(np.quantile(np.stack(maps), 0.99))
    areas = [largest_area(one.anomaly_map, rule.pixel_threshold) for one in model.predict(good, "leather")]
    assert rule.min_area == sorted(areas)[-1] + 1  # k is 1: the least area is one more than the largest
    capsys.readouterr()
    for more, message in (
        (["--pixel-images", good[0]], "the same picture, calibrates the area above it"),
        (["--pixel-images", *others, "--pixel-threshold", "0.5"], "beside --pixel-images: take one of them"),
        (["--pixel-quantile", "0.99"], "needs --pixel-images"),
        (["--pixel-images", *others, "--min-area", "3"], "there the least area is what comes out"),
    ):
        assert main([*base, *more, "--fresh"]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_areas_in_square_millimetres(data: Path) -> None:
    model = load_model("clip", "zsad-mini", device="cpu")
    good = sorted((data / "leather" / "good").iterdir())[:20]
    rule = model.calibrate(good, "leather", regions=True, min_area=3, mm_per_pixel=0.5).entry().regions
    assert rule is not None
    assert (rule.min_area, rule.mm_per_pixel) == (12, 0.5)

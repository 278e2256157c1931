import inspect
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.metrics import roc_auc_score

from zsad.cli.demo import main, scoring, tables
from zsad.cli.demo.shown import chosen
from zsad.cli.demo.training import train
from zsad.clip import load_clip
from zsad.clip.embedded import MINI
from zsad.inference import load_model
from zsad.methods import METHODS, Method, get_method
from zsad.synthetic import HELD_OUT_CLASSES, SyntheticSample, split_samples
from zsad.types import Prediction

IMAGES = 40  # two normal and two defective pictures of each class


@pytest.fixture(scope="module")
def samples() -> list[SyntheticSample]:
    return split_samples("held-out both", IMAGES, 0)


@pytest.fixture(scope="module")
def outcomes(samples: list[SyntheticSample]) -> dict[str, scoring.Outcome]:
    clip = load_clip(MINI)
    return scoring.run({name: METHODS[name](backbone=clip) for name in ("clip", "maskclip")}, samples)


def test_metrics_are_those_of_scikit_learn(
    samples: list[SyntheticSample], outcomes: dict[str, scoring.Outcome]
) -> None:
    for name, outcome in outcomes.items():
        expected = []
        for class_name in HELD_OUT_CLASSES:
            members = [number for number, sample in enumerate(samples) if sample.class_name == class_name]
            masks = np.stack([samples[number].mask for number in members])
            pixel = roc_auc_score(masks.ravel(), outcome.maps[members].ravel())
            assert outcome.metrics.per_class[class_name]["pixel_auroc"] == pytest.approx(pixel, abs=1e-6), name
            labels = [bool(samples[number].defect) for number in members]
            expected.append(roc_auc_score(labels, outcome.scores[members]))
        assert outcome.metrics.mean["image_auroc"] == pytest.approx(np.mean(expected), abs=1e-6), name


def test_methods_see_what_the_predictor_sees(
    samples: list[SyntheticSample], outcomes: dict[str, scoring.Outcome]
) -> None:
    model = load_model("maskclip", MINI, device="cpu")
    for number in (0, 13, 39):
        result = model.predict(samples[number].image, samples[number].class_name)
        assert outcomes["maskclip"].scores[number] == pytest.approx(result.pred_score, abs=1e-5)
        np.testing.assert_allclose(outcomes["maskclip"].maps[number], result.anomaly_map, atol=1e-5)


def test_trivial_rows_come_last_and_a_prior_has_no_image_metrics(outcomes: dict[str, scoring.Outcome]) -> None:
    rows = tables.mean_rows(outcomes)
    assert [row[0] for row in rows] == ["clip", "maskclip", "centre prior", "colour outlier"]
    assert rows[2][1:4] == [None, None, None]
    assert all(isinstance(cell, float) for cell in rows[3][1:])
    classes = tables.class_rows(outcomes, "pixel_auroc")
    assert [row[0] for row in classes] == [*sorted(HELD_OUT_CLASSES), "mean"]
    per_class = np.array([row[1:] for row in classes[:-1]], dtype=float)
    np.testing.assert_allclose(per_class.mean(0), np.array(classes[-1][1:], dtype=float))


def test_methods_below_a_trivial_score_are_named(outcomes: dict[str, scoring.Outcome]) -> None:
    prior, outlier = outcomes["centre prior"], outcomes["colour outlier"]
    clip = outcomes["clip"]

    def wrong(part: Sequence[SyntheticSample]) -> Prediction:
        """A detector that takes the defects for normal: worse than chance."""
        right = scoring.by_colour(part)
        return Prediction(-right.anomaly_map, -right.pred_score)

    upside_down = scoring.evaluate(split_samples("held-out both", 20, 0), wrong)
    sentence = tables.below_trivial({"wrong": upside_down, "centre prior": prior, "colour outlier": outlier})
    assert re.fullmatch(
        r"Not better here than a score without any model, image AUROC [\d.]+: wrong \([\d.]+\); "
        r"pixel AUROC [\d.]+: wrong \([\d.]+\)\.",
        sentence,
    )
    values = {name: one.metrics.mean["pixel_auroc"] for name, one in outcomes.items()}
    assert values["clip"] > max(values["centre prior"], values["colour outlier"])
    assert "clip (" not in tables.below_trivial({"clip": clip, **outcomes}).partition("pixel AUROC")[2]


def test_rows_have_their_own_options_but_for_those_that_are_said() -> None:
    rows = scoring.rows_of(load_clip(MINI))
    for name, method in rows.items():
        own = {option: one.default for option, one in inspect.signature(type(method)).parameters.items()}
        given = {"adapter"} if name == "AnoVL, adapted" else set()
        for option, value in method.hparams.items():
            if value != own.get(option, value) and option not in {"backbone", *given}:
                assert f"{name}: {option}={value:g} (its own: {own[option]:g})" in scoring.chosen_options()
                given.add(option)
        assert given == set(scoring.CHOSEN.get(name, {})) | ({"adapter"} if name == "AnoVL, adapted" else set())


def test_training_free_means_without_a_loss() -> None:
    assert set(scoring.training_free()) == {name for name, kind in METHODS.items() if kind.loss is Method.loss}
    assert {"clip", "clipac", "maskclip", "anovl"} <= set(scoring.training_free())
    assert "anomalyclip" not in scoring.training_free()


def test_shown_pictures_are_the_first_of_their_kind(samples: list[SyntheticSample]) -> None:
    numbers = chosen(samples)
    assert [bool(samples[number].defect) for number in numbers] == [True] * 10 + [False] * 4
    assert {samples[number].class_name for number in numbers[:10]} == set(HELD_OUT_CLASSES)
    assert numbers[10:] == [0, 1, 2, 3]


def test_the_command_writes_page_table_and_heat_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--images", "20", "--out", str(tmp_path), "--device", "cpu", "--json"]) == 0
    shown = capsys.readouterr()
    assert "synthetic, mini CLIP" in shown.err
    found = json.loads(shown.out)
    assert set(found["methods"]["CLIP"]["per_class"]) == set(HELD_OUT_CLASSES)
    assert found["page"] == str(tmp_path / "index.html")
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "synthetic, mini CLIP" in html
    assert not re.search(r"https?://", html)
    rows = [*(kind.__name__ for kind in scoring.training_free().values()), "AnoVL, adapted"]
    for name in (*rows, "centre prior", "colour outlier", *HELD_OUT_CLASSES):
        assert name in html
    heat_maps = tmp_path / "heatmaps"
    folders = ["image", "colour_outlier", *(row.replace(" ", "_") for row in rows)]
    assert sorted(path.name for path in heat_maps.iterdir()) == sorted(folders)
    for folder in heat_maps.iterdir():
        assert len(list(folder.glob("*.png"))) == 14
    assert Image.open(next((heat_maps / "AnoVL").glob("*.png"))).size == (192, 192)
    assert html.count("<img ") == 14 * (len(rows) + 2)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice on loaders
def test_training_changes_every_method_that_learns_and_leaves_usable_files(tmp_path: Path) -> None:
    text = io.StringIO()
    clip = load_clip(MINI)
    methods = train(clip, tmp_path, 0, Console(file=text, width=300), images=26, epochs=1)
    learners = [kind.__name__ for kind in METHODS.values() if kind.loss is not Method.loss]
    assert {"VAND", "CoOp", "AnomalyCLIP", "AACLIP", "VisualAD", "MVFA"} <= set(learners)
    assert list(methods) == [f"{name}, trained" for name in learners]
    assert "No gain is expected here" in text.getvalue()
    picture = split_samples("held-out both", 1)[0]
    for label, model in methods.items():
        name = label.partition(",")[0].lower()
        score = scoring.score(model.eval(), [picture]).pred_score
        (weights,) = [one for one in (tmp_path / "weights").glob(f"{name}-*.safetensors") if "stage" not in one.name]
        assert str(weights) in text.getvalue()
        again = load_model(name, clip, weights, device="cpu")
        assert again.predict(picture.image, picture.class_name).pred_score == pytest.approx(score.item(), abs=1e-5)
        untrained = get_method(name)(clip)
        assert any(not torch.equal(one, untrained.state_dict()[key]) for key, one in model.state_dict().items())


def test_tables_are_whole_at_80_columns() -> None:
    names = [f"AnomalyCLIP{number}, trained" for number in range(17)]
    console = Console(width=80, record=True, file=io.StringIO())
    values = [90.25 + number for number in range(17)]
    rows: list[list[str | float | None]] = [["leather", *values], ["mean", *values]]
    tables.print_whole(console, "a title", ["class", *names], rows)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    numbers = [word for line in lines if line.split()[:1] == ["leather"] for word in line.split()[1:]]
    assert numbers == [f"{value:.1f}" for value in values]
    heads = " ".join(lines)
    assert all(name.split()[0] in heads for name in names)
    assert "…" not in heads

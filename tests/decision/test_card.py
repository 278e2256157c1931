"""The card: exact on the disk, suspicious of every field, loyal to its model."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import zsad.decision
from zsad.decision import Calibration, Card, CardError, TooFewImagesError
from zsad.decision.card import MODEL_KEYS
from zsad.decision.entry import RegionRule, calibrate
from zsad.decision.rules import Rule

MODEL = {
    "method": "AnomalyCLIP", "options": {"sigma": 4.0}, "backbone": "ViT-L-14-336-quickgelu/openai",
    "backbone_weights": "0123456789abcdef", "learned_parameters": "fedcba9876543210", "references": None,
    "precision": "32", "runtime": "torch", "panel": None, "tiles": None,
}  # fmt: skip
SCHEMA = json.loads((Path(zsad.decision.__file__).parent / "card.schema.json").read_text(encoding="utf-8"))
PROTOCOL = {"size": 518, "resize": "squash", "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.25] * 3}


def scores(n: int = 100, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=n).astype(np.float32)


def card(n: int = 100, rule: str = "far=0.05", **options: Any) -> Card:
    entry = calibrate(scores(n), Rule.read(rule), image_digests=[f"{i:08x}" for i in range(n)], **options)
    return Card(MODEL, PROTOCOL, {"metal nut": entry}, created="2026-01-01T00:00:00Z", zsad="0")


def written(tmp_path: Path, made: Card) -> tuple[Path, dict[str, Any]]:
    path = made.save(tmp_path / "nut.card.json")
    return path, json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "made",
    [
        card(),
        card(59, sure=0.95),
        card(rule="recall=0.8", anomalous=scores(20, 1) + 2),
        card(rule="f1", anomalous=scores(20, 1) + 2, prevalence=0.01),
        card(rule="any=0.1", regions=RegionRule.of_maxima(scores(100, 2), 0.05)),
        card(regions=RegionRule.of_areas(np.arange(100) // 10, scores(100, 2), 0.7, 0.05)),
        card(12_345),
    ],
    ids=["far", "sure", "recall", "f1", "any", "area", "thinned"],
)
def test_round_trip_is_bit_equal(tmp_path: Path, made: Card) -> None:
    path, content = written(tmp_path, made)
    jsonschema.validate(content, SCHEMA)
    again = Card.load(path)
    assert again.to_json() == made.to_json()
    assert again.digest == made.digest
    own, other = made.entry(), again.entry()
    assert own.calibration.scores.tobytes() == other.calibration.scores.tobytes()
    near = np.concatenate([own.calibration.scores, np.nextafter(own.calibration.scores, np.float32(np.inf)), [-9, 9]])
    for score in near.tolist()[:: max(1, len(near) // 150)]:
        assert own.decide(score) == other.decide(score)
        assert own.label(score, 1) == other.label(score, 1)


def test_p_value_and_label_are_the_definition() -> None:
    made, own = card(), np.sort(scores())
    for score in (*own[::9].tolist(), -9.0, 9.0):
        rank = int((own >= np.float32(score)).sum()) + 1
        decision = made.decide(score, "metal nut")
        assert decision.p_value == rank / 101 == made.p_value(score)
        assert decision.label == int(rank <= 5)
        assert decision.label == int(np.float32(score) >= np.float32(made.entry().threshold))
        assert decision.alarm_rate == pytest.approx(5 / 101, abs=1e-6)
        assert decision.p_upper >= decision.p_value or rank == 101
    assert made.decide(-9.0).p_upper == 1


def test_the_order_of_the_images_does_not_matter() -> None:
    backwards = calibrate(scores()[::-1], Rule.read("far"), image_digests=[f"{i:08x}" for i in reversed(range(100))])
    assert card().to_json() == replace(card(), classes={"metal nut": backwards}).to_json()


@pytest.mark.parametrize("key", MODEL_KEYS)
def test_another_model_is_refused(key: str) -> None:
    made = card()
    made.require(MODEL, PROTOCOL)
    other = {**MODEL, key: {"sigma": 8.0} if key == "options" else "another"}
    with pytest.raises(CardError, match=r"The card was made with .* this model has .*another|sigma': 8") as error:
        made.require(other, PROTOCOL)
    assert repr(MODEL[key]) in str(error.value)
    assert repr(other[key]) in str(error.value)


@pytest.mark.parametrize("rule", ["far=0.05", "f1"])
def test_another_runtime_takes_the_card_only_if_no_threshold_can_move(rule: str) -> None:
    normal = scores(100)
    made = card(rule=rule, anomalous=scores(20, 1) + 2)
    threshold = np.float64(made.entry().threshold)
    ordered = np.sort(normal.astype(np.float64))[::-1]
    own, others = (ordered[4], np.delete(ordered, 4)) if rule == "far=0.05" else (threshold, ordered)
    gap = np.abs(others - own).min()
    assert made.entry().gap == pytest.approx(gap)
    moved = made.carried(gap * 0.99, runtime="openvino", precision="int8")
    moved.require({**MODEL, "runtime": "openvino", "precision": "int8"}, PROTOCOL)
    with pytest.raises(CardError, match="made with runtime 'openvino', this model has 'torch'"):
        moved.require({**MODEL, "precision": "int8"}, PROTOCOL)
    for difference in (gap, np.nan):
        with pytest.raises(CardError, match=r"Scores of onnxruntime at precision 32 differ by .* 'metal nut' .* apart"):
            made.carried(difference, runtime="onnxruntime", precision="32")
    with pytest.raises(CardError, match="one of torch, onnxruntime, openvino, got 'tflite'"):
        made.carried(0, runtime="tflite", precision="32")


@pytest.mark.parametrize("key", PROTOCOL)
def test_another_protocol_is_refused(key: str) -> None:
    with pytest.raises(CardError, match=rf"protocol \({key}\)"):
        card().require(MODEL, {**PROTOCOL, key: "another"})


def test_another_class_is_refused_but_not_by_a_pooled_card() -> None:
    made = card()
    with pytest.raises(CardError, match="The card has no class 'cable', only 'metal nut'"):
        made.p_value(0.5, "cable")
    pooled = replace(made, pooled=True)
    assert pooled.p_value(0.5, "cable") == made.p_value(0.5)
    assert pooled.unseen("cable")
    assert not pooled.unseen("metal nut")
    both = made.with_class("cable", calibrate(scores(50, 3), Rule.read("far")))
    with pytest.raises(CardError, match="several classes, say which one is meant: 'metal nut', 'cable'"):
        both.p_value(0.5)
    with pytest.raises(CardError, match="one entry for all classes, this one has 2"):
        replace(both, pooled=True)


def test_overlap_is_found() -> None:
    assert card(19).overlap(["00000003", "ffffffff"]) == ["00000003"]


def change(content: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    made = copy.deepcopy(content)
    *above, last = place.split("/")
    inner: Any = made
    for name in above:
        inner = inner[name]
    if value is None and last in inner and not isinstance(inner[last], (type(None),)):
        inner[last] = None
    else:
        inner[last] = value
    return made


NUT = "classes/metal nut"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("format", "zsad-calibration/2", "its format is 'zsad-calibration/2', known is 'zsad-calibration/1'"),
        ("format", None, "its format is None"),
        ("model", [], "'model' is"),
        ("model/method", 3, "'method' is 3, expected str"),
        ("classes", {}, "'classes' has 0 entries"),
        ("pooled", 0, "'pooled' is 0, expected bool"),
        ("licence_notice", 3, "licence_notice"),
        (f"{NUT}", 3, "is no object"),
        (f"{NUT}/n", True, "'.*n' is True"),
        (f"{NUT}/n", 99, "must hold 99 finite numbers"),
        (f"{NUT}/n", 0, "n' is 0, expected 1 to"),
        (f"{NUT}/scores", list(range(100, 0, -1)), "in ascending order"),
        (f"{NUT}/scores", ["1"] * 100, "must hold numbers only"),
        (f"{NUT}/scores", [1e200] * 100, "finite"),
        (f"{NUT}/image_digests", ["../../etc"], "8 hexadecimal digits"),
        (f"{NUT}/rule/name", "os.system", "rule.name' is 'os.system'"),
        (f"{NUT}/rule/text", "f1", "contradicts itself"),
        (f"{NUT}/rule/text", "far=2", "A rule is far=SHARE"),
        (f"{NUT}/rule/k", 101, "k' is 101, expected 1 to 100"),
        (f"{NUT}/rule/k", 4, "threshold' is"),
        (f"{NUT}/rule/k", None, "contradicts itself"),
        (f"{NUT}/threshold", 0.5, "threshold' is 0.5"),
        (f"{NUT}/rate/mean", 1.5, "mean' is 1.5"),
        (f"{NUT}/p_upper", [1.0], "p_upper"),
        (f"{NUT}/p_upper", [0.0] * 101, "p_upper"),
        (f"{NUT}/regions", {"n": 1}, "regions"),
        (f"{NUT}/anomalous", 3, "anomalous"),
    ],
)
def test_tampered_fields_are_refused(tmp_path: Path, place: str, value: Any, message: str) -> None:
    path, content = written(tmp_path, card())
    path.write_text(json.dumps(change(content, place, value)), encoding="utf-8")
    with pytest.raises(CardError, match=message) as error:
        Card.load(path)
    assert str(path) in str(error.value)


def test_files_that_are_no_cards(tmp_path: Path) -> None:
    path, _ = written(tmp_path, card())
    text = path.read_text(encoding="utf-8")
    for bad, message in (
        (text[: len(text) // 2], "it is not JSON"),
        ("", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("3", "it holds no object"),
        (text.replace('"threshold":', '"n": 100, "threshold":'), "'n' occurs twice"),
        (text.replace('"threshold": ', '"threshold": NaN, "x": '), "it holds NaN"),
        (text.replace('"threshold": ', '"threshold": 1e999, "x": '), "expected a number"),
    ):
        path.write_text(bad, encoding="utf-8")
        with pytest.raises(CardError, match=message):
            Card.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CardError, match="it is not JSON"):
        Card.load(path)
    with path.open("wb") as file:
        file.truncate(1 << 30)  # a hole: 1 GB that takes no room
    with pytest.raises(CardError, match="it has 1073741824 bytes"):
        Card.load(path)
    with pytest.raises(FileNotFoundError, match="No such calibration card"):
        Card.load(tmp_path / "none.json")
    duplicate = text.replace('"classes": {', '"classes": {"metal nut": 3,')
    path.write_text(duplicate, encoding="utf-8")
    with pytest.raises(CardError, match="'metal nut' occurs twice"):
        Card.load(path)


def test_every_cut_of_a_card_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path, card(19))
    data = path.read_bytes().rstrip()
    for end in range(0, len(data), 53):
        path.write_bytes(data[:end])
        with pytest.raises(CardError):
            Card.load(path)


def test_a_failed_save_leaves_the_old_card(tmp_path: Path) -> None:
    path, _ = written(tmp_path, card())
    before = path.read_bytes()
    broken = replace(card(), model={**MODEL, "options": {"x": float("nan")}})
    with pytest.raises(ValueError, match="JSON compliant"):
        broken.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_digest_sees_what_decides_and_not_the_date() -> None:
    assert replace(card(), created="later", zsad="9").digest == card().digest
    assert replace(card(), model={**MODEL, "precision": "bf16"}).digest != card().digest
    assert card(99).digest != card().digest


def test_rules_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"sure=0\.95 goes with the rule far=ALPHA, not with f1"):
        card(rule="f1", sure=0.95, anomalous=[1.0])
    with pytest.raises(ValueError, match="calibrate regions as well"):
        card(rule="any=0.1")
    with pytest.raises(TooFewImagesError, match="'good/' has 12: add 7"):
        card(12, what="'good/'")


def test_labelled_images_are_judged_inside_and_outside() -> None:
    found = card(rule="f1", anomalous=scores(20, 1) + 2, prevalence=0.01).entry().anomalous
    assert found is not None
    assert found["n"] == 20
    assert found["held_out"]["recall"] <= found["in_sample"]["recall"] + 0.1
    far = card(anomalous=scores(20, 1) + 2, prevalence=0.01).entry()
    assert far.threshold == card().entry().threshold
    assert far.anomalous is not None
    inside = far.anomalous["in_sample"]
    assert inside["far"] == 0.04  # the alarm is above the fifth largest of a hundred
    assert inside["precision"] == pytest.approx(0.01 * inside["recall"] / (0.01 * inside["recall"] + 0.99 * 0.04))


def test_any_joins_two_halves() -> None:
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(400):
        image, peak = rng.normal(size=41), rng.normal(size=41)
        regions = RegionRule.of_maxima(peak[:40], 0.05)
        entry = calibrate(image[:40], Rule.read("any=0.1"), regions=regions)
        alarms.append(entry.label(float(image[40]), int(np.float32(peak[40]) >= np.float32(regions.pixel_threshold))))
    assert np.mean(alarms) <= 0.1 + 4 * (0.1 * 0.9 / 400) ** 0.5
    assert entry.rate[0] == pytest.approx(4 / 41, abs=1e-6)


def test_areas_keep_the_promise() -> None:
    rng = np.random.default_rng(0)
    shown = []
    for _ in range(500):
        areas = rng.integers(0, 60, size=41)
        rule = RegionRule.of_areas(areas[:40], areas[:40] / 60, 0.5, 0.05)
        shown.append(areas[40] >= rule.min_area)
        assert (areas[:40] >= rule.min_area).sum() <= rule.k - 1
    assert np.mean(shown) <= 2 / 41 + 4 * (0.05 / 500) ** 0.5
    assert rule.p_value(0.0, 60) == pytest.approx(1 / 41)


def test_a_threshold_that_is_not_the_scores_own_is_found(tmp_path: Path) -> None:
    _, content = written(tmp_path, card())
    entry = content["classes"]["metal nut"]
    assert entry["threshold"] == float(f"{Calibration.of(scores()).threshold(5):.9g}")
    assert len(entry["p_upper"]) == 101

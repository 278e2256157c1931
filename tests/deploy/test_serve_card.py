"""A server with a calibration: labels, p-values, regions, drift, and what is told of all that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.stats import betabinom

from tests.deploy.serving import client, encoded, error_of, picture, serving
from zsad import Predictor
from zsad.decision.drift import _law
from zsad.deploy.counters import Counters
from zsad.deploy.live import Live
from zsad.deploy.serve import Server
from zsad.deploy.summary import without_paths

WOOD = {"class_name": "wood"}


@pytest.fixture(scope="module")
def judge(predictor: Predictor) -> Predictor:
    """The same model with a card of thirty pictures and of their maps."""
    own = Predictor(predictor.method, device="cpu")
    own.use_calibration(own.calibrate([picture(seed) for seed in range(100, 130)], "wood", alpha=0.1, regions=True))
    return own


@pytest.fixture(scope="module")
def judging(judge: Predictor) -> Iterator[Server]:
    with serving(Live(judge, ["wood"])) as running:
        yield running


def test_rows_are_those_of_the_predictor(judging: Server, judge: Predictor) -> None:
    with client(judging) as web:
        for seed in (100, 1, 2, 3):  # the first is one of the calibration
            data = encoded(picture(seed))
            row, own = web.post("/v1/score", params={"regions": "1"}, content=data).json(), judge.predict(data, "wood")
            assert (row["label"], row["n_regions"]) == (own.pred_label, own.n_regions)
            assert row["p_value"] == pytest.approx(own.p_value)
            assert row["warning"] == own.warning
            assert [one["area"] for one in row["regions"]] == [one.area for one in own.regions()]
            assert "regions" not in web.post("/v1/score", content=data).json()
        assert row["p_upper"] >= row["p_value"]


def test_the_card_decides_alone(judging: Server) -> None:
    with client(judging) as web:
        answer = web.post("/v1/score", params={"threshold": "0.5"}, content=encoded(picture(1)))
        assert error_of(answer) == (422, "threshold")


def test_the_card_is_told_without_its_scores(judging: Server, judge: Predictor) -> None:
    with client(judging) as web:
        told = web.get("/v1/model").json()["calibration"]
    card: Any = judge.calibration
    entry = card.classes["wood"]
    assert told["digest"] == card.digest
    assert told["classes"]["wood"]["images"] == 30
    assert told["classes"]["wood"]["threshold"] == entry.threshold
    assert told["classes"]["wood"]["pixel_threshold"] == entry.regions.pixel_threshold
    assert not set(entry.image_digests) & set(re.findall(r"[0-9a-f]{8}", str(told)))


def test_changed_images_are_seen_in_the_metrics(judge: Predictor) -> None:
    dark = encoded(picture(7).point(lambda level: level // 6))
    with serving(Live(judge, ["wood"])) as server, client(server) as web:
        for _ in range(2):
            files = [("image", ("dark.png", dark)) for _ in range(25)]
            assert len(web.post("/v1/score-many", files=files).text.splitlines()) == 25
        text = web.get("/metrics").text
    body = float(re.search(r'zsad_drift_p_value\{class="wood",of="body"\} (\S+)', text)[1])  # type: ignore[index]
    assert body < 0.01  # fifty times the same picture
    assert 'zsad_images_total{class="wood"} 50' in text


@pytest.mark.parametrize(("m", "k", "n"), [(50, 1, 20), (50, 10, 199), (200, 100, 5000), (1, 3, 4)])
def test_the_law_of_drift_is_scipys(m: int, k: int, n: int) -> None:
    np.testing.assert_allclose(_law(m, k, n), betabinom.pmf(np.arange(m + 1), m, k, n + 1 - k), rtol=1e-9, atol=1e-300)


LINE = re.compile(r'([a-z_]+)(\{[a-z_]+="(?:[^"\\\n]|\\[\\n"])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\n"])*")*\})? (\S+)')


def test_metrics_are_in_the_text_format(server: Server, web: httpx.Client) -> None:
    web.post("/v1/score", params=WOOD, content=encoded(picture(1)))
    answer = web.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    kinds: dict[str, str] = {}
    series: dict[str, list[float]] = {}
    for line in answer.text.splitlines():
        if line.startswith("# TYPE"):
            kinds[line.split()[2]] = line.split()[3]
        elif not line.startswith("#"):
            found = LINE.fullmatch(line)
            assert found is not None, line
            series.setdefault(found[1], []).append(float(found[3]))
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in series}
    assert families <= set(kinds)
    for name, kind in kinds.items():
        if kind == "histogram":
            buckets = series[f"{name}_bucket"]
            assert buckets == sorted(buckets)
            assert buckets[-1] == series[f"{name}_count"][0]


def test_names_in_metrics_cannot_break_a_line() -> None:
    counters = Counters()
    counters.image('a"b\\c\nd', 1)
    lines = [line for line in counters.text().splitlines() if "alarms_total{" in line]
    assert lines == ['zsad_alarms_total{class="a\\"b\\\\c\\nd"} 1']
    assert LINE.fullmatch(lines[0])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/somebody/models/x.onnx", "x.onnx"),
        ("ViT-B-32//home/somebody/x.pt", "ViT-B-32/x.pt"),
        ("C:\\Users\\somebody\\x.onnx", "x.onnx"),
        ("see '/home/some body/x.onnx'", "see 'x.onnx'"),
        ("ViT-B-16/openai", "ViT-B-16/openai"),
        ("https://example.org/licences/x", "https://example.org/licences/x"),
    ],
)
def test_paths_are_not_told(text: str, told: str) -> None:
    assert without_paths({"a": [text]}) == {"a": [told]}


def test_a_class_that_the_card_lacks_is_refused_at_the_start(judge: Predictor) -> None:
    with pytest.raises(ValueError, match="no class 'coin'"):
        Live(judge, ["wood", "coin"])

"""What a job says of drift is what ``zsad drift`` says of its collected rows; this needs no Ray."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console

from zsad import load_model
from zsad.cli import main as cli
from zsad.cli.on_cluster import tell_drift
from zsad.inference.parquet import table_of
from zsad.inference.rows import Row
from zsad.scale import collect
from zsad.scale.places import Place
from zsad.scale.worker import ID


@pytest.mark.parametrize("moved", [False, True])
def test_a_job_tells_drift_in_the_order_of_paths(
    pictures: Path, tmp_path: Path, moved: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model("clip", "zsad-mini", device="cpu")
    good = [path for path in sorted(pictures.glob("*.png")) if path.name != "07b.png"]
    card = model.calibrate(good, "coin", alpha=0.3)
    card.save(tmp_path / "card.json")
    usual = np.sort(np.asarray(card.entry("coin").calibration.scores, np.float64))
    scores = np.resize(usual[1:-1], 60) + (np.arange(60) < 50) * moved * 2 * float(np.ptp(usual))
    (tmp_path / "scores").mkdir()
    for half in (slice(30, 60), slice(0, 30)):  # as two workers leave them: the later images in the first file
        rows = [
            Row(path=f"{number:02d}.png", class_name="coin", score=float(score))
            for number, score in list(enumerate(scores))[half]
        ]
        table = table_of(rows).append_column(ID, pa.array(range(half.start, half.stop), pa.int64()))
        parquet.write_table(table, tmp_path / "scores" / f"{60 - half.start}.parquet")
    said = io.StringIO()
    tell_drift(Console(file=said, width=10_000), card, Place.of(tmp_path), tmp_path / "card.json")
    collect(tmp_path, page=False)
    assert cli.main(["drift", str(tmp_path / "card.json"), str(tmp_path / "scores.jsonl")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    told = re.findall(r"Your images have changed: images 1 to 50 of 'coin' .* calibrate again:", said.getvalue())
    assert len(told) == moved
    assert all(sentence in shown for sentence in told)
    assert ("No sign of a change" in shown) != moved

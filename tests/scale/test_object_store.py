"""Jobs in an object store, an emulated S3: rows of one machine, continued after a kill, one job at a time."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from tests.scale.conftest import MODEL
from zsad.cli import main as cli
from zsad.inference import Predictor
from zsad.inference.lock import FolderInUseError
from zsad.inference.settings import SettingsError
from zsad.scale import collect, score
from zsad.scale.places import Place

CLUSTER = ["--engine=ray", "--workers=1", "--batch-size=3"]


@pytest.fixture(scope="module")
def bucket(ray: Any, store: dict[str, str]) -> Any:
    """What is in the store now, whoever wrote it."""
    files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    files.mkdir("plant")
    return files


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "scores.jsonl").read_text(encoding="utf-8").replace("s3://plant/", "").splitlines()
    found = [json.loads(line) for line in lines]
    assert len({row["path"] for row in found}) == len(found), "an image has two rows"
    return {row["path"]: row for row in found}


def pixels(content: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.asarray(Image.open(io.BytesIO(content)), np.int16)


def test_a_job_between_addresses_is_the_job_of_one_machine(
    bucket: Any, store: dict[str, str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pictures, tmp_path / "coins")
    (tmp_path / "lists" / "more").mkdir(parents=True)
    for name in ("01.png", "02.png"):
        shutil.copy(pictures / name, tmp_path / "lists" / "more" / name)
    listed = tmp_path / "lists" / "list.csv"
    listed.write_text("path,class_name\nmore/01.png,\nmore/02.png,gear\nmore/gone.png,\n", encoding="utf-8")
    for folder in ("coins", "lists"):
        bucket.put(os.fspath(tmp_path / folder), f"plant/{folder}", recursive=True)
    monkeypatch.chdir(tmp_path)
    given = [*MODEL, "--batch-size=3", "--threshold=0.45", "--maps=npy", "--map-size=24", "--hash"]
    assert cli.main(["score", "coins", "lists/list.csv", "--out=one", *given]) == 0
    far = ["s3://plant/coins", "s3://plant/lists/list.csv", "--out=s3://plant/run"]
    assert cli.main(["score", *far, *given, *CLUSTER]) == 0
    assert collect("s3://plant/run", "many", page=False) == 16

    one, many = rows(Path("one")), rows(Path("many"))
    assert sorted(many) == sorted(one)
    for path, row in many.items():
        other = one[path]
        assert row.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
        assert row.pop("mtime", None) is None, "a copy's time says nothing"
        other.pop("mtime", None)
        if path == "lists/more/gone.png":
            assert path in row.pop("error")
            assert path in other.pop("error")
        assert row == other
        if row.get("overlay") is not None:
            here, there = (Path("one", row["overlay"]).read_bytes(), bucket.cat_file(f"plant/run/{row['overlay']}"))
            np.testing.assert_allclose(pixels(there), pixels(here), atol=8, err_msg=path)
            there = np.load(io.BytesIO(bucket.cat_file(f"plant/run/{row['map']}")))
            np.testing.assert_allclose(there, np.load(Path("one", row["map"])), atol=1e-5)
    assert sum(row.get("overlay") is not None for row in many.values()) == 14

    settings = [json.loads(Path(folder, "settings.json").read_text(encoding="utf-8")) for folder in ("one", "many")]
    assert settings[1].pop("engine") == "ray"
    roots = [{Path(name).name: label for name, label in one.pop("roots").items()} for one in settings]
    assert roots[0] == roots[1] == {"coins": "", "lists": "lists"}
    assert settings[0].pop("scale") == pytest.approx(settings[1].pop("scale"), abs=1e-5)
    assert settings[0] == settings[1]
    for name in bucket.find("plant/run"):
        content = bucket.cat_file(name)
        assert not [value for value in store.values() if value.encode() in content and value != "us-east-1"], name


def test_a_killed_driver_goes_on(bucket: Any, ray: Any, pictures: Path, tmp_path: Path) -> None:
    """A shard in six blocks; the second driver is this process."""
    number, block = 36, 6
    good = [path for path in sorted(pictures.glob("*.png")) if path.name != "07b.png"]
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for index in range(number):
            shard.add(good[index % len(good)], f"{index:02d}.png")
    bucket.put_file(os.fspath(tmp_path / "shard.tar"), "plant/shard.tar")
    command = [
        "score", "s3://plant/shard.tar", "--out=s3://plant/killed", "--method=winclip", *MODEL[1:], *CLUSTER,
        f"--block={block}", "--no-overlays",
    ]  # fmt: skip
    address = ray.get_runtime_context().gcs_address
    first = subprocess.Popen(
        [sys.executable, "-m", "zsad", *command, f"--address={address}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    marks = lambda: [  # noqa: E731
        name for name in bucket.glob("plant/killed/checkpoint/*.parquet") if "pending" not in name
    ]
    try:
        while first.poll() is None and not marks():
            time.sleep(0.2)
    finally:
        first.send_signal(signal.SIGKILL)
        said = first.communicate()[1]
    kept = {name: bucket.info(name)["LastModified"] for name in marks()}
    assert 0 < len(kept) < number / block, said
    assert cli.main(command) == 0
    assert {name: bucket.info(name)["LastModified"] for name in kept} == kept, "what was durable is not done again"
    assert collect("s3://plant/killed", tmp_path / "here", page=False) == number
    found = rows(tmp_path / "here")
    assert list(found) == [f"shard.tar/{index:02d}.png" for index in range(number)]
    for index, row in enumerate(found.values()):
        twin = found[f"shard.tar/{index % len(good):02d}.png"]
        assert row.get("error") is None
        assert row["score"] == pytest.approx(twin["score"], abs=1e-6)


def test_marks_that_a_kill_left_cost_no_rows(bucket: Any, model: Predictor, pictures: Path, tmp_path: Path) -> None:
    """A store moves by copying and deleting: a kill between leaves a mark twice. One block's rows are lost besides."""
    job = lambda: score(pictures, "s3://plant/marks", model, "coin", overlays=False, block=3)  # noqa: E731
    done = job()
    assert done.rows == 13
    marks = sorted(bucket.glob("plant/marks/checkpoint/*.parquet"))
    assert len(marks) == 5
    kept = f"plant/marks/scores/{Path(marks[0]).stem}-0.parquet"
    before = bucket.info(kept)["LastModified"]
    bucket.copy(marks[0], marks[0].replace(".parquet", ".pending.parquet"))
    bucket.rm(f"plant/marks/scores/{Path(marks[4]).stem}-0.parquet")
    assert job() == done
    assert bucket.info(kept)["LastModified"] == before
    assert collect("s3://plant/marks", tmp_path / "here", page=False) == 13
    assert not bucket.glob("plant/marks/checkpoint/*.pending.parquet")


def test_of_jobs_that_begin_together_one_may(bucket: Any) -> None:
    begin = Barrier(4)

    def job(number: int) -> str:
        begin.wait()
        try:
            Place.of("s3://plant/together").note({"job": number}, first=True)
        except FolderInUseError as error:
            return str(error)
        return str(number)

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(job, range(4)))
    (winner,) = [text for text in said if text.isdecimal()]
    assert json.loads(bucket.cat_file("plant/together/settings.json"))["job"] == int(winner)
    assert sum("Another job has just begun in 's3://plant/together'" in text for text in said) == 3


def test_a_job_with_other_settings_is_refused_while_one_runs(bucket: Any, model: Predictor, pictures: Path) -> None:
    def second() -> None:
        score(pictures, "s3://plant/other", model, "coin", threshold=0.5)

    with pytest.raises(SettingsError, match=r"threshold: None then, 0.5 now"):
        score(pictures, "s3://plant/other", model, "coin", prepare=second)
    assert bucket.find("plant/other") == ["plant/other/settings.json"]

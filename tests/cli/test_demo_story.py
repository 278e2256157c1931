import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from zsad.cli.demo import product
from zsad.cli.demo.steps import rows, steps
from zsad.cli.demo.story import Step, run, tell
from zsad.clip.embedded import MINI
from zsad.decision import Card
from zsad.report import page
from zsad.synthetic import generate

GOOD, NEW = 24, 30


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> product.Product:
    return product.draw(tmp_path_factory.mktemp("demo") / "product", 0, GOOD, NEW)


@pytest.fixture(scope="module")
def told(drawn: product.Product) -> str:
    return page.page("demo", tell(steps(drawn, MINI, "cpu"), Console(file=sys.stderr)))


def test_the_product_has_the_defects_that_its_truth_says(drawn: product.Product) -> None:
    assert len(drawn.calibration) == GOOD
    assert sorted(path.name for path in drawn.new.iterdir()) == sorted(drawn.truth)
    assert sum(bool(sample.defect) for sample in drawn.truth.values()) == NEW // product.EVERY
    again = product.draw(drawn.folder.parent / "again", 0, GOOD, NEW)
    for name in drawn.truth:
        assert (drawn.new / name).read_bytes() == (again.new / name).read_bytes()
    good = {path.read_bytes() for path in drawn.calibration}
    assert not good & {path.read_bytes() for path in drawn.new.iterdir()}


def test_the_page_tells_every_step_with_the_command_that_was_run(drawn: product.Product, told: str) -> None:
    story = steps(drawn, MINI, "cpu")
    assert re.findall(r"<h2>(\d)\.", told) == [str(number) for number in range(1, len(story) + 1)]
    for step in story:
        for line in step.lines:
            assert f"<code>{line}</code>" in told
    assert told.count('<button type="button">copy</button>') == sum(len(step.lines) for step in story)


def test_the_measured_rate_is_that_of_the_rows_and_the_threshold_that_of_the_card(
    drawn: product.Product, told: str
) -> None:
    found = rows(drawn.folder / "results")
    entry = Card.load(drawn.folder / f"{product.CLASS}.card.json").entry(product.CLASS)
    normal = [found[name].score or 0.0 for name in drawn.normal()]
    alarms = int(np.sum(np.asarray(normal) >= np.float32(entry.threshold)))
    assert f"measured: {alarms} of {len(normal)} good parts" in told
    assert [row.label for row in found.values()] == [int((row.score or 0) >= entry.threshold) for row in found.values()]
    assert "Asked: at most 5 % false alarms" in told


def test_regions_of_the_page_are_those_of_the_exported_file(drawn: product.Product, told: str) -> None:
    content = json.loads((drawn.folder / "regions.json").read_text(encoding="utf-8"))
    assert f"{len(content['annotations'])} regions in" in told
    assert len(content["annotations"]) == sum(row.n_regions or 0 for row in rows(drawn.folder / "results").values())


def test_defects_of_the_large_photo_are_where_its_truth_says(drawn: product.Product) -> None:
    seed = product._SEEDS + GOOD + NEW
    clean = generate(product.CLASS, "", seed, product.PHOTO).image.astype(int)
    photo = np.asarray(Image.open(drawn.photo)).astype(int)
    changed = np.abs(photo - clean).max(axis=2) > 0
    assert ndimage.label(drawn.marked)[1] >= 2
    assert np.abs(photo - clean)[drawn.marked].mean() > 10
    assert not (changed & ~ndimage.binary_dilation(drawn.marked, iterations=12)).any()


def test_tiles_show_what_the_whole_photo_hides(drawn: product.Product, told: str) -> None:
    found = re.findall(r"<td[^>]*>(the whole photo|in tiles)</td><td[^>]*>([\d.]+)</td><td[^>]*>([\d.]+)</td>", told)
    passes, auroc = ({name: float(one[place]) for name, *one in found} for place in (0, 1))
    side = product.PHOTO // 288
    marked = drawn.marked.reshape(288, side, 288, side).any(axis=(1, 3)).ravel()
    for name, folder in (("the whole photo", "photo-whole"), ("in tiles", "photo-tiles")):
        heat = np.load(drawn.folder / folder / str(rows(drawn.folder / folder)["photo.png"].map))
        assert auroc[name] == pytest.approx(100 * roc_auc_score(marked, heat.ravel()), abs=0.06)
    assert passes == {"the whole photo": 1, "in tiles": 257}  # 16 x 16 squares, three quarters apart, and the whole
    assert auroc["in tiles"] > auroc["the whole photo"] + 10


def test_a_step_works_from_the_shell_as_it_stands_on_the_page(drawn: product.Product, told: str) -> None:
    step = next(one for one in steps(drawn, MINI, "cpu") if one.commands[0][1] == "export-regions")
    before = (drawn.folder / "regions.json").read_bytes()
    (drawn.folder / "regions.json").unlink()
    subprocess.run([sys.executable, "-m", *shlex.split(step.lines[0])], check=True, capture_output=True)
    assert (drawn.folder / "regions.json").read_bytes() == before


def test_without_torch_the_same_parts_alarm(drawn: product.Product, told: str) -> None:
    here, there = rows(drawn.folder / "results"), rows(drawn.folder / "at-the-line")
    assert {name: row.label for name, row in here.items()} == {name: row.label for name, row in there.items()}
    assert [row.score for row in there.values()] == pytest.approx([row.score for row in here.values()], abs=1e-5)
    assert "0 part(s) are judged otherwise" in told


def test_a_step_without_its_extra_is_left_out_in_one_line() -> None:
    def never() -> list[str]:
        raise AssertionError("the step ran")

    step = Step("Ship", "Why.", [["zsad", "export", "a b"]], never, needs="zsad[onnx]", modules=["no_such_module"])
    parts = list(tell([step], Console(file=sys.stderr)))
    assert "<code>zsad export &#x27;a b&#x27;</code>" in parts[2]
    assert "no_such_module is not installed; pip install &#x27;zsad[onnx]&#x27; brings it." in parts[3]
    assert len(parts) == 4


def test_a_command_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"nothing.* ended with status 2: .*No file matches the pattern"):
        run(["zsad", "score", str(tmp_path / "nothing*"), "--out", str(tmp_path / "out")])

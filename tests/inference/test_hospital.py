"""DICOM and NIfTI through every door, and no word of a header behind any of them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images.scans import PATIENT, UID, dicom, nifti
from zsad import Predictor, load_model
from zsad.cli.main import main
from zsad.datamodules import Folder
from zsad.images import expand_slices, load_rgb
from zsad.inference.writer import read_rows

RNG = np.random.RandomState(3)
MODEL = ["--method", "maskclip", "--backbone", "zsad-mini", "--device", "cpu", "--num-workers", "0"]


@pytest.fixture(scope="module")
def model() -> Predictor:
    return load_model("maskclip", "zsad-mini", device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A frame, a film of three frames, a volume of six slices and a damaged file."""
    pixels = RNG.randint(0, 1000, (3, 40, 48)).astype(np.uint16)
    dicom(tmp_path / "in" / "film.dcm", pixels, WindowCenter="500", WindowWidth="1000")
    dicom(tmp_path / "in" / "one.dcm", pixels[0], WindowCenter="500", WindowWidth="1000")
    nifti(tmp_path / "in" / "v.nii.gz", RNG.randint(0, 256, (40, 44, 6)).astype(np.uint8))
    whole = (tmp_path / "in" / "one.dcm").read_bytes()
    (tmp_path / "in" / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "in"


def test_scoring_a_folder_leaves_no_patient_behind(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Predictor
) -> None:
    out = tmp_path / "out"
    command = ["score", str(folder), "--out", str(out), "--slices", "every:2", *MODEL]
    assert main(command) == 0
    rows = {row.path: row for row in read_rows(out)}
    film, volume = f"{folder}/film.dcm", f"{folder}/v.nii.gz"
    names = [f"{film}#frame=0", f"{film}#frame=2", *(f"{volume}#axis=2,slice={n}" for n in (0, 2, 4))]
    assert set(rows) == {*names, f"{folder}/one.dcm", f"{folder}/cut.dcm"}
    assert rows[f"{folder}/cut.dcm"].error is not None
    for name in names:
        row = rows[name]
        assert row.score == pytest.approx(model.predict(name).pred_score, abs=1e-5)
        assert row.bytes == Path(name.partition("#")[0]).stat().st_size
        assert row.overlay is not None
        assert (out / row.overlay).is_file()
    assert rows[names[0]].sop_instance == hashlib.sha256(UID.encode()).hexdigest()
    assert rows[names[3]].sop_instance is None
    before = (out / "scores.jsonl").read_bytes()
    assert main(command) == 0
    assert (out / "scores.jsonl").read_bytes() == before  # nothing is scored twice
    said = capsys.readouterr()
    written = [path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()]
    texts = [said.out, said.err, *map(str, out.rglob("*"))]
    for content in [*written, *(text.encode() for text in texts)]:
        for value in (*PATIENT.values(), UID):
            assert value.encode() not in content
    (folder / "one.dcm").unlink()  # a row that says so, as of any other file
    assert main(command) == 0
    assert "gone" in str({row.path: row for row in read_rows(out)}[f"{folder}/one.dcm"].warning)


def test_predictor_and_references(folder: Path, model: Predictor) -> None:
    name = f"{folder}/film.dcm#frame=1"
    one = model.predict(name)
    picture = load_rgb(name)
    assert one.image.tobytes() == picture.tobytes()
    assert one.pred_score == pytest.approx(model.predict(picture).pred_score, abs=1e-5)
    several = model.predict(list(expand_slices(folder / "v.nii.gz", "every:3")))
    assert [result.error for result in several] == [None, None]
    with pytest.raises(FileNotFoundError, match="No such file or folder"):
        model.predict(f"{folder}/none.dcm#frame=1")
    fresh = load_model("winclip", "zsad-mini", device="cpu")
    assert fresh.fit_references("scan", [name, f"{folder}/v.nii.gz#slice=3"]) == 2
    assert np.isfinite(fresh.predict(f"{folder}/one.dcm", "scan").pred_score)
    assert fresh.fit_references("other", folder / "one.dcm") == 1


def test_calibrate_takes_slices_and_a_window(folder: Path, tmp_path: Path) -> None:
    good = [f"{folder}/v.nii.gz", f"{folder}/film.dcm"]
    card = tmp_path / "scan.card.json"
    options = ["--alpha", "0.2", "--class-name", "scan", "--slices", "all", "--window", "0,600"]
    assert main(["calibrate", *good, "--out", str(card), *options, *MODEL]) == 0
    scores = json.loads(card.read_text(encoding="utf-8"))["classes"]["scan"]
    assert len(scores["scores"]) == 9
    assert not any(value in card.read_text(encoding="utf-8") for value in (*PATIENT.values(), UID))


def test_folder_takes_volumes_apart_with_their_masks(tmp_path: Path) -> None:
    voxels = RNG.randint(0, 256, (20, 22, 4)).astype(np.uint8)
    labels = np.zeros((20, 22, 4), np.int16)
    labels[3:7, 4:9, 2] = 2
    nifti(tmp_path / "images" / "p1.nii.gz", voxels)
    nifti(tmp_path / "masks" / "p1_mask.nii.gz", labels)
    data = Folder(tmp_path, class_name="brain", slices="all", label_from_mask=True, data_domain="medical")
    records = list(data.records("test"))
    assert [record.label for record in records] == [0, 0, 1, 0]
    assert [record.image_path.name for record in records] == [f"p1.nii.gz#axis=2,slice={n}" for n in range(4)]
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    marked = [path.endswith("p1.nii.gz#axis=2,slice=2") for path in batch["image_path"]].index(True)
    size = batch["gt_mask"].shape[-1]
    expected = np.asarray(Image.fromarray(labels[:, :, 2].T > 0).resize((size, size), Image.Resampling.NEAREST))
    assert (batch["gt_mask"][marked].numpy() != expected).mean() < 0.02
    assert batch["gt_mask"].sum() == batch["gt_mask"][marked].sum()
    with pytest.raises(ValueError, match="slices must be"):
        Folder(tmp_path, slices="few")


def test_without_the_extra_one_sentence_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: Predictor
) -> None:
    for name in ("pydicom", "nibabel"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    (folder / "new.dcm").write_bytes((folder / "one.dcm").read_bytes())
    (folder / "new.nii.gz").write_bytes((folder / "v.nii.gz").read_bytes())
    results = model.predict([folder / "new.dcm", f"{folder}/new.nii.gz#slice=1"])
    assert all("pip install 'zsad[medical]'" in str(result.error) for result in results)

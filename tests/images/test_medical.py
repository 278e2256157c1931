"""DICOM, NIfTI and pages of a TIFF, compared with values computed by hand."""

import gzip
import hashlib
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.data import get_testdata_file

from tests.images.scans import PATIENT, UID, dicom, nifti
from zsad.images import ImageError, ReadOptions, expand_slices, image_size, load_mask, load_picture, load_rgb
from zsad.images.fragments import Part, resolved, split

RNG = np.random.RandomState(0)
CT = RNG.randint(0, 4096, (3, 32, 40)).astype(np.uint16)
TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}


def grey(path: str | Path, options: ReadOptions | None = None) -> Any:
    levels = np.asarray(load_rgb(path, options or ReadOptions()))
    assert (levels == levels[..., :1]).all()
    return levels[..., 0]


def by_hand(values: Any, low: float, high: float) -> Any:
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "syntax",
    [
        pydicom.uid.ExplicitVRLittleEndian,
        pydicom.uid.RLELossless,
        pydicom.uid.JPEG2000Lossless,
        pydicom.uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_rescaling_and_the_first_window_of_a_frame(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    window: dict[str, Any] = {"WindowCenter": ["40", "300"], "WindowWidth": ["400", "1500"]}
    path = dicom(tmp_path / "a.dcm", CT, syntax, RescaleSlope="2", RescaleIntercept="-1024", **TWELVE, **window)
    hounsfield = 2.0 * CT[1] - 1024
    # PS3.3 C.11.2.1.2.1: black up to 40 - 0.5 - 399 / 2 = -160, white from 40 - 0.5 + 399 / 2 = 239
    np.testing.assert_array_equal(grey(f"{path}#frame=1"), by_hand(hounsfield, -160, 239))
    options = ReadOptions(window=(0, 1000))
    np.testing.assert_array_equal(grey(f"{path}#frame=2", options), by_hand(2.0 * CT[2] - 1024, 0, 1000))
    picture = load_picture(f"{path}#frame=0")
    assert picture.instance == hashlib.sha256(UID.encode()).hexdigest()
    assert (picture.warning, picture.fitting) == (None, None)
    assert image_size(f"{path}#frame=0") == (32, 40)


@pytest.mark.parametrize("name", ["RLE", "jp2klossless", "jpeg_ls_lossless", "implicit", "bigendian"])
def test_real_scanners_files_are_the_same_in_every_transfer_syntax(name: str) -> None:
    plain, packed = (str(get_testdata_file(f"MR_small{part}.dcm", download=False)) for part in ("", f"_{name}"))
    np.testing.assert_array_equal(grey(packed), grey(plain))
    stored = pydicom.dcmread(plain)
    values = np.frombuffer(stored.PixelData, np.int16).reshape(64, 64).astype(float)
    centre, width = float(stored.WindowCenter), float(stored.WindowWidth)
    np.testing.assert_array_equal(grey(plain), by_hand(values, centre - width / 2, centre + width / 2 - 1))


def test_jpeg_frames_colour_and_palettes(tmp_path: Path) -> None:
    colour = RNG.randint(0, 256, (8, 9, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(load_rgb(dicom(tmp_path / "c.dcm", colour))), colour)
    buffers = [io.BytesIO() for _ in range(2)]
    for number, buffer in enumerate(buffers):
        Image.fromarray((CT[number] // 16).astype(np.uint8)).save(buffer, "jpeg", quality=95)
    eight = (CT[:2] // 16).astype(np.uint8)
    frames = [buffer.getvalue() for buffer in buffers]
    path = dicom(tmp_path / "j.dcm", eight, pydicom.uid.JPEGBaseline8Bit, frames)
    for number, buffer in enumerate(buffers):
        found, expected = grey(f"{path}#frame={number}"), np.asarray(Image.open(buffer))
        np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)  # decoders may round otherwise
    entries = [RNG.randint(0, 256, 256).astype(np.uint8) for _ in range(3)]
    lookup: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, entry in zip(("Red", "Green", "Blue"), entries, strict=True):
        lookup[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        lookup[f"{name}PaletteColorLookupTableData"] = entry.tobytes()
    found = np.asarray(load_rgb(dicom(tmp_path / "p.dcm", eight[0], **lookup)))
    np.testing.assert_array_equal(found, np.stack([entry[eight[0]] for entry in entries], axis=-1))


def test_monochrome1_is_inverted_and_other_functions_of_a_window(tmp_path: Path) -> None:
    path = dicom(tmp_path / "i.dcm", CT[0], PhotometricInterpretation="MONOCHROME1", **TWELVE)
    np.testing.assert_array_equal(grey(path), 255 - by_hand(CT[0].astype(float), 0, 4095))
    options = ReadOptions(window=(100, 3000))
    np.testing.assert_array_equal(grey(path, options), 255 - by_hand(CT[0].astype(float), 100, 3000))
    window: dict[str, Any] = {"WindowCenter": "2000", "WindowWidth": "1000"}
    exact = dicom(tmp_path / "e.dcm", CT[0], VOILUTFunction="LINEAR_EXACT", **window)
    np.testing.assert_array_equal(grey(exact), by_hand(CT[0].astype(float), 1500, 2500))
    bent = dicom(tmp_path / "s.dcm", CT[0], VOILUTFunction="SIGMOID", **window)
    np.testing.assert_array_equal(grey(bent), by_hand(1 / (1 + np.exp(-4 * (CT[0] - 2000.0) / 1000)), 0, 1))
    step = dicom(tmp_path / "w.dcm", CT[0], WindowCenter="2000", WindowWidth="1")
    np.testing.assert_array_equal(grey(step), np.where(CT[0] > 1999.5, 255, 0))


def test_windows_of_the_functional_groups_belong_to_their_frame(tmp_path: Path) -> None:
    def group(centre: float) -> pydicom.Dataset:
        voi, made = pydicom.Dataset(), pydicom.Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 100
        made.FrameVOILUTSequence = [voi]
        return made

    shared, values = pydicom.Dataset(), pydicom.Dataset()
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "1", "-10", "HU"
    shared.PixelValueTransformationSequence = [values]
    path = dicom(
        tmp_path / "m.dcm", CT, PerFrameFunctionalGroupsSequence=[group(c) for c in (500, 1000, 2000)],
        SharedFunctionalGroupsSequence=[shared],
    )  # fmt: skip
    for number, centre in enumerate((500, 1000, 2000)):
        expected = by_hand(CT[number] - 10.0, centre - 50, centre + 49)
        np.testing.assert_array_equal(grey(f"{path}#frame={number}"), expected)


def table(first: int, entries: list[int], bits: int, **more: str) -> pydicom.Dataset:
    made = pydicom.Dataset()
    made.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    made.add_new("LUTData", "US", entries)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_lookup_tables_of_the_modality_and_of_the_window(tmp_path: Path) -> None:
    stored = np.array([[0, 2, 3, 4], [5, 9, 4, 3]], np.uint16)
    # PS3.3 C.11.1.1.1: what lies below or above the table has its first or last value
    modality = [table(2, [100, 300, 700, 1500], 16, ModalityLUTType="OD")]
    values = np.array([[100, 100, 300, 700], [1500, 1500, 700, 300]], float)
    path = dicom(tmp_path / "m.dcm", stored, ModalityLUTSequence=modality, **TWELVE)
    np.testing.assert_array_equal(grey(path, ReadOptions(window=(0, 2000))), by_hand(values, 0, 2000))
    window: dict[str, Any] = {"WindowCenter": "600.5", "WindowWidth": "1001"}  # black up to 100, white from 1100
    path = dicom(tmp_path / "w.dcm", stored, ModalityLUTSequence=modality, **window, **TWELVE)
    np.testing.assert_array_equal(grey(path), [[0, 0, 51, 153], [255, 255, 153, 51]])

    voi = [table(300, [0, *([7] * 399), 128, 255], 8)]  # 300: 0, 301 to 699: 7, 700: 128, from 701 on: 255
    path = dicom(tmp_path / "v.dcm", stored, ModalityLUTSequence=modality, VOILUTSequence=voi, **TWELVE)
    np.testing.assert_array_equal(grey(path), [[0, 0, 0, 128], [255, 255, 128, 0]])
    words = pydicom.Dataset()
    words.add_new("LUTDescriptor", "US", [4, 2, 8])
    for entries in (np.array([9, 90, 130, 250], "<u2").tobytes(), bytes([9, 90, 130, 250])):  # one or two in a word
        words.add_new("LUTData", "OW", entries)
        path = dicom(tmp_path / "b.dcm", stored, VOILUTSequence=[words], **TWELVE)
        np.testing.assert_array_equal(grey(path), [[9, 9, 90, 130], [250, 250, 130, 90]])
    ten = [table(3, [0, 341, 1023], 10)]  # without a modality's table, of stored values
    path = dicom(tmp_path / "t.dcm", stored, VOILUTSequence=ten, **TWELVE)
    np.testing.assert_array_equal(grey(path), [[0, 0, 0, 85], [255, 255, 85, 0]])
    path = dicom(tmp_path / "i.dcm", stored, VOILUTSequence=ten, PhotometricInterpretation="MONOCHROME1", **TWELVE)
    np.testing.assert_array_equal(grey(path), [[255, 255, 255, 170], [0, 0, 170, 255]])


def test_sixteen_bits_floats_and_signed_values_as_other_images(tmp_path: Path) -> None:
    np.testing.assert_array_equal(grey(dicom(tmp_path / "u.dcm", CT[0])), by_hand(CT[0].astype(float), 0, 65535))
    assert load_picture(dicom(tmp_path / "few.dcm", CT[0])).fitting == (0.0, 4095.0)
    signed = dicom(tmp_path / "s.dcm", CT[0].astype(np.int16) - 1000)
    with pytest.raises(ImageError, match=r"its grey levels are int16, here -1000 to 30\d\d, .* give a window"):
        load_rgb(signed)
    options = ReadOptions(window=(-200, 300))
    np.testing.assert_array_equal(grey(signed, options), by_hand(CT[0] - 1000.0, -200, 300))


def test_slices_of_a_volume_are_upright_whatever_way_it_is_stored(tmp_path: Path) -> None:
    voxels = RNG.randint(0, 256, (5, 6, 7)).astype(np.uint8)  # to the left, the back, the head
    path = nifti(tmp_path / "v.nii.gz", voxels)
    axial, coronal, sagittal = voxels[:, :, 4].T, voxels[:, 2, ::-1].T, voxels[3, :, ::-1].T
    np.testing.assert_array_equal(grey(f"{path}#axis=2,slice=4"), axial)
    np.testing.assert_array_equal(grey(f"{path}#slice=4"), axial)
    np.testing.assert_array_equal(grey(f"{path}#axis=1,slice=2"), coronal)
    np.testing.assert_array_equal(grey(f"{path}#axis=0,slice=3"), sagittal)
    # the same patient, stored head to feet first, then front to back turned, then right
    turned = np.ascontiguousarray(voxels.transpose(2, 1, 0)[::-1, ::-1, ::-1])
    affine = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 1.0]])
    other = nifti(tmp_path / "w.nii", turned, affine)
    np.testing.assert_array_equal(grey(f"{other}#axis=0,slice=2"), axial)
    np.testing.assert_array_equal(grey(f"{other}#axis=1,slice=3"), coronal)
    np.testing.assert_array_equal(grey(f"{other}#axis=2,slice=1"), sagittal)


def test_all_slices_of_a_volume_have_one_scale(tmp_path: Path) -> None:
    floats = RNG.rand(4, 5, 6).astype(np.float32)
    floats[:, :, 0] /= 10
    floats[0, 0, 5] = 900
    path = nifti(tmp_path / "f.nii.gz", floats)
    for number in (0, 5):
        np.testing.assert_array_equal(grey(f"{path}#slice={number}"), by_hand(floats[:, :, number].T, 0, 65535))
    stored = RNG.randint(-100, 100, (4, 5, 6)).astype(np.int16)
    scaled = nifti(tmp_path / "s.nii", stored, slope=(0.5, 200.0))
    levels = stored[:, :, 2].T * 0.5 + 200
    np.testing.assert_array_equal(grey(f"{scaled}#slice=2"), by_hand(levels, 0, 255))
    with pytest.raises(ImageError, match=rf"int16, here {stored.min()} to {stored.max()}, so"):
        load_rgb(f"{nifti(tmp_path / 'i.nii', stored)}#slice=2")
    shown = nifti(tmp_path / "c.nii", stored, cal_min=-50, cal_max=50)
    np.testing.assert_array_equal(grey(f"{shown}#slice=2"), by_hand(stored[:, :, 2].T.astype(float), -50, 50))


def test_labels_of_a_volume_are_a_mask(tmp_path: Path) -> None:
    labels = np.zeros((5, 6, 7), np.int16)
    labels[1, 2, 3], labels[4, 5, 3] = 1, 300
    path = nifti(tmp_path / "seg.nii.gz", labels)
    np.testing.assert_array_equal(load_mask(f"{path}#slice=3"), labels[:, :, 3].T > 0)
    assert not load_mask(f"{path}#slice=2").any()


def test_pages_of_a_tiff_and_rectangles(tmp_path: Path) -> None:
    pages = RNG.randint(0, 256, (3, 8, 9)).astype(np.uint8)
    path, ome = tmp_path / "s.tif", tmp_path / "s.ome.tiff"
    tifffile.imwrite(path, pages, photometric="minisblack")
    tifffile.imwrite(ome, (pages.astype(np.float32) / 255), ome=True, metadata={"axes": "ZYX"})
    for number in range(3):
        np.testing.assert_array_equal(grey(f"{path}#page={number}"), pages[number])
        np.testing.assert_array_equal(grey(f"{ome}#page={number}"), pages[number])
    np.testing.assert_array_equal(grey(path), pages[0])
    np.testing.assert_array_equal(grey(f"{path}#page=2,xywh=2,1,4,5"), pages[2, 1:6, 2:6])
    for wrong in ("#page=3", "#slice=1", "#xywh=5,0,5,5", "#page=x", "#page=1,page=1", "#colour=1"):
        with pytest.raises(ImageError, match=r"Cannot read image '.*s\.tif#"):
            load_rgb(f"{path}{wrong}")
    with pytest.raises(ImageError, match=r"it holds 3 picture\(s\), counted from 0, so there is no 3"):
        load_rgb(f"{ome}#page=3")


def test_a_file_of_that_very_name_comes_first(tmp_path: Path) -> None:
    plain, odd = tmp_path / "a.png", tmp_path / "a.png#page=1"
    Image.new("L", (4, 4), 10).save(plain)
    Image.new("L", (4, 4), 200).save(odd, "png")
    assert grey(odd)[0, 0] == 200
    assert split(odd) == (str(odd), "")
    odd.unlink()
    assert split(odd) == (str(plain), "page=1")
    assert resolved(odd) == f"{plain.resolve()}#page=1"
    assert Part.read("axis=2,slice=40&xywh=0,0,8,8") == Part(axis=2, slice=40, xywh=(0, 0, 8, 8))


def test_expanding(tmp_path: Path) -> None:
    volume = nifti(tmp_path / "v.nii.gz", np.zeros((5, 6, 12), np.uint8))
    series = dicom(tmp_path / "m.dcm", CT)
    pages = tmp_path / "p.tif"
    tifffile.imwrite(pages, CT, photometric="minisblack")
    one = dicom(tmp_path / "one.dcm", CT[0])
    assert list(expand_slices(volume, "every:5")) == [f"{volume}#axis=2,slice={n}" for n in (0, 5, 10)]
    assert list(expand_slices(f"{volume}#axis=0")) == [f"{volume}#axis=0,slice={n}" for n in range(5)]
    assert list(expand_slices(series)) == [f"{series}#frame={n}" for n in range(3)]
    assert list(expand_slices(pages, "every:2")) == [f"{pages}#page={n}" for n in (0, 2)]
    for alone in (one, f"{volume}#slice=3", tmp_path / "a.png"):
        assert list(expand_slices(alone)) == [str(alone)]
    for wrong in ("some", "every:0", "every:-1", "every"):
        with pytest.raises(ValueError, match="slices must be 'all' or 'every:N'"):
            list(expand_slices(one, wrong))
    for several in (volume, series):
        with pytest.raises(ImageError, match=r"name one, as in '[vm].*=\d+', or take all with --slices all"):
            load_rgb(several)


def broken(folder: Path) -> list[Path]:
    """Write files of which nothing can be read."""
    whole = dicom(folder / "whole.dcm", CT[0]).read_bytes()
    volume = nifti(folder / "whole.nii", np.zeros((5, 6, 7), np.uint8)).read_bytes()
    for path in folder.iterdir():
        path.unlink()
    contents = {
        "empty.dcm": b"",
        "cut.dcm": whole[:-500],
        "header.dcm": whole[:700],
        "text.dcm": b"Doe^Jane^Quilla" * 50,
        "letters.dcm": b"\0" * 128 + b"DICM" + b"Doe^Jane^Quilla" * 50,
        "empty.nii": b"",
        "cut.nii": volume[:400],
        "text.nii.gz": b"no gzip at all",
        "packed.nii.gz": gzip.compress(volume)[:60],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    coded = io.BytesIO()
    Image.new("L", (400, 300)).save(coded, "jpeg")
    dicom(folder / "larger.dcm", CT[0].astype(np.uint8), pydicom.uid.JPEGBaseline8Bit, [coded.getvalue()])
    dicom(folder / "digits.dcm", CT[0], BitsStored=99)
    nifti(folder / "complex.nii", np.zeros((5, 6, 7), np.complex64))
    nifti(folder / "time.nii", np.zeros((5, 6, 7, 3), np.uint8))
    return sorted(folder.iterdir())


def test_whatever_is_broken_is_one_clear_error_without_a_word_of_the_header(tmp_path: Path) -> None:
    for path in broken(tmp_path):
        name = f"{path}#slice=1" if path.name.endswith((".nii", ".nii.gz")) else str(path)
        with pytest.raises(ImageError) as caught:
            load_rgb(name)
        message = str(caught.value)
        assert message.startswith(f"Cannot read image '{name}': ")
        assert len(message.splitlines()) == 1
        assert not any(value in message for value in PATIENT.values())
    with pytest.raises(ImageError, match="its header says 40 x 32 pixels, its compressed frame 400 x 300"):
        load_rgb(tmp_path / "larger.dcm")


def test_pixels_are_counted_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ReadOptions(max_pixels=1000)
    path, volume = dicom(tmp_path / "a.dcm", CT[0]), nifti(tmp_path / "v.nii", np.zeros((40, 40, 2), np.uint8))
    for name, size in ((str(path), "40 x 32"), (f"{volume}#slice=0", "40 x 40")):
        with pytest.raises(ImageError, match=rf"it has {size} pixels, more than max_pixels=1000 \(--max-pixels\)"):
            load_rgb(name, options)
    monkeypatch.setattr("zsad.images.dicom._INFLATED", 10_000)
    bomb = dicom(tmp_path / "b.dcm", np.zeros((200, 200), np.uint8), pydicom.uid.DeflatedExplicitVRLittleEndian)
    assert bomb.stat().st_size < 3000 < len(zlib.compress(b"")) + 40_000
    with pytest.raises(ImageError, match="no DICOM file, or a damaged one"):
        load_rgb(bomb)

import io
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image, ImageCms
from torchvision import transforms

from zsad.images import (
    ImageError,
    ReadOptions,
    image_size,
    list_images,
    load_mask,
    load_picture,
    load_rgb,
    mask_levels,
    mask_to_tensor,
    resized,
    to_tensor,
    walk,
)
from zsad.images.reading import to_rgb
from zsad.types import ImageProtocol

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (12, 17), dtype=np.uint8)


def pixels(path: Path) -> np.ndarray:
    image = load_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


def test_rgb_and_grey_keep_their_values(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    Image.fromarray(GREY).save(tmp_path / "b.bmp")
    assert np.array_equal(pixels(tmp_path / "a.png"), RGB)
    assert np.array_equal(pixels(tmp_path / "b.bmp"), repeated(GREY))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), repeated((GREY > 127) * np.uint8(255)))


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    alpha = RNG.integers(0, 256, (12, 17, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], -1)).save(tmp_path / "a.png")
    Image.fromarray(np.concatenate([GREY[..., None], alpha], -1), mode="LA").save(tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), RGB)
    assert np.array_equal(pixels(tmp_path / "b.png"), repeated(GREY))


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_palette_is_looked_up(tmp_path: Path, transparency: int | bytes | None) -> None:
    image = Image.fromarray(GREY % 3, mode="P")
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    table = np.array([[10, 20, 30], [200, 100, 0], [0, 0, 255]], np.uint8)
    assert np.array_equal(pixels(tmp_path / "a.png"), table[GREY % 3])


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "black.tif")
    assert np.allclose(pixels(tmp_path / "red.jpg"), [255, 0, 0], atol=6)
    assert np.array_equal(pixels(tmp_path / "black.tif"), np.zeros((8, 8, 3)))


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_16_bit_is_scaled_not_clipped(tmp_path: Path, extension: str) -> None:
    values = np.array([[0, 1000, 40000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{extension}")
    assert pixels(tmp_path / f"a.{extension}")[0, :, 0].tolist() == [0, 4, 156, 255]


def test_stated_bit_depth_is_white(tmp_path: Path) -> None:
    import tifffile

    values = np.array([[0, 2048, 4095]], np.uint16)
    Image.fromarray(values).save(tmp_path / "max.tif", tiffinfo={281: 4095})
    assert pixels(tmp_path / "max.tif")[0, :, 0].tolist() == [0, 128, 255]
    tifffile.imwrite(tmp_path / "rgb16.tif", np.full((4, 4, 3), 40000, np.uint16), photometric="rgb")
    assert np.abs(pixels(tmp_path / "rgb16.tif").astype(int) - 156).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 250.0], [0, 100, 250]),
        ([0.0, 1000.0, 40000.0], [0, 4, 156]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([3.0, 3.0, 3.0], [3, 3, 3]),
    ],
)
def test_float_tiff(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif")[0, :, 0].tolist() == expected


def test_tiff_that_pillow_refuses(tmp_path: Path) -> None:
    import tifffile

    values = RNG.random((5, 6, 3)).astype(np.float32)
    values.flat[0] = 1.0
    for planar in ("contig", "separate"):
        stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
        tifffile.imwrite(tmp_path / "a.tiff", stored, photometric="rgb", planarconfig=planar)
        assert np.array_equal(pixels(tmp_path / "a.tiff"), np.rint(values.astype(np.float64) * 255).astype(np.uint8))


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int, extension: str) -> None:
    stored = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, 1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{extension}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, lossless=True)
    assert np.array_equal(pixels(path), RGB)
    assert image_size(path) == (12, 17)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_upright_picture_is_not_turned_again(orientation: int) -> None:
    stored = Image.fromarray(RGB)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(file := io.BytesIO(), "png", exif=exif)
    once = to_rgb(Image.open(file))
    assert not np.array_equal(np.asarray(once), RGB)
    np.testing.assert_array_equal(np.asarray(to_rgb(once)), np.asarray(once))


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff" + b"\xff" * 9)
    assert np.array_equal(pixels(tmp_path / "a.png"), RGB)


def test_lab_tiff(tmp_path: Path) -> None:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.new("RGB", (4, 4), (120, 100, 90)), *profiles, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "a.tif")
    assert np.allclose(pixels(tmp_path / "a.tif"), [120, 100, 90], atol=2)


def broken_files(folder: Path) -> dict[str, str]:
    """Write one broken file of each kind; return file name -> words of the expected error."""
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    for extension in ("png", "jpg", "tif", "bmp", "webp", "gif"):
        noise.save(folder / f"whole.{extension}")
        data = (folder / f"whole.{extension}").read_bytes()
        (folder / f"half.{extension}").write_bytes(data[: len(data) // 2])
        (folder / f"whole.{extension}").unlink()
    header = Image.new("RGB", (8, 8))
    header.save(folder / "zero.bmp")
    zero = bytearray((folder / "zero.bmp").read_bytes())
    zero[18:22] = (0).to_bytes(4, "little")
    (folder / "zero.bmp").write_bytes(zero)
    (folder / "folder.png").mkdir()
    return {"empty.png": "empty", "text.jpg": "not an image"} | {
        name: "" for name in (*(f"half.{e}" for e in ("png", "jpg", "tif", "bmp", "webp")), "zero.bmp", "folder.png")
    }


def test_broken_files_are_one_error_that_names_the_file(tmp_path: Path) -> None:
    for name, words in broken_files(tmp_path).items():
        for read in (load_rgb, load_mask):
            with pytest.raises(ImageError, match=rf"(?s){name}.*{words}"):
                read(tmp_path / name)
    with pytest.raises(ImageError, match=r"gone\.png': no such file"):
        load_rgb(tmp_path / "gone.png")


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 100)
    with pytest.raises(ImageError, match=r"bomb\.png.*90000 pixels"):
        load_rgb(tmp_path / "bomb.png")


MARKED = RNG.random((20, 30)) > 0.7


@pytest.mark.parametrize(
    "encoding",
    [
        "grey255",
        "grey1",
        "indices",
        "palette",
        "palette_black",
        "rgb",
        "rgba_clear",
        "la",
        "one_bit",
        "16bit",
        "16bit_1",
    ],
)
def test_every_mask_encoding_gives_the_same_pixels(tmp_path: Path, encoding: str) -> None:
    one = MARKED.astype(np.uint8)
    if encoding.startswith("palette"):
        image = Image.fromarray(one * RNG.integers(1, 3, one.shape, dtype=np.uint8), mode="P")
        image.putpalette([0] * 9 if encoding == "palette_black" else [0, 0, 0, 85, 85, 85, 255, 255, 255])
    else:
        image = {
            "grey255": lambda: Image.fromarray(one * np.uint8(255)),
            "grey1": lambda: Image.fromarray(one),
            "indices": lambda: Image.fromarray(one * RNG.integers(1, 10, one.shape, dtype=np.uint8)),
            "rgb": lambda: Image.fromarray(np.stack([one * 0, one * 0, one], -1)),
            "rgba_clear": lambda: Image.fromarray(np.stack([one * 9, one, one, one * 0], -1)),
            "la": lambda: Image.fromarray(np.stack([one, one * 0 + 255], -1), mode="LA"),
            "one_bit": lambda: Image.fromarray(MARKED),
            "16bit": lambda: Image.fromarray(one.astype(np.uint16) * np.uint16(65535)),
            "16bit_1": lambda: Image.fromarray(one.astype(np.uint16)),
        }[encoding]()
    image.save(tmp_path / "mask.png")
    assert np.array_equal(load_mask(tmp_path / "mask.png"), MARKED)


def test_other_mask_files(tmp_path: Path) -> None:
    Image.fromarray(MARKED.astype(np.float32) * 1e-6).save(tmp_path / "float.tif")
    assert np.array_equal(load_mask(tmp_path / "float.tif"), MARKED)
    block = np.zeros((32, 32), np.uint8)
    block[8:24, 8:24] = 255
    Image.fromarray(block).save(tmp_path / "lossy.jpg", quality=60)
    assert np.array_equal(load_mask(tmp_path / "lossy.jpg", threshold=127), block > 0)
    assert load_mask(tmp_path / "lossy.jpg").sum() >= (block > 0).sum()


def test_mask_threshold_is_a_level(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 127, 128, 255]], np.uint8)).save(tmp_path / "a.png")
    assert load_mask(tmp_path / "a.png").tolist() == [[False, True, True, True, True]]
    assert load_mask(tmp_path / "a.png", 127).tolist() == [[False, False, False, True, True]]
    Image.fromarray(np.array([[0, 1, 30000, 65535]], np.uint16)).save(tmp_path / "b.png")
    assert load_mask(tmp_path / "b.png", 127).tolist() == [[False, False, False, True]]
    assert mask_levels(tmp_path / "a.png").tolist() == [[0, 1, 127, 128, 255]]
    with pytest.raises(ValueError, match=r"0\.\.254, got 255"):
        load_mask(tmp_path / "a.png", 255)


@pytest.mark.parametrize("resize", ["squash", "short_side"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(40, 61), (61, 40), (19, 19)])
def test_to_tensor_equals_torchvision(resize: str, interpolation: str, size: tuple[int, int]) -> None:
    protocol = ImageProtocol(size=28, resize=resize, interpolation=interpolation)  # type: ignore[arg-type]
    image = Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8))
    reference = transforms.Compose(
        [
            transforms.Resize((28, 28) if resize == "squash" else 28, transforms.InterpolationMode(interpolation)),
            transforms.ToTensor(),
            transforms.Normalize(protocol.mean, protocol.std),
        ]
    )(image)
    tensor = to_tensor(image, protocol)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert torch.equal(tensor, reference)
    assert tuple(tensor.shape[1:]) == resized(size, protocol)


@pytest.mark.parametrize("size", [(200, 301), (9, 13)])
def test_bilinear_mask_equals_the_released_transform(size: tuple[int, int]) -> None:
    mask = np.zeros(size, bool)
    mask[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    released = transforms.Compose([transforms.Resize((56, 56)), transforms.ToTensor()])
    expected = released(Image.fromarray(mask.astype(np.uint8) * 255))[0] > 0.5
    assert torch.equal(mask_to_tensor(mask, ImageProtocol(size=56)), expected)
    nearest = transforms.Resize((56, 56), transforms.InterpolationMode.NEAREST)
    expected = torch.from_numpy(np.asarray(nearest(Image.fromarray(mask.astype(np.uint8)))) != 0)
    assert torch.equal(mask_to_tensor(mask, ImageProtocol(size=56, mask_resize="nearest")), expected)


def test_list_images_is_sorted_recursive_and_picky(tmp_path: Path) -> None:
    names = ["b/2.JPG", "b/10.jpeg", "a.PNG", "c/d/x.tif", ".hidden/x.png", "b/.x.png", "notes.txt", "c/Thumbs.db"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c" / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = [path.relative_to(tmp_path).as_posix() for path in list_images([tmp_path])]
    assert found == ["a.PNG", "b/10.jpeg", "b/2.JPG", "c/d/x.tif"]
    assert next(list_images([tmp_path / "notes.txt", str(tmp_path / "b")])) == tmp_path / "notes.txt"
    with pytest.raises(FileNotFoundError, match="gone"):
        list(list_images([tmp_path / "gone"]))


def test_list_images_streams(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    listing = list_images([tmp_path / "a.png", tmp_path / "gone"])
    assert next(listing) == tmp_path / "a.png"


# ---- grey levels beyond 8 bits, and how much memory they take


def tiff(path: Path, values: np.ndarray, **more: Any) -> Path:
    import tifffile

    tifffile.imwrite(path, values, **more)
    return path


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint32", "int64", "uint64"])
def test_signed_and_32_bit_levels_need_a_window_and_are_right_with_one(tmp_path: Path, kind: str) -> None:
    values = np.array([[0, 20, 40, 100, 120]], kind)
    path = tiff(tmp_path / "a.tif", values)
    with pytest.raises(ImageError, match=r"a\.tif.*give a window \(--window LOW,HIGH\)"):
        load_rgb(path)
    found = np.asarray(load_rgb(path, ReadOptions(window=(0, 100))))[0, :, 0]
    assert found.tolist() == [0, 51, 102, 255, 255]
    assert (np.asarray(load_rgb(path, ReadOptions(bits=7)))[0, :, 0] == np.rint(values[0] * (255 / 127))).all()


def test_unsigned_32_bit_levels_beyond_31_bits(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.array([[0, 2**31, 2**32 - 1]], np.uint32))
    assert np.asarray(load_rgb(path, ReadOptions(bits=32)))[0, :, 0].tolist() == [0, 128, 255]


def test_values_that_are_no_grey_levels_are_errors(tmp_path: Path) -> None:
    tiff(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32))
    tiff(tmp_path / "nan64.tif", np.full((4, 4), np.nan))
    tiff(tmp_path / "complex.tif", np.ones((4, 4), np.complex64))
    for name, words in (("nan", "no finite value"), ("nan64", "no finite value"), ("complex", "complex numbers")):
        with pytest.raises(ImageError, match=rf"{name}\.tif.*{words}"):
            load_rgb(tmp_path / f"{name}.tif")


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("more", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"byteorder": ">"}])
def test_floats_of_every_width_are_read_alike(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    values = (np.arange(40 * 50).reshape(40, 50) / 1999).astype(kind)
    path = tiff(tmp_path / "a.tif", values, **more)
    assert np.array_equal(pixels(path)[..., 1], np.rint(values.astype(np.float64) * 255).astype(np.uint8))


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_12_bits_in_16_are_warned_of_and_a_window_restores_them(tmp_path: Path, extension: str) -> None:
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / f"a.{extension}")
    picture = load_picture(tmp_path / f"a.{extension}")
    assert len(np.unique(np.asarray(picture.image))) <= 17
    assert picture.fitting == (0, 4095)
    assert picture.warning is not None
    assert "0 to 4095 are less than an eighth of 0 to 65535: a window of 0,4095 would fit" in picture.warning
    for options in (ReadOptions(window=(0, 4095)), ReadOptions(bits=12)):
        picture = load_picture(tmp_path / f"a.{extension}", options)
        assert picture.warning is None
        assert picture.fitting is None
        assert np.array_equal(np.asarray(picture.image)[..., 0], np.rint(values * (255 / 4095)).astype(np.uint8))


def test_16_bit_colour_of_a_tiff_takes_the_window(tmp_path: Path) -> None:
    values = RNG.integers(0, 4096, (8, 9, 3), dtype=np.uint16)
    path = tiff(tmp_path / "a.tif", values, photometric="rgb")
    found = np.asarray(load_rgb(path, ReadOptions(bits=12)))
    assert np.array_equal(found, np.rint(values * (255 / 4095)).astype(np.uint8))


def test_16_bit_colour_of_a_png_is_read_in_8_and_says_so(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)  # width, height, 16 bits, colour
    data = zlib.compress(b"\0" + struct.pack(">6H", 0, 257, 65535, 4095, 40000, 1))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert load_picture(tmp_path / "a.png").warning is None
    picture = load_picture(tmp_path / "a.png", ReadOptions(bits=12))
    assert picture.warning == "The window was not applied: colour of 16 bits is read in 8."
    assert np.asarray(picture.image).ravel().tolist() == [0, 1, 255, 15, 156, 0]


def test_pictures_that_use_their_range_carry_no_warning(tmp_path: Path) -> None:
    cases: dict[str, np.ndarray] = {"a.png": RGB, "b.png": np.array([[0, 60000]], np.uint16)}
    cases |= {"c.tif": np.array([[0.0, 0.9]], np.float32), "d.png": np.zeros((4, 4), np.uint16)}
    for name, values in cases.items():
        Image.fromarray(values).save(tmp_path / name)
        assert load_picture(tmp_path / name).warning is None, name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": (5, 5)}, "LOW < HIGH"),
        ({"window": (0, float("nan"))}, "LOW < HIGH"),
        ({"bits": 0}, r"bits must be in 1\.\.64"),
        ({"bits": 8, "window": (0, 1)}, "not both"),
        ({"max_pixels": 0}, "max_pixels must be at least 1"),
    ],
)
def test_options_of_reading_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReadOptions(**options)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    Image.fromarray(np.zeros((300, 200), np.uint16)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 20])  # would not decode
    with pytest.raises(ImageError, match=r"it has 200 x 300 pixels, more than max_pixels=59999 "):
        load_rgb(path, ReadOptions(max_pixels=59_999))


PEAK = """
import resource, sys
from zsad.images import load_rgb, ReadOptions
from zsad.images.reading import load_picture
load_rgb(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picture = load_rgb(sys.argv[2]).resize((96, 96))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("kind", ["I;16", "F", "RGBA", "CMYK", "float64"])
def test_25_megapixels_of_any_mode_take_a_quarter_of_what_100_may(tmp_path: Path, kind: str) -> None:
    small, large = tmp_path / "small.png", tmp_path / f"large.{'png' if kind in ('I;16', 'RGBA') else 'tif'}"
    Image.new("L", (8, 8)).save(small)
    if kind == "float64":
        tiff(large, np.full((5000, 5000), 0.5))
    else:
        Image.new(kind, (5000, 5000)).save(large)
    done = subprocess.run([sys.executable, "-c", PEAK, str(small), str(large)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.9e9 / 4 + 60e6  # the latter for bands and libraries loaded late


@pytest.mark.parametrize("rows", [None, 1, 16])
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize(("shape", "plan"), [((40, 50), None), ((40, 50, 3), 1), ((3, 40, 50), 2), ((4, 40, 50), 2)])
def test_compressed_strips_tiles_and_planes(
    tmp_path: Path, shape: tuple[int, ...], plan: int | None, tile: tuple[int, int] | None, rows: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("zsad.images.tiff._BAND", 200)
    values = (RNG.integers(0, 256, shape) / 255).astype(np.float32)
    kind: dict[str, Any] = {None: {}, 1: {"photometric": "rgb"}, 2: {"photometric": "rgb", "planarconfig": "separate"}}[
        plan
    ]
    kind = {**kind, "extrasamples": ["unassalpha"]} if shape[0] == 4 else kind
    path = tiff(
        tmp_path / "a.tif", values, compression="zlib", **kind, **({"tile": tile} if tile else {"rowsperstrip": rows})
    )
    expected = np.rint(np.moveaxis(values[:3], 0, -1) * 255 if plan == 2 else values * 255).astype(np.uint8)
    expected = np.repeat(expected[..., None], 3, -1) if plan is None else expected
    assert np.array_equal(np.asarray(load_rgb(path, ReadOptions(window=(0, 1)))), expected)


def test_a_strip_that_would_be_decoded_whole_is_refused_before(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.ones((40, 50), np.float64), compression="zlib", rowsperstrip=40)
    import tifffile

    with tifffile.TiffFile(path, mode="r+") as file:  # a header that asks for much, on data that hold little
        for name, value in (("ImageLength", 9000), ("ImageWidth", 9000), ("RowsPerStrip", 9000)):
            file.pages[0].tags[name].overwrite(value)
    with pytest.raises(ImageError, match=r"strips or tiles of 648 MB, which are decoded whole, and 600 MB are allowed"):
        load_rgb(path)


@pytest.mark.parametrize("kind", ["float32", "int16"])
def test_25_megapixels_in_one_compressed_strip_take_a_quarter_of_what_100_may(tmp_path: Path, kind: str) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    tiff(tmp_path / "a.tif", np.full((5000, 5000), 1, kind), compression="zlib", rowsperstrip=5000)
    code = PEAK.replace("load_rgb(sys.argv[2])", "load_rgb(sys.argv[2], ReadOptions(window=(0, 2)))")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "small.png"), str(tmp_path / "a.tif")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.9e9 / 4 + 60e6


@pytest.mark.parametrize("extension", ["heic", "avif", "HEIF"])
def test_pictures_of_telephones(tmp_path: Path, extension: str) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (48, 1, 3))
    pillow_heif.from_pillow(Image.fromarray(ramp)).save(tmp_path / "a.heic", quality=95)
    Image.fromarray(ramp).save(tmp_path / "a.avif", quality=95)
    path = (tmp_path / f"a.{extension if extension == 'avif' else 'heic'}").rename(tmp_path / f"b.{extension}")
    assert np.abs(pixels(path).astype(int) - ramp).mean() < 3
    assert path in list_images([tmp_path])


def test_a_reader_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.heic").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "registered_extensions", dict)
    with pytest.raises(ImageError, match=r"a\.heic': \.heic files need pip install 'zsad\[heif\]'"):
        load_rgb(tmp_path / "a.heic")


# ---- folders that link to each other, and those that cannot be read


def test_a_lattice_of_links_is_walked_once(tmp_path: Path) -> None:
    folders = [tmp_path / f"{number:02d}" for number in range(18)]
    for folder in folders:
        folder.mkdir()
        (folder / "a.png").touch()
    for folder in folders:
        for other in folders:
            (folder / f"to {other.name}").symlink_to(other, target_is_directory=True)
    found = list(walk([tmp_path]))
    assert len({one.real for one in found}) == len(found) == 18


def test_a_folder_that_cannot_be_read_is_an_item_of_its_own() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "closed").mkdir()
        (root / "a.png").touch()
        (root / "z.png").touch()
        (root / "closed").chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # to root no folder is closed
                os.seteuid(65534)
            found = list(walk([root]))
            with pytest.raises(ImageError, match=r"Cannot list folder .*closed': Permission denied"):
                list(list_images([root]))
        finally:
            os.seteuid(user)
            (root / "closed").chmod(0o755)
    assert [Path(one.path).name for one in found] == ["a.png", "closed", "z.png"]
    assert [one.error is None for one in found] == [True, False, True]


@pytest.mark.parametrize("kind", ["int16", "float32", "float64"])
def test_orientation_of_tiffs_that_are_read_in_bands(tmp_path: Path, kind: str) -> None:
    values = (np.arange(12).reshape(3, 4) * 20).astype(kind)
    path = tiff(tmp_path / "a.tif", values, extratags=[(274, "H", 1, 6, True)])
    found = np.asarray(load_rgb(path, ReadOptions(window=(0, 255))))[..., 0]
    assert np.array_equal(found, np.rot90(values, -1).astype(np.uint8))

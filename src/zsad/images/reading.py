"""Any image file becomes an upright RGB picture or a mask here, and nowhere else."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError, features

from zsad.images.fragments import Part, split
from zsad.images.levels import DEFAULT, Extent, ReadOptions, Window, to_8_bit
from zsad.images.medical import is_scan, read_scan
from zsad.images.scan import Scan, as_mask
from zsad.images.tiff import NoSuchPageError, TooLargeError, read_tiff, tiff_orientation

_BAND = 2**22  # pixels at a time
_NO_LIMIT = 2**62

Size = tuple[int, int]


_WHOLE = "zsad_whole_size"  # key of Pillow's info: (width, height) before a smaller picture was decoded
_SAYS_TURN = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where Pillow looks for an orientation
_SIDEWAYS = frozenset({5, 6, 7, 8})  # orientations in which width and height change places

_TIFF_BITS, _TIFF_MAX_VALUE, _TIFF_SAMPLE_FORMAT = 258, 281, 339  # tag numbers of TIFF 6.0


class ImageError(ValueError):
    """A file cannot be read as an image; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file as an upright RGB picture, with what is doubtful about it.

    Args:
        image: 8-bit RGB.
        warning: A sentence, or None.
        fitting: The window that would fit, if the grey levels use less than an eighth of their container's range.
        source: (height, width) of the whole picture, if a smaller one was decoded.
        instance: SHA-256 of a DICOM file's SOP instance UID, in hexadecimal; nothing else of a header is kept.
    """

    image: Image.Image
    warning: str | None = None
    fitting: Window | None = None
    source: Size | None = None
    instance: str | None = None

    @property
    def size(self) -> Size:
        """(height, width) of the upright picture as the file holds it."""
        return self.source or (self.image.height, self.image.width)


def load_rgb(path: str | Path, options: ReadOptions = DEFAULT) -> Image.Image:
    """Return the picture in a file as 8-bit RGB, upright.

    Camera rotation (EXIF) is applied, palettes are looked up, an alpha channel is dropped (not blended), one-channel
    pictures are repeated. More than 8 bits are scaled, never clipped: 16-bit levels by 65535 or by the depth that the
    file states; floats in [0, 1] by 1, up to 255 by 255, up to 65535 by 65535, and any other range from its own
    smallest to its greatest value; or by the window of ``options``. Of several frames or pages the first is taken,
    unless the path names one: ``"stack.tif#page=2"``, counted from 0; ``#xywh=0,0,64,64`` cuts a rectangle out. DICOM
    and NIfTI are read by :mod:`zsad.images.medical`; of a volume a path names a slice.

    Raises:
        ImageError: The file is missing, empty, truncated, of no size, too large to be meant seriously
            (``options.max_pixels``), or not an image; its values are all NaN or complex; or they are signed or have
            32 bits and more, and no window says which are black and white.
    """
    return load_picture(path, options).image


def load_picture(path: str | Path, options: ReadOptions = DEFAULT, least: int | None = None) -> Picture:
    """Return what :func:`load_rgb` does, with a warning where the grey levels use a small part of their range.

    Args:
        path: The file.
        options: How it is read.
        least: A JPEG file may be decoded at half, a quarter or an eighth of its size, as long as both sides keep so
            many pixels. None: never.

    Raises:
        ImageError: As for :func:`load_rgb`.
    """
    part, scan = _scan(path, options)
    if scan is not None:
        picture = _from_scan(scan, path, options)
    else:
        image = _open(path, options=options, least=None if part.xywh else least)
        if isinstance(image, Picture):
            picture = image
        else:
            source: Size | None = image.info.get(_WHOLE)
            if source is not None and _orientation(image) not in _SIDEWAYS:
                source = source[1], source[0]
            picture = replace(_to_picture(image, path, options, owned=True), source=source)
    return picture if part.xywh is None else _cut(picture, part.xywh, path)


def to_rgb(image: Image.Image, path: str | Path = "<image>", options: ReadOptions = DEFAULT) -> Image.Image:
    """Return a picture of any mode as upright 8-bit RGB; the rules are those of :func:`load_rgb`.

    Args:
        image: The picture; it is not changed.
        path: What to call it in an error message.
        options: How grey levels are read.

    Raises:
        ImageError: The pixels cannot be decoded or the mode cannot be converted.
    """
    return _to_picture(image, path, options).image


def _to_picture(image: Image.Image, path: str | Path, options: ReadOptions, owned: bool = False) -> Picture:
    try:
        image.load()  # a picture that is as it should be would fail later, and as something else
        orientation = _orientation(image)
        warning, fitting, window = None, None, (0.0, 255.0)
        if image.mode.startswith("I") or image.mode == "F":
            window, full, extent = _window(image, options)
            fitting = extent.fitting(full) if options.limits is None and extent is not None else None
            warning = None if fitting is None or extent is None else _small_part(extent, full, fitting)
        elif options.limits is not None and image.info.get("zsad_deep_colour"):
            warning = "The window was not applied: colour of 16 bits is read in 8."
        if image.mode == "RGB" and orientation == 1:
            return Picture(image, warning)
        rgb = _in_bands(image, window) if image.mode != "RGB" else image
        if owned and rgb is not image:
            image.close()  # 400 MB of a hundred megapixels, before the next copy
        if orientation != 1:
            rgb = rgb.transpose(_TURNS[orientation])
            for note in _SAYS_TURN:  # else who reads the picture again would turn it again
                rgb.info.pop(note, None)
        return Picture(rgb, warning, fitting)
    except Exception as error:  # Pillow's decoders raise almost any type on damaged data
        raise ImageError(f"Cannot decode image '{path}': {_reason(error)}") from error


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _small_part(extent: Extent, full: Window, fitting: Window) -> str:
    return (
        f"Its grey levels {extent.low:g} to {extent.high:g} are less than an eighth of {full[0]:g} to {full[1]:g}: "
        f"a window of {fitting[0]:g},{fitting[1]:g} would fit."
    )


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (top, rows of a picture), few pixels at a time."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _in_bands(image: Image.Image, window: Window) -> Image.Image:
    """Return a picture of any mode as RGB; it takes the memory of the result and of one band."""
    rgb = Image.new("RGB", image.size)
    for top, band in _bands(image):
        rgb.paste(_band_to_rgb(band, window), (0, top))
    return rgb


def _band_to_rgb(band: Image.Image, window: Window) -> Image.Image:
    if band.mode.startswith("I") or band.mode == "F":
        return Image.fromarray(to_8_bit(np.asarray(band), window)).convert("RGB")
    band.info.pop("transparency", None)  # else Pillow warns about a key that we ignore anyway
    if band.mode in {"La", "RGBa"}:  # colour is stored multiplied by alpha
        band = band.convert("LA" if band.mode == "La" else "RGBA")
    if band.mode == "LAB":  # Pillow converts it through colour profiles only
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return cast(Image.Image, ImageCms.profileToProfile(band, *profiles, outputMode="RGB"))
    return band.convert("RGB")


def load_mask(path: str | Path, threshold: int = 0) -> NDArray[np.bool_]:
    """Return which pixels of a mask file are marked, at the file's own size.

    A pixel is marked if its stored value exceeds ``threshold``; in a palette file that value is the index, not the
    colour, in a colour file the largest channel, without alpha. The mask is turned like its image if it carries EXIF.

    Args:
        path: The mask file.
        threshold: 0 for "not zero", the published rule. A level of 1 to 254 is one of 0..255; masks with more than
            8 bits are brought to that range first (their smallest nonzero values still exceed 0).

    Returns:
        Array of shape (height, width).

    Raises:
        ImageError: As for :func:`load_rgb`.
        ValueError: ``threshold`` is not in 0..254.
    """
    if not 0 <= threshold <= 254:
        raise ValueError(f"mask threshold must be a grey level in 0..254, got {threshold}.")
    return mask_levels(path) > threshold


def mask_levels(path: str | Path) -> NDArray[Any]:
    """Return the stored values of a mask file as one number per pixel, shape (height, width).

    Palette files give the index, 1-bit files 0 and 1, colour files their largest channel; values beyond 8 bits come
    as floats in 0..255 so that no nonzero value becomes zero.

    Raises:
        ImageError: As for :func:`load_rgb`.
    """
    _, scan = _scan(path, ReadOptions(max_pixels=_NO_LIMIT))
    if scan is not None:
        return as_mask(scan.values)
    image = _open(path)
    try:
        scale = _full_scale(image)
        image = _upright(image)
        if image.mode == "P":
            return np.asarray(image)
        if image.mode == "PA":
            return np.asarray(image)[..., 0]
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode.startswith("I") or image.mode == "F":
            values = np.abs(np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0))
            white = scale if scale is not None else Extent(float(values.min()), float(values.max())).natural()[1]
            return values * (255.0 / (white or 1.0))
        if image.mode in {"LA", "La", "RGBA", "RGBa"}:
            return np.asarray(image)[..., :-1].max(axis=-1)  # pixels count by their colour, however transparent
        levels = np.asarray(image if image.mode in {"L", "RGB"} else image.convert("RGB"))
        return levels if levels.ndim == 2 else levels.max(axis=-1)
    except Exception as error:
        raise ImageError(f"Cannot decode mask '{path}': {_reason(error)}") from error


def image_size(path: str | Path) -> Size:
    """Return (height, width) of a picture as it is after turning it upright, from the header alone where possible.

    Raises:
        ImageError: As for :func:`load_rgb`.
    """
    if is_scan(split(path)[0]):
        return load_picture(path, ReadOptions((0.0, 1.0))).image.size[::-1]
    image = _open(path, decode=False)
    with image:
        tags: Any = getattr(image, "tag_v2", {})
        width, height = tags.get(256, image.size[0]), tags.get(257, image.size[1])  # Pillow turns TIFF by itself
        turned = _orientation(image) in _SIDEWAYS
    return (width, height) if turned else (height, width)


@overload
def _open(
    path: str | Path, decode: bool = True, *, options: ReadOptions, least: int | None = None
) -> "Image.Image | Picture": ...
@overload
def _open(path: str | Path, decode: bool = True) -> Image.Image: ...
def _open(
    path: str | Path, decode: bool = True, *, options: ReadOptions | None = None, least: int | None = None
) -> "Image.Image | Picture":
    """Open a file; with options, a TIFF that Pillow refuses or bends comes as a picture already."""
    file, fragment = split(path)
    is_tiff = os.path.splitext(file)[1].lower() in {".tif", ".tiff"}
    try:
        page = Part.read(fragment).picture()
        if os.path.getsize(file) == 0:
            raise ImageError(f"Cannot read image '{path}': the file is empty.")
        image: Image.Image
        _register_reader(file)
        try:
            image = Image.open(file)
            _turn_to(image, page)
            if options is not None and image.width * image.height > options.max_pixels:
                raise TooLargeError(f"{image.width} x {image.height} pixels")
            if options is not None and is_tiff and _is_bent(image, options):
                return _tiff_picture(file, options, page)
            if least is not None and image.format in {"JPEG", "MPO"}:
                whole = image.size
                image.draft(None, (least, least))
                if image.size != whole:
                    image.info[_WHOLE] = whole
            tiles = getattr(image, "tile", [])
            deep_colour = image.mode == "RGB" and bool(tiles) and ";16" in str(tiles[0][3])
            if decode:
                image.load()
            if deep_colour:
                image.info["zsad_deep_colour"] = True
        except (Image.DecompressionBombError, TooLargeError, NoSuchPageError):
            raise
        except Exception:
            if not is_tiff:
                raise
            if options is not None:
                return _tiff_picture(file, options, page)
            no_limit = ReadOptions(max_pixels=_NO_LIMIT)
            image = read_tiff(file, no_limit, any_kind=True, number=page)[0]  # a mask needs no window
    except ImageError:
        raise
    except Exception as error:
        reason = _reason(error)
        if isinstance(error, TooLargeError):
            limit = _NO_LIMIT if options is None else options.max_pixels
            reason = f"it has {error}, more than max_pixels={limit} (--max-pixels) allows."
        raise ImageError(f"Cannot read image '{path}': {reason}") from error
    if 0 in image.size:
        raise ImageError(f"Cannot read image '{path}': its size is {image.size[0]} x {image.size[1]} pixels.")
    return image


def _register_reader(path: str | Path) -> None:
    """Make Pillow read HEIC, and AVIF if it does not by itself.

    Raises:
        ImageError: The package that reads it is not installed.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in {".heic", ".heif", ".avif"} or ending in Image.registered_extensions():
        return
    if ending == ".avif" and features.check("avif"):
        return
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(f"Cannot read image '{path}': {ending} files need pip install 'zsad[heif]'.") from error
    pillow_heif.register_heif_opener()


def _turn_to(image: Image.Image, page: int) -> None:
    """Make Pillow read another picture of a file than the first.

    Raises:
        NoSuchPageError: There are not so many.
    """
    if not page:
        return
    count = getattr(image, "n_frames", 1)
    if page >= count:
        raise NoSuchPageError(f"it holds {count} picture(s), counted from 0, so there is no {page}")
    image.seek(page)


def _scan(path: str | Path, options: ReadOptions) -> tuple[Part, Scan | None]:
    """Return the part of a file that a path names, and the scan if it is one.

    Raises:
        ImageError: As for :func:`load_rgb`.
    """
    file, fragment = split(path)
    try:
        part = Part.read(fragment)
        if not is_scan(file):
            return part, None
        if os.path.getsize(file) == 0:
            raise ValueError("the file is empty")
        return part, read_scan(file, part, options)
    except (ValueError, OSError) as error:
        raise ImageError(f"Cannot read image '{path}': {_reason(error)}") from error


def _from_scan(scan: Scan, path: str | Path, options: ReadOptions) -> Picture:
    try:
        window = scan.window(options)
    except ValueError as error:
        raise ImageError(f"Cannot read image '{path}': {_reason(error)}") from error
    fitting = scan.fitting(options)
    warning = None if fitting is None else _small_part(scan.extent, window, fitting)
    return Picture(scan.image(window), warning, fitting, instance=scan.instance)


def _cut(picture: Picture, xywh: tuple[int, int, int, int], path: str | Path) -> Picture:
    left, top, width, height = xywh
    right, bottom = left + width, top + height
    if not width or not height or right > picture.image.width or bottom > picture.image.height:
        size = f"{picture.image.width} x {picture.image.height}"
        raise ImageError(f"Cannot read image '{path}': the rectangle is empty or leaves the picture of {size} pixels.")
    return replace(picture, image=picture.image.crop((left, top, right, bottom)))


def _is_bent(image: Image.Image, options: ReadOptions) -> bool:
    """Whether Pillow would lose grey levels: signed ones, 32 bits, or 16 bits per colour that a window is for."""
    tags: Any = getattr(image, "tag_v2", {})
    bits, kind = tags.get(_TIFF_BITS, (1,))[0], tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0]
    # floats are whole, but Pillow holds them twice as large as bands of them
    return kind in (2, 3) or (kind == 1 and bits >= 32) or (options.limits is not None and bits == 16)


def _tiff_picture(path: str | Path, options: ReadOptions, page: int) -> Picture:
    image, window, extent = read_tiff(path, options, number=page)
    fitting = None if options.limits is not None else extent.fitting(window)
    image = _in_bands(image, window) if image.mode != "RGB" else image
    image = image.transpose(_TURNS[turn]) if (turn := tiff_orientation(path, page)) != 1 else image
    return Picture(image, None if fitting is None else _small_part(extent, window, fitting), fitting)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 is upright, and what a damaged EXIF block is taken for."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # Pillow's EXIF parser raises almost any type
        return 1


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _window(image: Image.Image, options: ReadOptions) -> tuple[Window, Window, Extent | None]:
    """Return the levels that become black and white, those of the container, and those that are there if they matter.

    Raises:
        ValueError: No value is finite, or nobody can know what is black and white.
    """
    if image.mode == "F":
        extent = Extent.of(np.asarray(band) for _, band in _bands(image))
        return options.limits or extent.natural(), extent.natural(), extent
    if image.mode == "I" and options.limits is None and image.format not in {"PNG", "PPM", "JPEG2000"}:
        bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS, (32,))[0]
        if bits > 16:
            raise ValueError("its grey levels have 32 bits: give a window (--window LOW,HIGH)")
    scale = cast(float, _full_scale(image))
    extent = Extent.of(np.asarray(band) for _, band in _bands(image))
    return options.limits or (0.0, scale), (0.0, scale), extent


def _full_scale(image: Image.Image) -> float | None:
    """Return the value that means white in a picture of integers beyond 8 bits; None for all others."""
    if not image.mode.startswith("I"):
        return None
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS, (16 if image.mode.startswith("I;16") else 32,))[0]
    stated = tags.get(_TIFF_MAX_VALUE)
    highest = max(float(np.asarray(band).max()) for _, band in _bands(image))
    if stated is not None and highest <= (level := float(stated[0] if isinstance(stated, tuple) else stated)):
        return level
    if bits <= 16 or image.format in {"PNG", "PPM", "JPEG2000"}:  # these are read as 32-bit numbers up to 65535
        return 65535.0 if highest > 2**bits - 1 or bits > 16 else 2.0**bits - 1
    return next((level for level in (255.0, 65535.0) if highest <= level), 2.0**31 - 1)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format."
    if isinstance(error, FileNotFoundError):
        return "no such file."
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return f"{text.rstrip('.')}."

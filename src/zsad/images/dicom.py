"""DICOM images, a frame at a time: rescaled, windowed and the right way round; nothing else of a header is read."""

import hashlib
import os
import struct
import warnings
import zlib
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zsad.images.fragments import Part
from zsad.images.levels import ReadOptions, Window
from zsad.images.scan import Scan, bounded, finite_extent, index

ENDINGS = (".dcm", ".dicom")

_MAGIC = 128  # bytes before the letters DICM
_TAGS = (
    *("SOPInstanceUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
    *(
        f"{colour}PaletteColorLookupTable{what}"
        for colour in ("Red", "Green", "Blue")
        for what in ("Descriptor", "Data")
    ),
)
_DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_INFLATED = 2**29  # bytes


def is_dicom(file: str) -> bool:
    """Return whether a file's content says that it is DICOM."""
    try:
        with open(file, "rb") as stream:
            return stream.read(_MAGIC + 4)[_MAGIC:] == b"DICM"
    except OSError:
        return False


def frames(file: str) -> int:
    """Return how many frames a file has.

    Raises:
        ValueError: It is no DICOM image.
    """
    return max(1, _number(_header(file), "NumberOfFrames", 1))


def read(file: str, part: Part, options: ReadOptions) -> Scan:
    """Return a frame with the modality's rescaling applied, and its first window as levels of black and white.

    Raises:
        ValueError: It cannot be decoded, there is no such frame, or it is too large.
        OSError: It cannot be read.
    """
    header = _header(file)
    if part.axis is not None or (part.slice is not None and part.frame is not None):
        raise ValueError("a DICOM file has frames: write #frame=3")
    wanted = part.frame if part.frame is not None else part.slice if part.slice is not None else part.page
    number = index(wanted, frames(file), "frames", f"{os.path.basename(file)}#frame=3")
    rows, columns = _number(header, "Rows", 0), _number(header, "Columns", 0)
    if not rows and not columns:
        raise ValueError("it holds no picture")
    bounded(rows, columns, options)
    pixels = _pixels(file, number, header)
    uid = header.get("SOPInstanceUID")
    instance = hashlib.sha256(str(uid).encode()).hexdigest() if uid else None
    kind = str(header.get("PhotometricInterpretation", ""))
    if kind == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        pixels = apply_color_lut(pixels, header)
    if pixels.ndim == 3:
        white = 2.0 ** (8 * pixels.dtype.itemsize) - 1 if kind == "PALETTE COLOR" else _white(header)
        return Scan(pixels[..., :3], None, (0.0, white), pixels.dtype.name, finite_extent(pixels), instance=instance)
    values, stated, natural = _grey(pixels, header, number)
    return Scan(values, stated, natural, pixels.dtype.name, finite_extent(values), kind == "MONOCHROME1", instance)


def _grey(pixels: NDArray[Any], header: Any, number: int) -> tuple[NDArray[Any], Window | None, Window | None]:
    """Return rescaled values, the window that the header states, and what its kind of numbers means by one."""
    from pydicom.pixels import apply_modality_lut

    rescaling = _group(header, number, "PixelValueTransformationSequence")
    voi = _group(header, number, "FrameVOILUTSequence")
    try:
        tables = rescaling.get("ModalityLUTSequence")
        values = _looked_up(pixels, tables[0], header) if tables else np.asarray(apply_modality_lut(pixels, rescaling))
        centre, width = _first(voi.get("WindowCenter")), _first(voi.get("WindowWidth"))
        function = str(voi.get("VOILUTFunction") or "LINEAR").upper()
        if centre is None or width is None:
            if tables := voi.get("VOILUTSequence"):
                white = 2.0 ** int(tables[0].LUTDescriptor[2]) - 1
                return _looked_up(values, tables[0], header), (0.0, white), None
            return values, None, _natural(pixels, values, header, rescaling)
    except Exception as error:
        raise ValueError(f"its rescaling or its window makes no sense ({_kind(error)})") from error
    if width <= 0 or not np.isfinite(centre + width):
        raise ValueError(f"its window has the width {width:g}")
    if function == "SIGMOID":  # PS3.3 C.11.2.1.3.1
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700, 700))), (0.0, 1.0), None
    if function == "LINEAR_EXACT":
        return values, (centre - width / 2, centre + width / 2), None
    low, high = centre - width / 2, centre + width / 2 - 1  # PS3.3 C.11.2.1.2.1, equation 1
    return values, (low, high if high > low else low + 1e-6), None


def _looked_up(values: NDArray[Any], table: Any, header: Any) -> NDArray[np.uint16]:
    """Return what a lookup table makes of values; those outside of it get its first or last entry (PS3.3 C.11.1.1.1).

    pydicom's own counts places with as many bits as entries or pixels have: beyond the 256th it begins anew.
    """
    length, first = int(table.LUTDescriptor[0]) or 2**16, int(table.LUTDescriptor[1])
    entries = table.LUTData
    if isinstance(entries, bytes):  # words, or two entries of eight bits in each
        order = ">" if header.file_meta.get("TransferSyntaxUID") == _BIG_ENDIAN else "<"
        entries = np.frombuffer(entries, f"{order}u2" if len(entries) >= 2 * length else np.uint8)
    places = np.clip(np.rint(values.astype(np.float64)) - first, 0, length - 1).astype(np.intp)
    return np.asarray(entries, np.uint16)[places]


def _natural(pixels: NDArray[Any], values: NDArray[Any], header: Any, rescaling: Any) -> Window | None:
    if pixels.dtype.kind == "f":
        return finite_extent(values).natural()
    if pixels.dtype.kind == "i" or _number(header, "BitsStored", 16) > 16:
        return None
    if rescaling.get("ModalityLUTSequence"):
        return finite_extent(values).natural()
    slope, offset = float(rescaling.get("RescaleSlope", 1) or 1), float(rescaling.get("RescaleIntercept", 0) or 0)
    ends = offset, offset + slope * _white(header)
    return min(ends), max(ends)


def _white(header: Any) -> float:
    return 2.0 ** min(64, _number(header, "BitsStored", 8)) - 1


def _number(header: Any, name: str, usual: int) -> int:
    try:
        return int(header.get(name) or usual)
    except Exception as error:  # its text quotes the header
        raise ValueError(f"its header has a {name} that is no number") from error


def _first(value: Any) -> float | None:
    """Return the first of one or several decimal strings."""
    if value is None or (isinstance(value, (str, list)) and not value):
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0]) if len(value) else None


def _group(header: Any, number: int, name: str) -> Any:
    """Return where a multi-frame object keeps something: with the frame, shared by all frames, or in the open."""
    for sequence, place in (("PerFrameFunctionalGroupsSequence", number), ("SharedFunctionalGroupsSequence", 0)):
        items = header.get(sequence) or []
        if place < len(items) and items[place].get(name):
            return items[place].get(name)[0]
    return header


def _header(file: str) -> Any:
    stat = os.stat(file)
    return _parsed(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)  # the frames of one file come one after another
def _parsed(file: str, size: int, changed: int) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise ValueError("DICOM files need pip install 'zsad[medical]'") from error
    warnings.filterwarnings("ignore", module=r"pydicom\b")  # they quote values of the header
    try:
        _bounded_inflation(file)
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
    except OSError:
        raise
    except Exception as error:  # its text may quote the header
        raise ValueError(f"no DICOM file, or a damaged one ({_kind(error)})") from error


def _bounded_inflation(file: str) -> None:
    """Raise if a deflated data set is much larger than its file: pydicom unpacks it whole.

    Raises:
        ValueError: It is.
    """
    from pydicom.filereader import read_file_meta_info

    if read_file_meta_info(file).get("TransferSyntaxUID") != _DEFLATED:
        return
    with open(file, "rb") as stream:
        head = stream.read(_MAGIC + 16)
        stream.seek(int.from_bytes(head[_MAGIC + 12 :], "little"), os.SEEK_CUR)  # the length of the file's own group
        unpacking, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while block := unpacking.unconsumed_tail or stream.read(2**16):
            size += len(unpacking.decompress(block, 2**20))
            if size > _INFLATED:
                raise ValueError("it unpacks to far more than it should")


def _pixels(file: str, number: int, header: Any) -> NDArray[Any]:
    """Return a frame as it is stored, colour as RGB.

    Raises:
        ValueError: It cannot be decoded.
    """
    import pydicom
    from pydicom.pixels import pixel_array

    try:
        _check_coded_size(file, number, header)
        if header.file_meta.get("TransferSyntaxUID") == _DEFLATED:  # pydicom looks for pixels in the packed file
            return np.asarray(pixel_array(pydicom.dcmread(file, specific_tags=[*_TAGS, "PixelData"]), index=number))
        return np.asarray(pixel_array(file, index=number))
    except OSError:
        raise
    except Exception as error:  # the decoders' own kinds; their texts are about pixels
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"its pixels cannot be decoded: {text}") from error


def _check_coded_size(file: str, number: int, header: Any) -> None:
    """Raise if a compressed frame has another size than the header says: decoders believe the frame.

    Raises:
        ValueError: It has.
    """
    import pydicom
    from pydicom.encaps import get_frame

    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_encapsulated:
        return
    with open(file, "rb") as stream:
        pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=["Rows"])
        stream.seek(12, os.SEEK_CUR)  # tag, kind and length of the pixel data
        frame = get_frame(stream, number, number_of_frames=frames(file))
    if (size := _coded_size(frame)) is not None and size != (header.Columns, header.Rows):
        raise ValueError(
            f"its header says {header.Columns} x {header.Rows} pixels, its compressed frame {size[0]} x {size[1]}"
        )


def _coded_size(frame: bytes) -> tuple[int, int] | None:
    """Return (width, height) of JPEG, JPEG-LS and JPEG 2000; None for what is none of them."""
    start = frame.find(b"\xff\xf7")  # JPEG-LS, which Pillow does not know
    if frame[:2] == b"\xff\xd8" and 0 <= start < len(frame) - 9:
        height, width = struct.unpack(">HH", frame[start + 5 : start + 9])
        return width, height
    try:
        with Image.open(BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
            return picture.size
    except UnidentifiedImageError:
        return None


def _kind(error: Exception) -> str:
    return type(error).__name__

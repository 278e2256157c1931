"""NIfTI volumes, a slice at a time, upright as a DICOM viewer shows them; their headers go nowhere."""

import os
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.images.fragments import Part
from zsad.images.levels import Extent, ReadOptions, Window
from zsad.images.scan import Scan, bounded, finite_extent, index
from zsad.images.tiff import needs_window

ENDINGS = (".nii", ".nii.gz")

_KEPT = 2**30  # bytes of a compressed volume that is unpacked once for all its slices
_AWAY = {"R": -1, "A": -1, "S": -1, "L": 1, "P": 1, "I": 1}  # a viewer's rows and columns run to L, P and I
_ROLE = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}

_LOCK = threading.Lock()


def slices(file: str, axis: int | None) -> tuple[int, int]:
    """Return the axis along which slices are counted, and how many there are.

    Raises:
        ValueError: The file is no volume.
    """
    shape = _Volume.of(file).shape
    return _axis(axis, shape), shape[_axis(axis, shape)]


def read(file: str, part: Part, options: ReadOptions) -> Scan:
    """Return a slice of a volume.

    Columns run to the patient's left, in sagittal slices to the back; rows to the back, in other than axial slices
    downwards. Oblique volumes are taken for what they are closest to; nothing is resampled.

    Raises:
        ValueError: The file is no volume, there is no such slice, or it is too large.
        OSError: It cannot be read.
    """
    volume = _Volume.of(file)
    axis = _axis(part.axis, volume.shape)
    number = index(part.slice, volume.shape[axis], f"slices along axis {axis}", f"{os.path.basename(file)}#slice=40")
    rest = [one for one in range(3) if one != axis]
    bounded(volume.shape[rest[0]], volume.shape[rest[1]], options)
    values = volume.slice(axis, number)
    codes = [volume.codes[one] for one in rest]
    values = values[:: _AWAY[codes[0]], :: _AWAY[codes[1]]]
    if _ROLE[codes[0]] < _ROLE[codes[1]]:  # the first of left, back, down runs along the columns
        values = values.T
    extent = volume.extent() if volume.natural is None else finite_extent(values)
    natural = volume.natural
    if natural is None and not needs_window(values.dtype):
        natural = extent.natural()
    return Scan(values, volume.stated, natural, values.dtype.name, extent)


def _axis(axis: int | None, shape: tuple[int, ...]) -> int:
    if axis is not None and axis > 2:
        raise ValueError(f"axis={axis} is none of a volume's axes 0, 1 and 2")
    return 2 if axis is None else axis


class _Volume:
    """A file that was opened; voxels are read when they are asked for."""

    def __init__(self, file: str) -> None:
        try:
            import nibabel
        except ImportError as error:
            raise ValueError("NIfTI files need pip install 'zsad[medical]'") from error
        try:
            image: Any = nibabel.load(file)
            header = image.header
            shape, dtype = tuple(map(int, image.shape)), header.get_data_dtype()
            codes = nibabel.aff2axcodes(image.affine)
            limits = float(header["cal_min"]), float(header["cal_max"])
        except FileNotFoundError:
            raise
        except Exception as error:  # nibabel's own kinds, zlib's, NumPy's
            raise ValueError(f"no NIfTI volume, or a damaged one ({type(error).__name__})") from error
        if len(shape) < 2 or any(length != 1 for length in shape[3:]) or 0 in shape:
            raise ValueError(f"its {len(shape)} dimensions {shape} are no volume: three are read")
        if dtype.kind not in "biuf":
            raise ValueError(f"its voxels are of the kind {dtype}, which are no grey levels")
        self.shape = (*shape, 1)[:3]
        self.codes = [code or "LPI"[number] for number, code in enumerate(codes)]
        self.stated: Window | None = limits if limits[0] < limits[1] else None
        self._data, self._given = image.dataobj, shape
        scaled = (float(self._data.slope), float(self._data.inter)) != (1.0, 0.0)
        plain = dtype.kind in "bu" and dtype.itemsize <= 2 and not scaled
        self.natural: Window | None = (0.0, 2.0 ** (8 * dtype.itemsize) - 1) if plain else None
        packed = file.lower().endswith(".gz")
        self._keep = packed and int(np.prod(shape)) * (8 if scaled else dtype.itemsize) <= _KEPT
        self._whole: NDArray[Any] | None = None
        self._extent: Extent | None = None
        self._lock = threading.Lock()

    @staticmethod
    def of(file: str) -> "_Volume":
        stat = os.stat(file)
        with _LOCK:
            return _opened(file, stat.st_size, stat.st_mtime_ns)

    def slice(self, axis: int, number: int) -> NDArray[Any]:
        """Return the voxels (first, second remaining axis) of a slice, rescaled as the header says."""
        if len(self._given) == 2 and axis != 2:
            raise ValueError("it is one picture, no volume")
        place: tuple[Any, ...] = tuple(number if one == axis else slice(None) for one in range(len(self._given)))
        try:
            with self._lock:
                if self._keep and self._whole is None:
                    self._whole = np.asarray(self._data)
                voxels = np.asarray((self._data if self._whole is None else self._whole)[place])
        except Exception as error:
            raise ValueError(f"its voxels cannot be read ({type(error).__name__})") from error
        return voxels.reshape([length for one, length in enumerate(self.shape) if one != axis])

    def extent(self) -> Extent:
        """Return the smallest and the greatest value of the whole volume: all its slices have one scale."""
        if self._extent is None:
            self._extent = Extent.of(self.slice(2, number) for number in range(self.shape[2]))
        return self._extent


@lru_cache(maxsize=1)  # slices of one volume come one after another
def _opened(file: str, size: int, changed: int) -> _Volume:
    return _Volume(file)

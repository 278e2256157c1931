"""DICOM and NIfTI files, written for the tests."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

PATIENT = {
    "PatientName": "Doe^Jane^Quilla",
    "PatientID": "MRN-4711-0815",
    "PatientBirthDate": "19501231",
    "AccessionNumber": "ACC998877",
    "InstitutionName": "St. Ypsilon Hospital",
    "ReferringPhysicianName": "Strange^Stephen",
    "StudyDescription": "Follow-up of Mrs Doe",
    "StudyInstanceUID": "1.2.826.0.1.3680043.99.1",
}
"""What must not be in any output."""

UID = "1.2.826.0.1.3680043.99.7.123456789"


def dicom(
    path: Path,
    pixels: NDArray[Any],
    syntax: pydicom.uid.UID = pydicom.uid.ExplicitVRLittleEndian,
    frames: list[bytes] | None = None,
    **tags: Any,
) -> Path:
    """Write pixels ([frames, ]rows, columns[, 3]); ``frames`` are the encoded ones of a compressed syntax."""
    colour = pixels.shape[-1] == 3
    count = len(pixels) if pixels.ndim == 3 + colour else 1
    rows, columns = pixels.shape[1:3] if count > 1 else pixels.shape[:2]
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax if frames else pydicom.uid.ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = pydicom.uid.UID(UID)
    made.Rows, made.Columns, made.SamplesPerPixel = rows, columns, 3 if colour else 1
    made.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * pixels.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    if colour:
        made.PlanarConfiguration = 0
    if count > 1:
        made.NumberOfFrames = count
    for name, value in {**PATIENT, **tags}.items():
        setattr(made, name, value)
    if frames:
        made.PixelData = encapsulate(frames)
        made["PixelData"].VR = "OB"
    else:
        made.PixelData = pixels.tobytes()
        made["PixelData"].VR = "OW"
        if syntax == pydicom.uid.DeflatedExplicitVRLittleEndian:
            made.file_meta.TransferSyntaxUID = syntax
        elif syntax != pydicom.uid.ExplicitVRLittleEndian:
            made.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def nifti(path: Path, voxels: NDArray[Any], affine: NDArray[Any] | None = None, **header: Any) -> Path:
    """Write a volume; without an affine its axes run to the patient's left, back and head."""
    image = nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine)
    slope = header.pop("slope", None)
    for name, value in header.items():
        image.header[name] = value
    if slope is not None:
        image.header.set_slope_inter(*slope)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path

"""What a DICOM file becomes: pixels in their unit, where they lie, and the identifiers that tell pictures apart.

    tensor                       float32 [H, W], [frames, H, W] or, in colour, [..., H, W, 3]: the stored values times
                                 rescale slope plus intercept (Hounsfield units in CT), or through the modality's table;
                                 colours as RGB, palettes applied
    spacing                      float32 [3]: thickness of the slice, distance of rows, of columns, in millimetres
    orientation, position        float32 [6], [3]: direction of rows and columns, place of the first pixel, mm
    modality, photometric        text: "CT", "MR", ...; "MONOCHROME2", ...: in MONOCHROME1 low values are white
    study, series, instance      text: their unique identifiers

Numbers that a file does not say are NaN. Of several frames, spacing, orientation and position are those of the first.
Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups of several frames), C.11.1 (modality table).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastload.errors import PackError, missing_extra
from fastload.pack.values import Value

if TYPE_CHECKING:
    from pydicom import Dataset

_IDENTIFIERS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
_TRANSFORMATION = "PixelValueTransformationSequence"
_FAULTS = (
    AttributeError, KeyError, ValueError, TypeError, RuntimeError, NotImplementedError, OSError, EOFError, struct.error,
)  # fmt: skip


def read_dicom(path: Path) -> tuple[str, dict[str, Value]]:
    """Key and fields of one file.

    Raises:
        PackError: no DICOM, damaged, without pixels or an identifier, compressed in a way that no installed decoder
            knows, or with a patient's data drawn into the picture; its message is without the file's name and
            contents, which may say who the patient is, its cause is not.
        MissingExtraError: pydicom is not installed.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise missing_extra("pydicom", "medical", "packing DICOM files") from error
    try:
        file = pydicom.dcmread(path)
        values = _values(file)
    except (InvalidDicomError, *_FAULTS) as error:
        raise PackError("cannot be read as DICOM") from error
    return str(values["instance"]), values


def _values(file: Dataset) -> dict[str, Value]:
    if str(file.get("BurnedInAnnotation", "")).upper() == "YES":
        raise PackError(
            "says that annotations are drawn into its pixels (BurnedInAnnotation), which may name the patient: they and"
            " the tag have to be cleaned"
        )
    identifiers = {field: str(file.get(tag) or "") for field, tag in _IDENTIFIERS.items()}
    for field, value in identifiers.items():
        if not value:
            raise PackError(f"has no {_IDENTIFIERS[field]}")
    thickness = _numbers(file, "SliceThickness", "PixelMeasuresSequence", 1)
    spacing = _numbers(file, "PixelSpacing", "PixelMeasuresSequence", 2)
    return {
        "tensor": _pixels(file),
        "spacing": np.concatenate([thickness, spacing]),
        "orientation": _numbers(file, "ImageOrientationPatient", "PlaneOrientationSequence", 6),
        "position": _numbers(file, "ImagePositionPatient", "PlanePositionSequence", 3),
        "modality": str(file.get("Modality") or ""),
        "photometric": str(file.get("PhotometricInterpretation") or ""),
        **identifiers,
    }


def _pixels(file: Dataset) -> npt.NDArray[np.float32]:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    stored = pixel_array(file)
    if file.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(stored, file).astype(np.float32)
    frames = file.get("PerFrameFunctionalGroupsSequence") or ()
    each = [frame[_TRANSFORMATION][0] for frame in frames if _TRANSFORMATION in frame]
    if each:
        if len(each) != len(frames) or stored.ndim < 3 or len(stored) != len(each):
            raise ValueError(f"{len(each)} rescale slopes for an array of shape {stored.shape}")
        return np.stack([_rescaled(one, by) for one, by in zip(stored, each, strict=True)])
    shared = file.get("SharedFunctionalGroupsSequence") or ()
    if shared and _TRANSFORMATION in shared[0]:
        return _rescaled(stored, shared[0][_TRANSFORMATION][0])
    return apply_modality_lut(stored, file).astype(np.float32)


def _rescaled(stored: npt.NDArray[Any], by: Dataset) -> npt.NDArray[np.float32]:
    return (stored.astype(np.float64) * float(by.RescaleSlope) + float(by.RescaleIntercept)).astype(np.float32)


def _numbers(file: Dataset, tag: str, group: str, count: int) -> npt.NDArray[np.float32]:
    """The numbers of a tag, float32 [count], from the file or from its group for all frames or the first; else NaN."""
    places: list[Any] = [file]
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = file.get(sequence) or ()
        if groups and group in groups[0]:
            places.append(groups[0][group][0])
    for place in places:
        value = place.get(tag)
        numbers = np.atleast_1d(np.array([] if value in (None, "") else value, np.float32))
        if len(numbers) == count:
            return numbers
        if len(numbers):
            raise ValueError(f"{tag} has {len(numbers)} numbers instead of {count}")
    return np.full(count, np.nan, np.float32)

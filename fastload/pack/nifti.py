"""What a NIfTI file becomes: its array in its unit, and where it lies.

    tensor        float32 [X, Y, Z] or [X, Y, Z, time, ...]: the stored values times slope plus intercept
    spacing       float32 [axes]: distance along each axis, in the header's unit (millimetres, and seconds in time)
    affine        float32 [4, 4]: from places in the array to millimetres in the scanner
    orientation   text: where each axis points, "RAS" for right, anterior, superior

Nothing else of the header or its extensions is taken over. Source: NIfTI-1 (nifti.nimh.nih.gov) through nibabel.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from fastload.errors import PackError, missing_extra
from fastload.pack.values import Value
from fastload.shards.members import sample_key

_FAULTS = (ValueError, TypeError, KeyError, OSError, EOFError, zlib.error)


def read_nifti(path: Path, source: Path) -> tuple[str, dict[str, Value]]:
    """Key and fields of one file; the key is its path below `source` without the ending.

    Raises:
        PackError: no NIfTI, cut off, or an array that is none of numbers; its message is without the file's name and
            contents, its cause is not.
        MissingExtraError: nibabel is not installed.
    """
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
    except ImportError as error:
        raise missing_extra("nibabel", "medical", "packing NIfTI files") from error
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is one
            raise ValueError(f"it is a {type(image).__name__}")
        if image.get_data_dtype().kind not in "iuf":
            raise ValueError(f"its values are {image.get_data_dtype()}, and not one number each")
        values: dict[str, Value] = {
            "tensor": image.get_fdata(dtype=np.float32, caching="unchanged"),
            "spacing": np.array(image.header.get_zooms(), np.float32),
            "affine": np.array(image.affine, np.float32),
            "orientation": "".join(axis or "?" for axis in nibabel.aff2axcodes(image.affine)),
        }
    except (ImageFileError, HeaderDataError, *_FAULTS) as error:
        raise PackError("cannot be read as NIfTI") from error
    name = path.relative_to(source).as_posix() if path != source else path.name
    stem = name[: -len(".gz")] if name.lower().endswith(".gz") else name
    return sample_key(stem), values

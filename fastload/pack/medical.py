"""Medical pictures as streams: DICOM and NIfTI, one file a sample.

Only the fields that `dicom.py` and `nifti.py` list are taken over. Names, birth dates, numbers of patients and whatever
else a header says of a person, an institution or a device are not; nor are the names of DICOM files and of folders:
the instance's identifier is the key. NIfTI files have none: their paths are their keys, so give them neutral names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastload.errors import PackError
from fastload.pack.dicom import read_dicom
from fastload.pack.nifti import read_nifti
from fastload.pack.streams import Sample, Stream
from fastload.shards.foreign import names_below, natural_key

DICOM, NIFTI = (".dcm", ".dicom", ".ima"), (".nii", ".nii.gz")
ORIGIN = "medical files"  # not their name, which may be a patient's
_MARK, _MARK_AT = b"DICM", 128  # of DICOM files, whose names often have no ending
_DIRECTORY = "DICOMDIR"  # of a DICOM medium: no picture


def is_medical(name: str) -> bool:
    """Whether a file's name says that it is DICOM or NIfTI."""
    return name.lower().endswith((*DICOM, *NIFTI))


def medical_stream(source: Path) -> Stream:
    """The pictures of a file, or of all files of a folder in natural order.

    Raises:
        PackError: a folder without such files; when it is read, a file that cannot be read, or two of one instance.
        MissingExtraError: when it is read, pydicom or nibabel is not installed.
    """
    names = sorted(names_below(source), key=natural_key) if source.is_dir() else [""]
    paths = [source / name for name in names]
    files = [path for path in paths if is_medical(path.name) or _has_mark(path)]
    taken = set(files)
    if not files:
        raise PackError(f"{source} has no DICOM or NIfTI files ({', '.join((*DICOM, *NIFTI))}, or marked 'DICM')")

    def read() -> Iterator[Sample]:
        seen: dict[str, Path] = {}
        for path in files:
            nifti = path.name.lower().endswith(NIFTI)
            key, values = read_nifti(path, source) if nifti else read_dicom(path)
            if key in seen:
                raise PackError(f"{seen[key]} and {path} are the same instance {key!r}; remove one")
            seen[key] = path
            yield Sample(str(path), {"__key__": key, **values})

    return Stream(
        name=str(source), read=read, ignored=[str(path) for path in paths if path not in taken], origin=ORIGIN
    )


def _has_mark(path: Path) -> bool:
    if path.name == _DIRECTORY:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(_MARK_AT + len(_MARK))[_MARK_AT:] == _MARK
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error.strerror}") from error

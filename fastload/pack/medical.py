"""Medical pictures as streams: DICOM and NIfTI, one file a sample.

Only the fields that `dicom.py` and `nifti.py` list are taken over. Names, birth dates, numbers of patients and whatever
else a header says of a person, an institution or a device are not; nor are the names of DICOM files and of folders:
the instance's identifier is the key. NIfTI files have none: their paths are their keys, so give them neutral names.

What is left out or ignored is listed by numbers: file 7 is the seventh in natural order of all files of the folder.
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
_OTHERS = (".csv", ".gif", ".html", ".jpg", ".json", ".md", ".pdf", ".png", ".txt", ".xml")  # endings that are no names


def is_medical(name: str) -> bool:
    """Whether a file's name says that it is DICOM or NIfTI."""
    return name.lower().endswith((*DICOM, *NIFTI))


def medical_stream(source: Path) -> Stream:
    """The pictures of a file, or of all files of a folder in natural order. A file that cannot be read, and a second
    one of an instance, is a sample with a fault.

    Raises:
        PackError: a folder without such files.
        MissingExtraError: when it is read, pydicom or nibabel is not installed.
    """
    names = sorted(names_below(source), key=natural_key) if source.is_dir() else [""]
    paths = [source / name for name in names]
    places = {path: f"file {number}" for number, path in enumerate(paths, 1)}
    files = [path for path in paths if is_medical(path.name) or _has_mark(path)]
    taken = set(files)
    if not files:
        raise PackError(f"{source} has no DICOM or NIfTI files ({', '.join((*DICOM, *NIFTI))}, or marked 'DICM')")

    def read() -> Iterator[Sample]:
        seen: dict[str, Path] = {}
        for path in files:
            try:
                nifti = path.name.lower().endswith(NIFTI)
                key, values = read_nifti(path, source) if nifti else read_dicom(path)
            except PackError as error:
                detail = " ".join(str(error.__cause__ or "").split())
                yield Sample(str(path), {}, fault=error.message, detail=detail, place=places[path])
                continue
            if key in seen:
                fault, detail = f"is the same instance as {places[seen[key]]}", f"{key!r} of {seen[key]}"
                yield Sample(str(path), {"__key__": key}, fault=fault, detail=detail, place=places[path])
                continue
            seen[key] = path
            yield Sample(str(path), {"__key__": key, **values}, place=places[path])

    ignored = [f"{places[path]}{_ending(path)}" for path in paths if path not in taken]
    return Stream(name=str(source), read=read, ignored=ignored, origin=ORIGIN)


def _ending(path: Path) -> str:
    """That of a file that is none of these, if it is a usual one: any other may be part of a name."""
    ending = path.suffix.lower()
    return ending if ending in _OTHERS else ""


def _has_mark(path: Path) -> bool:
    if path.name == _DIRECTORY:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(_MARK_AT + len(_MARK))[_MARK_AT:] == _MARK
    except OSError as error:
        raise PackError(f"{path} cannot be read: {error.strerror}") from error

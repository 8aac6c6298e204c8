"""DICOM and NIfTI: pixels in their unit, where they lie, and nothing of the patient. The files are pydicom's and
nibabel's own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from pack_sources import check_alike
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

import fastload
from fastload import Cleaning
from fastload.errors import PackError
from fastload.pack import pack
from fastload.shards.index import FieldInfo

ROOT = "1.2.826.0.1.3680043.8.498"
SECRETS = ("Mustermann", "Erika", "19640812", "PID-77431", "Klinik Nordstadt", "Dr. Roentgen", "ACC-9001", "SN-123-XYZ")


def dicom(number: int, pixels: np.ndarray | None = None, **tags: Any) -> Dataset:
    """One slice of a CT, with everything that says who it is of."""
    stored = np.arange(12, dtype=np.int16).reshape(3, 4) + number if pixels is None else pixels
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = f"{ROOT}.3.{number}"
    file.StudyInstanceUID, file.SeriesInstanceUID = f"{ROOT}.1.{number // 4}", f"{ROOT}.2.{number // 2}"
    file.Modality = "CT"
    file.PatientName, file.PatientID, file.PatientBirthDate = "Mustermann^Erika", "PID-77431", "19640812"
    file.InstitutionName, file.ReferringPhysicianName = "Klinik Nordstadt", "Dr. Roentgen"
    file.AccessionNumber, file.DeviceSerialNumber = "ACC-9001", "SN-123-XYZ"
    file.add_new(0x00091010, "LO", "Mustermann in a private tag")
    file.ImageComments = "Erika Mustermann, second visit"
    file.Rows, file.Columns = stored.shape[:2] if stored.ndim == 2 or stored.shape[-1] == 3 else stored.shape[1:3]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
    file.PixelSpacing, file.SliceThickness = [0.5, 0.75], 2.5
    file.ImageOrientationPatient, file.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-10, 20, 2.5 * number]
    file.RescaleSlope, file.RescaleIntercept = 2, -1024
    file.PixelData = stored.tobytes()
    for tag, value in tags.items():
        setattr(file, tag, value)
    return file


def save(file: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Eight slices, in folders and files that are named after the patient; one without an ending."""
    for number in range(8):
        name = f"Mustermann_Erika/series{number // 2}/Mustermann_{number}" + ("" if number == 5 else ".dcm")
        save(dicom(number), tmp_path / "scans" / name)
    (tmp_path / "scans" / "report.pdf").write_text("not a picture")
    return tmp_path / "scans"


def stream(out: Path) -> list[dict[str, Any]]:
    return list(fastload.StreamingDataset(out, shuffle=False))


def everything(folder: Path) -> bytes:
    return b"\0".join(path.as_posix().encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file())


# DICOM


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_dicom_is_in_its_unit_and_place(scans: Path, tmp_path: Path, shard_format: Any) -> None:
    index = pack(scans, tmp_path / "out", workers=1, shuffle=False, format=shard_format)
    assert index.fields["tensor"].kind == "tensor"
    assert (index.fields["tensor"].dtype, index.fields["tensor"].shape) == ("float32", (3, 4))
    assert index.packed["ignored_files"] == 1
    samples = stream(tmp_path / "out")
    assert len(samples) == 8
    for number, sample in enumerate(samples):
        hounsfield = (np.arange(12).reshape(3, 4) + number) * 2.0 - 1024
        assert sample["tensor"].numpy().dtype == np.float32
        assert sample["tensor"].tolist() == hounsfield.tolist()
        assert sample["spacing"].tolist() == [2.5, 0.5, 0.75]
        assert sample["orientation"].tolist() == [1, 0, 0, 0, 1, 0]
        assert sample["position"].tolist() == [-10, 20, 2.5 * number]
        assert (sample["modality"], sample["photometric"]) == ("CT", "MONOCHROME2")
        assert sample["study"] == f"{ROOT}.1.{number // 4}"
        assert sample["series"] == f"{ROOT}.2.{number // 2}"
        assert sample["instance"] == f"{ROOT}.3.{number}"
        assert sample["__key__"] == f"{ROOT}.3.{number}".replace(".", "_")


@pytest.mark.parametrize("shard_format", ["tar", "parquet"])
def test_nothing_of_the_patient_is_in_any_byte(scans: Path, tmp_path: Path, shard_format: Any) -> None:
    assert all(secret.encode() in everything(scans) for secret in SECRETS)
    pack(scans, tmp_path / "out", workers=2, format=shard_format, shard_size="12KiB")
    found = everything(tmp_path / "out").lower()
    assert [secret for secret in SECRETS if secret.lower().encode() in found] == []


def test_nor_is_the_name_of_the_source(scans: Path, tmp_path: Path) -> None:
    named = save(dicom(9), tmp_path / "Erika Mustermann.dcm")
    for number, source in enumerate((named, scans / "Mustermann_Erika")):
        index = pack(source, tmp_path / f"out{number}", workers=1)
        assert index.packed["source"] == "medical files"
        assert b"mustermann" not in everything(tmp_path / f"out{number}").lower()


def test_nor_is_it_in_what_is_said_of_files_that_are_left_out_or_ignored(scans: Path, tmp_path: Path) -> None:
    folder, out = scans / "Mustermann_Erika", tmp_path / "out"
    (folder / "DICOMDIR").write_bytes(b"x")
    (scans / "SMITH.JOHN").write_bytes(b"x")
    (folder / "none.dcm").write_bytes(b"x")
    save(dicom(9, PixelData=bytes(18)), folder / "cut.dcm")
    save(dicom(3), folder / "again.dcm")
    save(dicom(8, Modality=""), folder / "modality.dcm")
    with pytest.raises(PackError, match=r"again.dcm: is the same|cut.dcm: cannot be|none.dcm: cannot be"):
        pack(scans, out, clean=Cleaning(drop_missing=True), workers=1)
    index = pack(scans, out, clean=Cleaning(on_error="skip", drop_missing=True, duplicates="report"), workers=1)
    assert index.samples("train") == 8
    assert index.statistics["cleaning"]["rejected"] == {"missing": 1, "unreadable": 3}
    assert index.packed["ignored_endings"] == {"": 2, "pdf": 1}
    rejected, suspects = (pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("rejected", "suspects"))
    assert [row["reason"] for row in suspects] == ["ignored_file"] * 3
    assert {re.sub(r"\d+", "", row["detail"]) for row in rejected} == {
        "cannot be read as DICOM", "is the same instance as file ", "field 'modality' is missing"
    }  # fmt: skip
    assert {re.sub(r"\d+", "", row["source"]) for row in (*rejected, *suspects)} == {"file ", "file .pdf"}
    said = f"{rejected} {suspects} {(out / 'index.json').read_text()}".lower()
    assert re.findall("mustermann|erika|smith|john", said) == []


def test_any_number_of_workers_writes_the_same_and_a_killed_run_goes_on(scans: Path, tmp_path: Path) -> None:
    def run(out: Path, **options: Any) -> None:
        pack(scans, out, **options)

    check_alike(run, tmp_path / "results", shard_size="20KiB")


def test_a_series_is_in_one_split(scans: Path, tmp_path: Path) -> None:
    splitting = fastload.Splitting(shares="train=0.5,val=0.5", group_by="series")
    pack(scans, tmp_path / "out", workers=1, split=splitting, seed=1)
    train, val = ({sample["series"] for sample in stream(tmp_path / "out" / split)} for split in ("train", "val"))
    assert (len(train | val), train & val) == (4, set())


def test_what_a_file_does_not_say_is_not_a_number(tmp_path: Path) -> None:
    file = dicom(1)
    for tag in ("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(file, tag)
    pack(save(file, tmp_path / "a.dcm"), tmp_path / "out", workers=1)
    (sample,) = stream(tmp_path / "out")
    assert np.isnan(sample["spacing"].numpy()).all()
    assert np.isnan(sample["orientation"].numpy()).all()
    assert sample["tensor"].tolist() == (np.arange(12).reshape(3, 4) + 1).tolist()


def transformation(slope: float, intercept: float) -> Dataset:
    inner, frame = Dataset(), Dataset()
    inner.RescaleSlope, inner.RescaleIntercept = slope, intercept
    frame.PixelValueTransformationSequence = Sequence([inner])
    return frame


def test_frames_have_their_own_slope_or_share_one(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    file = dicom(1, pixels, NumberOfFrames=2)
    del file.RescaleSlope, file.RescaleIntercept, file.PixelSpacing, file.SliceThickness
    measures, shared = Dataset(), transformation(3, 1)
    measures.PixelSpacing, measures.SliceThickness = [0.25, 0.5], 4
    shared.PixelMeasuresSequence = Sequence([measures])
    file.SharedFunctionalGroupsSequence = Sequence([shared])
    pack(save(file, tmp_path / "shared.dcm"), tmp_path / "a", workers=1)
    (sample,) = stream(tmp_path / "a")
    assert sample["tensor"].tolist() == (pixels * 3 + 1).tolist()
    assert sample["spacing"].tolist() == [4, 0.25, 0.5]
    del file.SharedFunctionalGroupsSequence
    file.PerFrameFunctionalGroupsSequence = Sequence([transformation(1, 0), transformation(2, -5)])
    pack(save(file, tmp_path / "each.dcm"), tmp_path / "b", workers=1)
    (sample,) = stream(tmp_path / "b")
    assert sample["tensor"].tolist() == np.stack([pixels[0], pixels[1] * 2 - 5]).tolist()
    file.PerFrameFunctionalGroupsSequence = Sequence([transformation(1, 0), Dataset()])
    with pytest.raises(PackError, match=r"one.dcm: cannot be read as DICOM: 1 rescale slopes for an array of shape"):
        pack(save(file, tmp_path / "one.dcm"), tmp_path / "c", workers=1)


def test_colours_stay_colours(tmp_path: Path) -> None:
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    file = dicom(1, pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    del file.RescaleSlope, file.RescaleIntercept
    pack(save(file, tmp_path / "a.dcm"), tmp_path / "out", workers=1)
    assert stream(tmp_path / "out")[0]["tensor"].tolist() == pixels.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: setattr(file, "BurnedInAnnotation", "YES"), r"a.dcm: says that annotations are drawn into its"),
        (lambda file: delattr(file, "StudyInstanceUID"), r"a.dcm: has no StudyInstanceUID; mend it, or leave such"),
        (lambda file: delattr(file, "PixelData"), r"a.dcm: cannot be read as DICOM: .*; mend it, or leave"),
        (lambda file: setattr(file, "PixelData", file.PixelData[:-6]), r"a.dcm: cannot be read as DICOM: .*expected"),
        (lambda file: setattr(file, "ImagePositionPatient", [1, 2]), "ImagePositionPatient has 2 numbers instead of 3"),
    ],
)  # fmt: skip
def test_faulty_dicom_is_named(tmp_path: Path, change: Callable[[Dataset], None], message: str) -> None:
    file = dicom(1)
    change(file)
    with pytest.raises(PackError, match=message):
        pack(save(file, tmp_path / "a.dcm"), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_other_files_and_repeated_instances_are_named(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(
        PackError, match=r"x has no DICOM or NIfTI files \(.dcm, .dicom, .ima, .nii, .nii.gz, or marked"
    ):
        pack(tmp_path / "x", tmp_path / "out", kind="medical")
    (tmp_path / "x" / "a.dcm").write_text("hello")
    with pytest.raises(PackError, match=r"x/a.dcm: cannot be read as DICOM: .*; mend it, or leave"):
        pack(tmp_path / "x", tmp_path / "out")
    save(dicom(3), scans / "again.dcm")
    with pytest.raises(
        PackError, match=rf"again.dcm: is the same instance as file \d+: '{ROOT}.3.3' of .*Mustermann_3.dcm; mend it"
    ) as caught:
        pack(scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "Erika^" not in str(caught.value)


WITHOUT = "import sys; sys.modules[{0!r}] = None; import fastload; fastload.pack(sys.argv[1], sys.argv[2], workers=1)"


@pytest.mark.parametrize(("package", "name"), [("pydicom", "a.dcm"), ("nibabel", "a.nii")])
def test_the_extra_is_named(tmp_path: Path, package: str, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    command = [sys.executable, "-c", WITHOUT.format(package), str(tmp_path / name), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"needs {package}, which is not installed; pip install " in done.stderr
    assert "[medical]'" in done.stderr
    assert pydicom.__version__


# NIfTI


def nifti(number: int) -> nibabel.Nifti1Image:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = [-1, -2, -3 - number]
    image = nibabel.Nifti1Image((np.arange(24).reshape(2, 3, 4) + number).astype(np.int16), affine)
    image.header.set_slope_inter(0.5, 10)
    image.header["descrip"], image.header["db_name"] = b"Erika Mustermann, 1964", b"Mustermann"
    image.header["aux_file"], image.header["intent_name"] = b"Erika.txt", b"Mustermann"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Mustermann, Erika"))
    return image


def test_nifti_is_in_its_unit_and_place(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / "scans" / f"sub-{number:02d}" / "anat" / ("T1w.nii" + ".gz" * (number % 2))
        path.parent.mkdir(parents=True)
        nibabel.save(nifti(number), path)
    assert b"Mustermann" in everything(tmp_path / "scans")

    def run(out: Path, **options: Any) -> None:
        pack(tmp_path / "scans", out, **options)

    check_alike(run, tmp_path / "results", shard_size="6KiB")
    index = pack(tmp_path / "scans", tmp_path / "out", workers=1, shuffle=False)
    assert index.fields["tensor"] == FieldInfo(kind="tensor", dtype="float32", shape=(2, 3, 4), extension="npy")
    samples = stream(tmp_path / "out")
    assert [sample["__key__"] for sample in samples] == [f"sub-{number:02d}/anat/T1w" for number in range(4)]
    for number, sample in enumerate(samples):
        stored = np.arange(24).reshape(2, 3, 4) + number
        assert sample["tensor"].tolist() == (stored * 0.5 + 10).tolist()
        assert sample["spacing"].tolist() == [2, 3, 4]
        assert sample["affine"].tolist()[2] == [0, 0, 4, -3 - number]
        assert sample["orientation"] == "RAS"
    found = everything(tmp_path / "out")
    assert b"Mustermann" not in found
    assert b"Erika" not in found


def test_a_series_of_volumes_has_the_seconds_between_them_too(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_zooms((2, 3, 4, 2.5))
    nibabel.save(image, tmp_path / "bold.nii")
    pack(tmp_path / "bold.nii", tmp_path / "out", workers=1)
    (sample,) = stream(tmp_path / "out")
    assert sample["tensor"].shape == (2, 3, 4, 5)
    assert sample["spacing"].tolist() == [2, 3, 4, 2.5]


def test_faulty_nifti_is_named(tmp_path: Path) -> None:
    nibabel.save(nifti(1), tmp_path / "a.nii")
    pack(tmp_path / "a.nii", tmp_path / "one", workers=1)
    assert [sample["__key__"] for sample in stream(tmp_path / "one")] == ["a"]
    whole = (tmp_path / "a.nii").read_bytes()
    for content in (whole[:200], whole[:-8], b"x" * 500):
        (tmp_path / "a.nii").write_bytes(content)
        with pytest.raises(PackError, match=r"a.nii: cannot be read as NIfTI: .*; mend it, or leave"):
            pack(tmp_path / "a.nii", tmp_path / "out", workers=1)
    nibabel.save(nifti(1), tmp_path / "b.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes()[:-30])
    with pytest.raises(PackError, match=r"b.nii.gz: cannot be read as NIfTI"):
        pack(tmp_path / "b.nii.gz", tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_faulty_nifti_is_left_out_if_told_so(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    nibabel.save(nifti(1), tmp_path / "s" / "a.nii")
    (tmp_path / "s" / "b.nii").write_bytes(b"x")
    index = pack(tmp_path / "s", tmp_path / "out", clean=Cleaning(on_error="skip"), workers=1)
    assert index.samples("train") == 1
    assert pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist() == [
        {"key": "000000002", "source": "file 2", "reason": "unreadable", "detail": "cannot be read as NIfTI"}
    ]

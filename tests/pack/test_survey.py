"""The survey: the same findings from any number of workers, kept for the run that goes on, and faults found."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xxhash
from pack_sources import jpeg, photo, png, wav
from PIL import Image
from test_likeness import hash_of

from fastload.errors import PackError
from fastload.pack import contents
from fastload.pack import survey as survey_module
from fastload.pack.findings import Findings
from fastload.pack.inputs import open_source
from fastload.pack.likeness import text_signature
from fastload.pack.survey import survey
from fastload.pack.surveyor import Questions, pieces
from fastload.pack.table import Table

EVERYTHING = Questions(full=True, compare=("image",), pictures=("image",))


def table_of(source: Path) -> Table:
    table = open_source(source)
    assert isinstance(table, Table)
    return table


def look(table: Table, folder: Path, questions: Questions = EVERYTHING, workers: int = 1) -> tuple[Findings, int]:
    """The findings, and how many samples were told of."""
    folder.mkdir(exist_ok=True)
    told = []
    found = survey(table, questions, folder, workers=workers, keep_open=(), tell=lambda n, _: told.append(n))
    return found, sum(told)


def same(one: Findings, other: Findings) -> bool:
    return one.faults == other.faults and all(
        np.array_equal(one.values[name], other.values[name]) for name in one.values.keys() | other.values.keys()
    )


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, so that there are many."""
    monkeypatch.setattr(survey_module, "CHUNK_SAMPLES", 7)


def test_findings_of_pictures(images: Path, tmp_path: Path) -> None:
    table = table_of(images)
    found, told = look(table, tmp_path / "s")
    assert told == 60
    assert found.faults == {}
    assert found.values["image.width"].tolist() == [24 + i % 20 for i in range(60)]
    for row in (0, 17, 59):
        raw = (images / f"class{row // 20}/{row % 20:03d}.jpg").read_bytes()
        assert found.values["image.phash"][row] == hash_of(raw)
        digest = xxhash.xxh3_128(len(raw).to_bytes(8, "little") + raw).digest()
        assert found.values["digest"][row].tobytes() == digest


@pytest.mark.usefixtures("chunks")
def test_any_number_of_workers_finds_the_same(images: Path, tmp_path: Path) -> None:
    table = table_of(images)
    (images / "class1/003.jpg").write_bytes(b"")
    (images / "class2/009.jpg").unlink()
    one, _ = look(table, tmp_path / "one")
    three, told = look(table, tmp_path / "three", workers=3)
    assert same(one, three)
    assert told == 60
    assert sorted(one.faults) == [23, 49]
    whole = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert len(whole) == 7, "of 9: files that are gone or have changed may be back the next time"
    assert {path.name: path.read_bytes() for path in (tmp_path / "three").iterdir()} == whole


@pytest.mark.usefixtures("chunks")
def test_what_was_found_out_is_not_looked_at_again(images: Path, tmp_path: Path) -> None:
    table = table_of(images)
    first, _ = look(table, tmp_path / "s")
    os.truncate(tmp_path / "s/survey-000002.npz", 100)
    (tmp_path / "s/survey-000004.npz").unlink()
    (tmp_path / "s/survey-000005.npz").write_bytes(b"")
    for path in images.rglob("*.jpg"):
        path.rename(path.with_suffix(".away"))
    again, told = look(table, tmp_path / "s")
    assert told == 60
    assert sorted(again.faults) == [*range(14, 21), *range(28, 42)]
    kept = [row for row in range(60) if row not in again.faults]
    assert np.array_equal(first.values["digest"][kept], again.values["digest"][kept])


@pytest.mark.usefixtures("chunks")
def test_what_could_not_be_read_is_looked_at_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right that was lacking, and is given, changes neither size nor time."""
    table, opened = table_of(images), contents._open_file

    def refused(root: int, path: str) -> int:
        if path == "class1/003.jpg":
            raise PermissionError(13, "Permission denied")
        return opened(root, path)

    with monkeypatch.context() as patch:
        patch.setattr(contents, "read_files", lambda root, paths, starts, sizes, view, done: done)  # not in C
        patch.setattr(contents, "_open_file", refused)
        found, _ = look(table, tmp_path / "s")
    ((row, why),) = found.faults.items()
    assert (row, why[-18:]) == (23, " Permission denied")
    assert len(list((tmp_path / "s").iterdir())) == 8, "all chunks but one are kept"
    again, told = look(table, tmp_path / "s")
    assert (again.faults, told) == ({}, 60)
    assert same(again, look(table, tmp_path / "fresh")[0])


@pytest.mark.usefixtures("chunks")
def test_edited_files_and_other_questions_are_looked_at_again(images: Path, tmp_path: Path) -> None:
    before, _ = look(table_of(images), tmp_path / "s")
    path = images / "class1/003.jpg"
    path.write_bytes(jpeg(999, width=40))
    after, _ = look(table_of(images), tmp_path / "s")
    fresh, _ = look(table_of(images), tmp_path / "fresh")
    assert same(after, fresh)
    assert not same(before, after)
    plain = Questions(full=False, compare=("image",))
    assert "image.phash" not in look(table_of(images), tmp_path / "s", plain)[0].values


def test_faults_are_found_by_name(tmp_path: Path) -> None:
    whole, folder = photo(1), tmp_path / "source/a"
    folder.mkdir(parents=True)
    files = {
        "cut.jpg": whole[: len(whole) // 2],
        "garbled.jpg": whole[:3000] + bytes(3000) + whole[6000:],
        "misnamed.png": wav(100),
        "whole.jpg": whole,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    table = table_of(tmp_path / "source")
    found, _ = look(table, tmp_path / "full")
    assert sorted(found.faults) == [0, 1, 2]
    assert found.faults[0].startswith("image: JPEG of")
    assert "no end: it was cut off" in found.faults[0]
    assert "does not decode" in found.faults[1]
    assert found.faults[2].startswith("image: ")
    alone, _ = look(table, tmp_path / "alone", Questions(full=True, compare=("image",)))  # no hash decodes them either
    assert sorted(alone.faults) == [0, 1, 2]
    headers, _ = look(table, tmp_path / "headers", Questions(full=False, compare=("image",)))
    assert sorted(headers.faults) == [0, 2]


def test_a_file_that_changes_meanwhile_is_a_fault_of_its_sample(images: Path, tmp_path: Path) -> None:
    table = table_of(images)
    (images / "class0/000.jpg").write_bytes(jpeg(1, width=90, height=90))
    found, _ = look(table, tmp_path / "s")
    assert list(found.faults) == [0]
    assert "bytes when packing began, and now has" in found.faults[0]


def test_a_text_file_that_changes_meanwhile_stops_the_run(tmp_path: Path) -> None:
    source = tmp_path / "t.txt"
    source.write_text("one\ntwo\n")
    table = table_of(source)
    os.utime(source, ns=(1, 1))
    with pytest.raises(PackError, match=r"t.txt has changed since packing began"):
        look(table, tmp_path / "s", Questions(full=False, compare=("text",)))
    source.unlink()
    with pytest.raises(PackError, match=r"t.txt cannot be read: No such file or directory; run the command again once"):
        look(table, tmp_path / "s", Questions(full=False, compare=("text",)))


def test_findings_of_texts_and_sounds(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.wav").write_bytes(wav(100 + i))
    (tmp_path / "m.csv").write_text("audio,title,note\n" + "".join(f"{i}.wav,t{i},ü{i}\n" for i in range(4)))
    table = table_of(tmp_path / "m.csv")
    asked = Questions(full=True, compare=("audio", "title"), texts=("title", "note"), rest=("audio",))
    found, _ = look(table, tmp_path / "s", asked)
    assert found.values["audio.frames"].tolist() == [100, 101, 102, 103]
    assert found.values["note.characters"].tolist() == [2] * 4
    assert np.array_equal(found.values["signature"][1], text_signature("t1\nü1"))
    assert len({row.tobytes() for row in found.values["rest"]}) == 4


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("eins\n\nzwölf\n".encode() + b"\xff\xfe\n")
    table = table_of(tmp_path / "t.txt")
    found, _ = look(table, tmp_path / "s", Questions(full=False, compare=("text",)))
    assert found.values["text.characters"].tolist() == [4, 5, 0]
    assert found.faults == {2: "text: not UTF-8 (invalid start byte at byte 0)"}


def test_findings_as_bytes() -> None:
    found = Findings(faults={1: "why"}, values={"digest": np.arange(32, dtype=np.uint8).reshape(2, 16)})
    data = found.to_bytes("about")
    assert data == found.to_bytes("about")
    again = Findings.from_bytes(data, "about")
    assert again is not None
    assert same(found, again)
    assert Findings.from_bytes(data, "something else") is None
    for cut in range(0, len(data), 50):
        assert Findings.from_bytes(data[:cut], "about") is None


def test_pieces_are_within_their_limits() -> None:
    sizes = np.array([5, 1, 1, 9, 0, 0, 20, 1])
    assert list(pieces(sizes, 8, 3)) == [(0, 3), (3, 4), (4, 6), (6, 7), (7, 8)]
    assert list(pieces(np.zeros(5, np.int64), 8, 2)) == [(0, 2), (2, 4), (4, 5)]
    assert list(pieces(np.zeros(0, np.int64), 8, 2)) == []


def test_png_and_others_have_sizes(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for i in range(3):
        (tmp_path / f"source/{i}.png").write_bytes(png(i, width=5 + i))
    table = table_of(tmp_path / "source")
    found, _ = look(table, tmp_path / "s")
    assert found.values["image.width"].tolist() == [5, 6, 7]


def test_masks_of_32_bits_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "source/a").mkdir(parents=True)
    Image.fromarray(np.full((4, 4), 200, np.int32)).save(tmp_path / "source/a/0.tif")
    found, _ = look(table_of(tmp_path / "source"), tmp_path / "s", Questions(full=True, compare=("image",)))
    assert found.faults == {}

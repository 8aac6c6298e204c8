"""Many files at once: as one by one, up to the first that is out of the ordinary; and without the C part the same."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pack_sources import tree

from fastload.errors import PackError
from fastload.pack import _files, contents, files, pack
from fastload.pack.files import read_files, read_into, stat_files, write_back
from fastload.pack.listing import list_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files "0" to "9" of as many bytes, an é, a link to one, a broken link and a folder."""
    made = tmp_path_factory.mktemp("files")
    for size in range(10):
        (made / str(size)).write_bytes(bytes([size] * size))
        os.utime(made / str(size), ns=(1, 10**18 + size))
    (made / "é").write_bytes(b"accent")
    (made / "link").symlink_to("3")
    (made / "broken").symlink_to("nothing")
    (made / "below").mkdir()
    return made


@pytest.fixture(scope="module")
def opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


GOOD = st.sampled_from([*"0123456789", "é", "link"])
BAD = ["broken", "below", "none", "a\0b", "\udcff"]


@settings(deadline=None)
@given(good=st.lists(GOOD, max_size=20), bad=st.sampled_from(BAD), after=st.lists(GOOD, max_size=3))
def test_stat(folder: Path, opened: int, good: list[str], bad: str, after: list[str]) -> None:
    expected = [os.stat(folder / name) for name in good]
    for names in (good, [*good, bad, *after]):
        sizes, times = stat_files(opened, names)
        assert sizes.tolist() == [about.st_size for about in expected]
        assert times.tolist() == [about.st_mtime_ns for about in expected]


@settings(deadline=None)
@given(
    good=st.lists(GOOD, max_size=20),
    bad=st.sampled_from([*BAD, "9"]),
    after=st.lists(GOOD, max_size=3),
    gap=st.integers(0, 3),
    first=st.integers(0, 3),
)
def test_read(folder: Path, opened: int, good: list[str], bad: str, after: list[str], gap: int, first: int) -> None:
    names = [*good, bad, *after]
    contents = [(folder / name).read_bytes() if (folder / name.strip("\0")).is_file() else b"1234" for name in good]
    sizes = np.array([*map(len, contents), 8, *(0 for _ in after)], np.int64)  # the last: another size than it has
    starts = np.cumsum(sizes + gap) - sizes
    into = np.full(int(starts[-1] + sizes[-1]) + 1, 255, np.uint8)
    first = min(first, len(good))
    assert read_files(opened, names, starts, sizes, into.data, first) == len(good)
    for place, content in enumerate(contents):
        found = into[starts[place] : starts[place] + sizes[place]].tobytes()
        assert found == (content if place >= first else b"\xff" * len(content))


def test_places_outside_of_the_buffer_are_not_written(opened: int) -> None:
    into = bytearray(b"-" * 8)
    for start, size in ((8, 0), (7, 1), (0, 8), (-1, 1), (2**62, 5), (0, -1)):
        starts, sizes = np.array([start], np.int64), np.array([size], np.int64)
        assert read_files(opened, ["1"], starts, sizes, memoryview(into), 0) == 0
    assert into == b"-" * 8


@pytest.mark.parametrize("native", [True, False])
def test_times_that_int64_does_not_hold(tmp_path: Path, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_NATIVE", native)
    names = ["earlier.txt", "later.txt"]
    for name, seconds in zip(names, (-10_413_792_000, 10_413_792_000), strict=True):
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, ns=(0, seconds * 10**9 + 7))
    times = list_files(tmp_path).kinds["text"].column(tmp_path).mtimes.tolist()
    off = [time - os.stat(tmp_path / name).st_mtime_ns for time, name in zip(times, names, strict=True)]
    assert [nanoseconds % 2**64 for nanoseconds in off] == [0, 0]


def test_the_names_may_change_while_they_are_read(opened: int, tmp_path: Path) -> None:
    long = 32 << 20  # takes long enough for another thread to drop the names of the others
    (tmp_path / "long").write_bytes(b"\1" * long)
    names = [str(tmp_path / "long"), *("".join(("./", "9")) for _ in range(2000))]
    sizes = np.array([long, *[9] * 2000], np.int64)
    starts, into, done = np.cumsum(sizes) - sizes, bytearray(long + 2000 * 9 + 1), list[int]()

    def read() -> None:
        done.append(read_files(opened, names, starts, sizes, memoryview(into), 0))

    reading = threading.Thread(target=read)
    reading.start()
    while reading.is_alive() and not into[0]:
        pass
    names.clear()
    others = [f"./x{number}" for number in range(2000)]  # in the memory of those
    reading.join()
    assert done == [2001]
    assert into[-10:-1] == b"\x09" * 9
    assert len(others) == 2000


@pytest.mark.parametrize("native", [True, False])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_NATIVE", native)
    os.mkfifo(tmp_path / "pipe")
    wrong: list[BaseException] = []

    def read() -> None:
        starts, sizes = np.zeros(1, np.int64), np.full(1, 3, np.int64)
        try:
            contents._read_all(str(tmp_path), ["pipe"], memoryview(bytearray(4)), starts, sizes)
        except PackError as error:
            wrong.append(error)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    reading.join(10)
    waiting = reading.is_alive()
    if waiting:  # let it end
        os.close(os.open(tmp_path / "pipe", os.O_WRONLY))
        reading.join()
    assert not waiting
    assert "pipe cannot be read: Illegal seek" in str(wrong[0])


def test_arguments_that_do_not_fit_are_refused(opened: int) -> None:
    one, two, narrow = np.zeros(1, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="sizes and places are int64, one for each file"):
        _files.stat(opened, ["1", "2"], two, one)
    with pytest.raises(ValueError, match="sizes and places are int64, one for each file"):
        _files.read(opened, ["1", "2"], two, narrow, bytearray(9), 0)
    with pytest.raises(ValueError, match="the first file has a number from 0"):
        _files.read(opened, ["1", "2"], two, two, bytearray(9), -1)
    with pytest.raises(TypeError):
        _files.read(opened, ["1", "2"], two, two, b"read only", 0)


def test_what_comes_in_pieces_is_read_on_until_the_file_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(range(50)))
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, into, at: whole(file, [one[:7] for one in into], at))
    with open(tmp_path / "file", "rb", buffering=0) as file:
        for start, size, there in [(0, 50, 50), (3, 20, 20), (40, 30, 10), (60, 5, 0), (0, 0, 0)]:
            into = bytearray(size)
            assert read_into(file.fileno(), memoryview(into), start) == there
            assert into[:there] == bytes(range(50))[start : start + there]


WITHOUT = """
import sys
import threading
sys.modules["fastload.pack._files"] = None  # as if it were not built
from fastload.pack import pack
pack(sys.argv[1], sys.argv[2], workers=1, shard_size="40KiB")
"""


def test_without_the_c_part_the_bytes_are_the_same(images: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT, str(images), str(tmp_path / "without")], check=True)
    pack(images, tmp_path / "with", workers=1, shard_size="40KiB")
    assert tree(tmp_path / "with") == tree(tmp_path / "without")


@pytest.mark.parametrize("native", [True, False])
def test_writing_back_early_changes_nothing(tmp_path: Path, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(files, "_files", None)
    content = os.urandom(100_000)
    with open(tmp_path / "file", "w+b") as file:
        file.write(content)
        file.flush()
        for start, size in [(0, 100_000), (5, 7), (1 << 40, 10), (0, 0)]:
            write_back(file.fileno(), start, size)
    assert (tmp_path / "file").read_bytes() == content
    reading, writing = os.pipe()
    write_back(writing, 0, 10)  # what has no disk is left alone
    os.close(reading)
    os.close(writing)

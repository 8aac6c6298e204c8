"""Rows that are copied by threads outside of Python: the same batches, nothing left behind, whenever one stops."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import samples
import warm
import xxhash

import fastload
from fastload.errors import EngineError, FastloadError
from fastload.shards import read
from fastload.shards.idx import Idx
from fastload.shards.index import FieldInfo, IndexFile
from fastload.shards.open import open_index
from fastload.shards.read import Copying, TarReader
from fastload.shards.tar import TarShardWriter

ROWS, LENGTH, SHARDS = 96, 300, 3
HEAD = 128  # bytes of the header of a .npy


def write(folder: Path) -> npt.NDArray[np.uint16]:
    """Rows of tokens, of which every tenth is short."""
    folder.mkdir(exist_ok=True)
    tokens = np.random.default_rng(0).integers(0, 60_000, (SHARDS * ROWS, LENGTH), np.uint16)
    fields, written = {"tokens": FieldInfo(kind="tokens", dtype="uint16")}, []
    for number in range(SHARDS):
        writer = TarShardWriter(folder / f"{number}.tar", fields)
        for row in range(number * ROWS, number * ROWS + ROWS):
            content = samples.npy(tokens[row, : 250 if row % 10 == 3 else LENGTH])
            writer.add(f"{row}", {"tokens": ("npy", content)}, {}, {})
        written.append(writer.finish())
    IndexFile(shard_format="tar", fields=fields, shards=tuple(written), splits={"train": (0, SHARDS)}).save(folder)
    return tokens


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crew") / "set"
    write(folder)
    return folder


def crew_threads() -> int:
    """Threads of crews in this process."""
    return sum(name.read_text() == "fastload-crew\n" for name in Path("/proc/self/task").glob("*/comm"))


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    assert crew_threads() == 0


def loader(folder: Path, workers: int, **options: Any) -> fastload.DataLoader:
    fields = {"tokens": fastload.Tokens(LENGTH, pad=7)}
    return fastload.DataLoader(folder, 20, num_workers=workers, fields=fields, **options)


def until_error(data: fastload.DataLoader) -> tuple[list[Any], str]:
    """The batches before an error, and what it says."""
    batches: list[Any] = []
    with pytest.raises(FastloadError) as caught:
        batches.extend(data)
    return batches, str(caught.value)


@pytest.mark.parametrize("prefetch", [1, 2, 5])
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_those_of_one_thread(folder: Path, workers: int, prefetch: int) -> None:
    alone, helped = loader(folder, 0), loader(folder, workers, prefetch_factor=prefetch)
    for _ in range(3):
        assert [samples.content(batch) for batch in helped] == [samples.content(batch) for batch in alone]
        assert helped.state_dict() == alone.state_dict()


def test_threads_are_there_while_it_iterates(folder: Path) -> None:
    iterator = iter(loader(folder, 3))
    next(iterator)
    assert crew_threads() == 3
    assert [thread.name for thread in threading.enumerate() if "fastload" in thread.name] == []
    del iterator
    assert crew_threads() == 0


@pytest.mark.parametrize("batches", [1, 2, 3, 14])
def test_a_loop_that_is_left_goes_on_from_its_state(folder: Path, batches: int) -> None:
    whole = [samples.content(batch) for batch in loader(folder, 0)]
    first, second = loader(folder, 2), loader(folder, 2)
    found = []
    for batch in first:
        found.append(samples.content(batch))
        if len(found) == batches:
            break
    second.load_state_dict(first.state_dict())
    assert [*found, *(samples.content(batch) for batch in second)] == whole


def test_damage_is_masked_or_raised_at_its_batch(tmp_path: Path) -> None:
    write(tmp_path / "set")
    damaged = [5, 6, 77]
    offsets = Idx(open_index(tmp_path / "set").idx_paths[1]).offsets[damaged].tolist()
    for offset in offsets:
        samples.flip_byte(tmp_path / "set/1.tar", offset + 700)
    runs = []
    for workers in (0, 2):
        masking = loader(tmp_path / "set", workers, on_error="mask", max_errors=3)
        runs.append([samples.content(batch) for batch in masking])
        assert sorted(fault.row for fault in masking.faults) == damaged
    assert runs[0] == runs[1]
    found = [until_error(loader(tmp_path / "set", workers)) for workers in (0, 2)]
    assert "checksum" in found[0][1]
    assert [(len(batches), error) for batches, error in found[:1]] == [(len(b), e) for b, e in found[1:]]


def test_a_missing_shard_is_raised_after_the_batches_before_it(tmp_path: Path) -> None:
    write(tmp_path / "set")
    data = loader(tmp_path / "set", 2, shuffle=False)
    (tmp_path / "set/2.tar").unlink()
    batches, error = until_error(data)
    assert "2.tar is missing" in error or "2.tar cannot be read" in error
    assert [key for batch in batches for key in batch["__key__"]] == [str(row) for row in range(180)]


def test_auto_is_one_thread(folder: Path) -> None:
    assert loader(folder, "auto").num_workers == (1 if read._rows else 0)  # type: ignore[arg-type]


def test_a_fork_says_so_and_ends(folder: Path) -> None:
    iterator = iter(loader(folder, 2))
    next(iterator)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            next(iterator)
        except EngineError:
            del iterator  # crew and tasks go, and nothing is waited for
            code = 0 if len(list(loader(folder, 1))) == 15 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list(iterator)) == 14


LEAVING = """
import sys
import fastload
iterator = iter(fastload.DataLoader(sys.argv[1], 20, num_workers=2, fields={"tokens": fastload.Tokens(300)}))
next(iterator), next(iterator)
print("leaving")
"""


def test_the_interpreter_ends_in_mid_epoch(folder: Path) -> None:
    done = warm.run(LEAVING, folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


class Filling:
    """Tasks over all rows of the set, by number."""

    def __init__(self, folder: Path) -> None:
        assert read._rows is not None
        self.index = open_index(folder)
        self.reader = TarReader(self.index, [], ["tokens"], capacity=4)
        self.at = np.arange(SHARDS * ROWS)
        self.head = bytes(self.reader.read(self.at[:1], self.at[:1]).raw["tokens"][0][:HEAD])  # type: ignore[index]

    def begin(self, crew: Any) -> tuple[Any, Any]:
        out = np.full((len(self.at), LENGTH), -1, np.int64)
        into = Copying("tokens", self.head, np.dtype("uint16"), exact=False, out=out)
        return self.reader.begin(self.at // ROWS, self.at % ROWS, crew, into), out


def test_tasks_are_done_whoever_does_them(folder: Path) -> None:
    assert read._rows is not None
    expected, filling = write(folder), Filling(folder)
    short = filling.at % 10 == 3

    def check(finish: Any, out: Any) -> None:
        rows = finish()
        assert rows.keys == [str(row) for row in filling.at]
        assert [content is not None for content in rows.raw["tokens"]] == short.tolist()
        assert (out[~short] == expected[~short]).all()
        assert (out[short] == -1).all()

    for threads in (1, 2, 7):
        crew = read._rows.Crew(threads)
        for _ in range(50):  # in turn, out of turn, dropped, and asked for twice
            begun = [filling.begin(crew) for _ in range(5)]
            del begun[3]
            for task in reversed(begun):
                check(*task)
            check(*begun[0])
        left = [filling.begin(crew) for _ in range(3)]
        crew.close()
        crew.close()
        for task in (*left, filling.begin(crew)):
            check(*task)


def test_of_two_who_ask_at_once_one_gets_the_contents() -> None:
    assert read._rows is not None
    content = bytes(64 << 20)  # takes long enough for both to be in it
    row, sizes = np.zeros(1, np.int64), np.full(1, len(content), np.uint64)
    digests = np.full(1, xxhash.xxh3_64_intdigest(content), np.uint64)
    shard = read._rows.Shard(memoryview(content), row, sizes, digests, np.zeros(2, np.int32), b"", (), ())
    task, together, found = read._rows.read(None, [shard], row, 0), threading.Barrier(2), list[object]()

    def ask() -> None:
        together.wait()
        try:
            found.append(task.result())
        except RuntimeError as error:
            found.append(str(error))

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(found, key=str) == [([""], [], [], 0), "the result of a reading is handed out once"]


CUT_OFF = """
import faulthandler, mmap, sys, time
import numpy as np
from fastload.shards import _rows
faulthandler.enable()
with open(sys.argv[1], "r+b") as file:
    view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    row, sizes, digests = np.zeros(1, np.int64), np.full(1, len(view), np.uint64), np.zeros(1, np.uint64)
    shard = _rows.Shard(view, row, sizes, digests, np.zeros(2, np.int32), b"", (), ())
    file.truncate(0)
    task = _rows.read(_rows.Crew(1), [shard], row, 0)
    time.sleep(60)
"""


def test_faulthandler_hears_of_a_thread_that_reads_what_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(bytes(10_000))
    done = warm.run(CUT_OFF, tmp_path / "cut")
    assert done.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in done.stderr


def test_several_callers_share_a_crew(folder: Path) -> None:
    assert read._rows is not None
    crew, filling, wrong = read._rows.Crew(2), Filling(folder), []

    def call() -> None:
        for _ in range(100):
            finish, out = filling.begin(crew)
            finish()
            if out.sum() != expected:
                wrong.append(out)

    expected = (lambda task: task[0]() and task[1].sum())(filling.begin(None))
    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


class Contents:
    """Readings of all rows of a set of bytes, by number."""

    def __init__(self, folder: Path) -> None:
        self.reader = TarReader(open_index(folder), [], ["image", "text"], capacity=4)
        self.at = np.random.default_rng(0).permutation(12)

    def begin(self, crew: Any) -> Any:
        return self.reader.begin(self.at // 4, self.at % 4, crew)


def test_contents_are_those_of_one_thread_whoever_reads_them(packed: Callable[..., Path]) -> None:
    assert read._rows is not None
    contents = Contents(packed("tar", [4, 4, 4], ("image", "text")))
    expected = contents.begin(None)()
    assert expected.intact
    for threads in (1, 3):
        crew = read._rows.Crew(threads)
        for _ in range(100):
            begun = [contents.begin(crew) for _ in range(3)]
            del begun[1]  # not asked for
            assert [finish() == expected for finish in reversed(begun)] == [True, True]
        left = contents.begin(crew)
        crew.close()
        assert left() == expected
        with pytest.raises(RuntimeError, match="handed out once"):
            left()


def test_damaged_contents_are_errors_in_their_place(tmp_path: Path) -> None:
    assert read._rows is not None
    data = samples.make(tmp_path / "d", "tar", [12], ("image", "text"), replace={2: {"text": None}, 5: {"image": None}})
    offsets = Idx(open_index(data).idx_paths[0]).offsets[[5, 7]].tolist()
    for offset in offsets:
        samples.flip_byte(data / "train/shard-000000.tar", offset + 600)
    reader, rows = TarReader(open_index(data), [], ["image", "text"], capacity=4), np.arange(12)
    crew = read._rows.Crew(2)
    runs = [reader.begin(np.zeros_like(rows), rows, by)() for by in (None, crew)]
    crew.close()
    faults = [
        {(name, row): str(raw) for name in found.raw for row, raw in enumerate(found.raw[name]) if not is_bytes(raw)}
        for found in runs
    ]
    assert faults[0] == faults[1]
    assert sorted(faults[0]) == [("image", 5), ("image", 7), ("text", 2), ("text", 5), ("text", 7)]
    assert ["checksum" in error for _, error in sorted(faults[0].items())] == [True, True, False, True, True]
    assert (
        runs[0].bytes
        == runs[1].bytes
        == sum(len(raw) for raws in runs[0].raw.values() for raw in raws if is_bytes(raw))
    )


def crew_ticks() -> list[int]:
    """Processor time of each of a crew's threads."""
    tasks = [task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text() == "fastload-crew\n"]
    return [sum(map(int, (task / "stat").read_text().rsplit(")", 1)[1].split()[11:13])) for task in tasks]


def test_threads_share_rows_of_which_little_is_kept() -> None:
    assert read._rows is not None
    content, zero = bytes(64 << 20), np.zeros(1, np.int64)
    sizes = np.full(1, len(content), np.uint64)
    digests = np.full(1, xxhash.xxh3_64_intdigest(content), np.uint64)
    span = (np.full(1, 8, np.uint64), sizes - np.uint64(8))
    shard = read._rows.Shard(memoryview(content), zero, sizes, digests, np.zeros(2, np.int32), b"", (span,), ())
    crew, out, lengths = read._rows.Crew(2), np.zeros((32, 16), np.uint8), np.zeros(32, np.int64)
    task = read._rows.fill(crew, [shard] * 32, np.zeros(32, np.int64), 0, b"", "u1", out, "u1", False, lengths)
    deadline = time.monotonic() + 30
    while not all(ticks := crew_ticks()) and time.monotonic() < deadline:
        time.sleep(0.01)
    task.result()
    crew.close()
    assert len(ticks) == 2
    assert min(ticks) > 0
    assert lengths.tolist() == [16] * 32


def is_bytes(raw: object) -> bool:
    return isinstance(raw, bytes | memoryview)


@pytest.mark.parametrize("text", [False, True])
def test_batches_of_contents_are_those_of_one_thread(packed: Callable[..., Path], text: bool) -> None:
    data = packed("tar", [30, 31, 32], ("image", "text", "label"))
    fields: dict[str, Any] = {"text" if text else "image": fastload.Text() if text else fastload.Bytes()}
    fields["label"] = fastload.Scalar()
    alone, helped = (fastload.DataLoader(data, 10, num_workers=workers, fields=fields) for workers in (0, 2))
    threads = set()
    for _ in range(2):
        found = [(samples.content(batch), threads.add(crew_threads())) for batch in helped]
        assert [content for content, _ in found] == [samples.content(batch) for batch in alone]
    assert max(threads) == 2


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (np.array([True, False]), [1, 0]),
        (np.array([-5, 127], np.int8), [-5, 127]),
        (np.array([0, 255], np.uint8), [0, 255]),
        (np.array([0, 65535], np.uint16), [0, 65535]),
        (np.array([-(2**31), 7], np.int32), [-(2**31), 7]),
        (np.array([2**32 - 1, 0], np.uint32), [2**32 - 1, 0]),
        (np.array([-(2**63), 2**63 - 1], np.int64), [-(2**63), 2**63 - 1]),
        (np.array([0, 2**63 - 1], np.uint64), [0, 2**63 - 1]),
        (np.array([0, 2**63], np.uint64), None),
        (np.array([0.5, -1.5], np.float32), None),
        (np.array([0.5, 1e300], np.float64), None),
        (np.array([0.5, 1.5], np.float16), None),
    ],
)
def test_numbers_of_the_index(stored: npt.NDArray[Any], wanted: list[int] | None) -> None:
    assert read._rows is not None
    none = np.zeros(2, np.uint64)
    bounds = np.zeros(3, np.int32)
    shard = read._rows.Shard(memoryview(b""), none.view(np.int64), none, none, bounds, b"", (), (stored.data,))
    rows, integers, floats = np.array([1, 0, 0]), np.zeros(3, np.int64), np.zeros(3, np.float64)
    assert read._rows.numbers([shard] * 3, rows, 0, integers) == (wanted is not None)
    if wanted is not None:
        assert integers.tolist() == [wanted[1], wanted[0], wanted[0]]
    if stored.dtype != np.float16:
        assert read._rows.numbers([shard] * 3, rows, 0, floats)
        assert floats.tolist() == stored[rows].astype(np.float64).tolist()
    else:
        assert not read._rows.numbers([shard] * 3, rows, 0, floats)


def test_what_is_refused() -> None:
    assert read._rows is not None
    with pytest.raises(ValueError, match=r"Crew\(0\): at least one thread"):
        read._rows.Crew(0)
    with pytest.raises(TypeError, match="a Crew or None expected"):
        read._rows.fill(1, [], np.zeros(0, np.int64), 0, b"", "i4", np.zeros(0), "i8", False, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows: 1 int64 expected, as many as shards"):
        read._rows.keys([None], np.zeros(2, np.int64))  # type: ignore[list-item]
    with pytest.raises(TypeError, match="a list of Shards expected"):
        read._rows.keys([None], np.zeros(1, np.int64))  # type: ignore[list-item]
    none = np.zeros(1, np.uint64)
    shard = read._rows.Shard(b"", none.view(np.int64), none, none, np.zeros(2, np.int32), b"", (), ())  # type: ignore[arg-type]
    for row in (-1, 1):
        with pytest.raises(IndexError, match=f"row {row} of a shard of 1 samples"):
            read._rows.read(None, [shard], np.array([row]), 0)
    with pytest.raises(IndexError, match="numbers: field 0 of 0"):
        read._rows.numbers([shard], np.zeros(1, np.int64), 0, np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="int64 or float64 expected"):
        read._rows.numbers([shard], np.zeros(1, np.int64), 0, np.zeros(2, np.int32))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot create"):
        read._rows.Task()


def test_scalars_and_ranges_are_checked_as_ever(tmp_path: Path) -> None:
    fields = {"x": FieldInfo(kind="tensor"), "label": FieldInfo(kind="scalar", dtype="int64")}
    writer = TarShardWriter(tmp_path / "a.tar", fields)
    for row in range(40):
        writer.add(f"{row}", {"x": ("npy", samples.npy(np.full((2, 3), row, np.float32)))}, {"label": 10 * row}, {})
    writer.finish()
    declared = {"x": fastload.Tensor((2, 3)), "label": fastload.Scalar(dtype="uint8")}
    data = fastload.DataLoader(tmp_path, 8, num_workers=1, fields=declared, shuffle=False)
    batches, error = until_error(data)
    assert "260 does not fit into uint8" in error
    assert [batch["x"][:, 1, 2].tolist() for batch in batches] == np.arange(24).reshape(3, 8).tolist()
    assert all((batch["label"] == 10 * batch["x"][:, 0, 0]).all() for batch in batches)

"""The native reading of rows against the same in Python: what it returns, what it finds damaged, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import samples
import xxhash

import fastload
from fastload.errors import FastloadError
from fastload.shards import read
from fastload.shards.idx import Idx
from fastload.shards.index import FieldInfo, Index
from fastload.shards.open import open_index
from fastload.shards.read import TarReader
from fastload.shards.tar import TarShardWriter

ROWS = 40


def write(folder: Path) -> Index:
    """Two tars: contents of 0 bytes to above the size that is copied, a field that some samples lack, a label."""
    rng = np.random.default_rng(0)
    fields = {name: FieldInfo(kind="bytes") for name in ("bytes", "extra")}
    fields["label"] = FieldInfo(kind="scalar", dtype="int64")
    for number in range(2):
        writer = TarShardWriter(folder / f"{number}.tar", fields)
        for row in range(ROWS):
            contents = {"bytes": ("bin", rng.bytes([0, 1, 900, 4095, 4096, 9000][row % 6]))}
            if row % 3:
                contents["extra"] = ("bin", rng.bytes(row))
            writer.add(f"käse/{number}-{row}", contents, {"label": row}, {})
        writer.finish()
    return open_index(folder)


def rows_of(index: Index, native: bool, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    with monkeypatch.context() as patch:
        if not native:
            patch.setattr(read, "_rows", None)
        reader = TarReader(index, ["label"], ["bytes", "extra"], capacity=2)
        order = np.random.default_rng(1).permutation(2 * ROWS)
        found = reader.read(order // ROWS, order % ROWS)
    raw = {
        name: [str(value) if isinstance(value, FastloadError) else bytes(value) for value in values]
        for name, values in found.raw.items()
    }
    return [found.keys, raw, {k: v.tolist() for k, v in found.scalars.items()}, found.intact]


def test_native_is_built() -> None:
    assert read._rows is not None, "fastload.shards._rows is not built: see setup.py"


@pytest.fixture(params=["base", "avx2", "avx512"], autouse=True)
def build(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test with each build of the loops; on a processor that lacks one, with the fastest it has."""
    assert read._rows is not None
    found = read._rows.builds()
    assert found == ["base", "avx2", "avx512"][: len(found)]
    read._rows.use(request.param if request.param in found else found[-1])
    yield
    read._rows.use(found[-1])


def test_only_builds_that_the_processor_runs_are_used() -> None:
    assert read._rows is not None
    with pytest.raises(ValueError, match="no build mmx for this processor"):
        read._rows.use("mmx")


def test_both_ways_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write(tmp_path)
    assert rows_of(index, True, monkeypatch) == rows_of(index, False, monkeypatch)


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_of_any_length_are_those_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    write(tmp_path)
    loader = fastload.DataLoader(tmp_path, 6, num_workers=workers, fields={"bytes": fastload.Bytes()})
    native = [samples.content(batch) for batch in loader]
    monkeypatch.setattr(read, "_rows", None)
    loader = fastload.DataLoader(tmp_path, 6, fields={"bytes": fastload.Bytes()})
    assert native == [samples.content(batch) for batch in loader]


@pytest.mark.parametrize("length", [1, 900, 4096, 10_000, 20_000])
@pytest.mark.parametrize("workers", [0, 2])
def test_padded_bytes_are_those_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, length: int
) -> None:
    write(tmp_path)
    fields = {"bytes": fastload.Bytes(length)}
    native = [samples.content(b) for b in fastload.DataLoader(tmp_path, 6, num_workers=workers, fields=fields)]
    monkeypatch.setattr(read, "_rows", None)
    assert native == [samples.content(batch) for batch in fastload.DataLoader(tmp_path, 6, fields=fields)]
    whole = fastload.DataLoader(tmp_path, 6, fields={"bytes": fastload.Bytes()})
    for padded, batch in zip(fastload.DataLoader(tmp_path, 6, fields=fields), whole, strict=True):
        contents = [content or b"" for content in batch["bytes"]]  # of padding: None
        assert padded["bytes"].numpy().tobytes() == b"".join(c[:length].ljust(length, b"\0") for c in contents)
        assert padded["bytes_length"].tolist() == [min(length, len(content)) for content in contents]


@pytest.mark.parametrize("native", [True, False])
def test_what_is_read_counts_whole_however_little_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    index = write(tmp_path)
    if not native:
        monkeypatch.setattr(read, "_rows", None)
    loader = fastload.DataLoader(tmp_path, 6, fields={"bytes": fastload.Bytes(1)})
    assert sum(batch["bytes_length"].sum() for batch in loader) < 2 * ROWS
    stored = sum(int(Idx(path).column("bytes.length").sum()) for path in index.idx_paths)
    assert loader.stats().read.bytes == pytest.approx(stored, rel=0 if native else 0.5)  # in Python an estimate


def test_padded_bytes_that_are_damaged_or_lacking_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = samples.make(tmp_path / "d", "tar", [12], ("image", "label"), replace={5: {"image": None}})
    offset = int(Idx(open_index(data).idx_paths[0]).offsets[7])
    samples.flip_byte(data / "train/shard-000000.tar", offset + 600)
    runs = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(read, "_rows", None)
        fields = {"image": fastload.Bytes(2000), "label": fastload.Scalar()}
        loader = fastload.DataLoader(data, 5, fields=fields, on_error="mask", max_errors=2)
        runs.append([samples.content(batch) for batch in loader])
        assert sorted(fault.row for fault in loader.faults) == [5, 7]
    assert runs[0] == runs[1]
    loader = fastload.DataLoader(data, 12, fields={"image": fastload.Bytes(2000)}, on_error="mask", max_errors=2)
    (batch,) = loader
    assert (batch["image_length"] > 0).tolist() == batch.valid.tolist()
    assert not batch["image"][~batch.valid].any()


@pytest.mark.parametrize("byte", [512, 20_000, 60_000])
def test_both_ways_find_the_same_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, byte: int) -> None:
    index = write(tmp_path)
    content = bytearray((tmp_path / "1.tar").read_bytes())
    content[byte] ^= 1
    (tmp_path / "1.tar").write_bytes(content)
    ours = rows_of(index, True, monkeypatch)
    assert ours == rows_of(index, False, monkeypatch)
    assert ours[-1] is False
    assert "not what was packed" in str(ours[1])


def at(*rows: int) -> read.Ints:
    return np.array(rows, np.int64)


def shard(**changed: object) -> object:
    assert read._rows is not None
    parts: dict[str, object] = {
        "view": memoryview(bytes(1024)),
        "offsets": np.array([0, 512], np.int64).data,
        "sizes": np.array([512, 512], np.uint32).data,
        "digests": np.zeros(2, np.uint64).data,
        "key_bounds": np.array([0, 1, 2], np.int32).data,
        "key_text": memoryview(b"ab"),
        "spans": ((np.array([8, 8], np.uint32).data, np.array([4, 4], np.uint32).data),),
        "scalars": (),
    }
    return read._rows.Shard(*(parts | changed).values())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"offsets": np.array([0, 1 << 62], np.int64).data},
        {"offsets": np.array([0, -512], np.int64).data},
        {"sizes": np.array([512, 513], np.uint32).data},
        {"sizes": np.array([512, 1 << 63], np.uint64).data},
        {"spans": ((np.array([8, 509], np.uint32).data, np.array([4, 4], np.uint32).data),)},
        {"spans": ((np.array([8, 8], np.uint64).data, np.array([4, 1 << 63], np.uint64).data),)},
        {"key_bounds": np.array([0, 1, 1 << 30], np.int32).data},
        {"key_bounds": np.array([0, 2, 1], np.int32).data},
    ],
)
def test_an_index_that_points_elsewhere_is_damage(changed: dict[str, object]) -> None:
    assert read._rows is not None
    keys, (contents,), faults, size = read._rows.read(None, [shard(**changed)], at(1), 4096).result()
    assert contents == [None]  # the checksum does not hold either
    assert (faults, size) == ([(0, -1)], 0)
    assert keys == read._rows.keys([shard(**changed)], at(1))
    assert keys in (["b"], [""])


@pytest.mark.parametrize(
    "changed",
    [
        {"sizes": np.zeros(1, np.uint32).data},
        {"sizes": np.zeros(2, "V0")},  # items of no bytes
        {"digests": np.zeros(2, np.uint32).data},
        {"scalars": (np.zeros(1, np.int8),)},
        {"scalars": (np.zeros(2, "V0"),)},
    ],
)
def test_columns_of_another_length_or_type_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="do not fit the index"):
        shard(**changed)


def test_a_shard_that_is_refused_holds_nothing() -> None:
    assert read._rows is not None
    made, view, none = read._rows.Shard.__new__(read._rows.Shard), bytearray(8), np.zeros(1, np.int64)
    for sizes in (none[:0], none.astype(np.int16)):
        with pytest.raises(ValueError, match=r"sizes: . items"):
            made.__init__(view, none, sizes, none, np.zeros(2, np.int32), b"", (), ())  # type: ignore[misc, arg-type]
    view.append(0)  # raises BufferError while something holds it


def zeros_512(**changed: object) -> object:
    """A shard of samples of 512 zeros, whose checksum holds."""
    return shard(digests=np.full(2, xxhash.xxh3_64_intdigest(bytes(512)), np.uint64).data, **changed)


def test_the_list_of_shards_may_change_before_the_result() -> None:
    assert read._rows is not None
    shards: list[Any] = [zeros_512() for _ in range(20)]
    rows, out = np.zeros(20, np.int64), np.full((20, 4), 7, np.uint8)
    contents = read._rows.read(None, shards, rows, 4096)
    numbers = read._rows.fill(None, shards, rows, 0, b"", "u1", out, "u1", True, None)
    shards.clear()
    others = [shard(view=memoryview(b"\1" * 1024), key_text=memoryview(b"zz")) for _ in range(40)]  # in their memory
    assert contents.result() == (["a"] * 20, [[bytes(4)] * 20], [], 80)
    assert numbers.result() == (["a"] * 20, [], 80)
    assert not out.any()
    assert len(others) == 40


def test_columns_may_lie_anywhere() -> None:
    assert read._rows is not None

    def shifted(array: npt.NDArray[Any]) -> memoryview:
        return memoryview(b"-" + array.tobytes())[1:].cast(array.dtype.char)

    columns = {
        "offsets": np.array([0, 512], np.int64),
        "sizes": np.array([512, 512], np.uint32),
        "digests": np.full(2, xxhash.xxh3_64_intdigest(bytes(512)), np.uint64),
        "key_bounds": np.array([0, 1, 2], np.int32),
    }
    spans = (shifted(np.array([8, 8], np.uint64)), shifted(np.array([4, 4], np.uint32)))
    scalars = (shifted(np.array([1.5, 2.5])),)
    one: Any = shard(**{name: shifted(array) for name, array in columns.items()}, spans=(spans,), scalars=scalars)
    assert read._rows.read(None, [one], at(1), 4096).result() == (["b"], [[bytes(4)]], [], 4)
    numbers = np.zeros(3)
    assert read._rows.numbers([one], at(1), 0, numbers[:1])
    assert numbers[0] == 2.5
    loose = memoryview(numbers).cast("B")[1:9]
    with pytest.raises(ValueError, match="numbers: they do not lie at multiples of 8 bytes"):
        read._rows.numbers([one], at(1), 0, loose.cast("d"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fill: numbers do not lie at multiples of 8 bytes"):
        read._rows.fill(None, [one], at(1), 0, b"", "i4", loose, "i8", False, None)


def test_rows_and_arguments_are_checked() -> None:
    assert read._rows is not None
    one = shard()
    with pytest.raises(IndexError, match="row 2 of a shard of 2 samples"):
        read._rows.read(None, [one], at(2), 0)  # type: ignore[list-item]
    with pytest.raises(IndexError, match="row -1"):
        read._rows.read(None, [one], at(-1), 0)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="as many as shards"):
        read._rows.read(None, [one], at(), 0)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="list of Shards"):
        read._rows.read(None, [object()], at(0), 0)  # type: ignore[list-item]


def test_integers_are_copied_as_python_decodes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for stored in ("int32", "int64", "uint16", "uint32", "int8"):
        for wanted in ("int64", "int32", "uint16"):
            folder = tmp_path / f"{stored}-{wanted}"
            folder.mkdir()
            writer = TarShardWriter(folder / "a.tar", {"tokens": FieldInfo(kind="tokens", dtype=stored)})
            for row in range(ROWS):
                length = 7 if row % 8 else 5 + row % 3
                content = samples.npy(rng.integers(0, 100 if stored == "int8" else 30_000, length).astype(stored))
                writer.add(f"{row}", {"tokens": ("npy", content)}, {}, {})
            writer.finish()
            field = fastload.Tokens(7, pad=9, dtype=wanted)
            runs = []
            for native in (True, False):
                with monkeypatch.context() as patch:
                    if not native:
                        patch.setattr(read, "_rows", None)
                    loader = fastload.DataLoader(folder, 6, fields={"tokens": field})
                    runs.append([samples.content(batch) for _ in range(2) for batch in loader])
            assert runs[0] == runs[1]


def test_tensors_are_copied_as_python_decodes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for number, (stored, wanted) in enumerate(
        [("float32", "float32"), ("uint8", "uint8"), ("bool", "bool"), (">f4", "float32"), ("float32", "float64")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        label = FieldInfo(kind="scalar", dtype="int64")
        writer = TarShardWriter(folder / "a.tar", {"x": FieldInfo(kind="tensor"), "label": label})
        for row in range(ROWS):
            array = rng.integers(0, 2, (2, 3)).astype(stored)
            if row % 7 == 3:
                array = np.asfortranarray(array)
            content = samples.npy(array) + b"more" * (row in (9, 20))
            writer.add(f"{row}", {"x": ("npy", content)}, {"label": row}, {})
        writer.finish()
        fields = {"x": fastload.Tensor((2, 3), dtype=wanted), "label": fastload.Scalar()}
        runs = []
        for native in (True, False):
            with monkeypatch.context() as patch:
                if not native:
                    patch.setattr(read, "_rows", None)
                loader = fastload.DataLoader(folder, 6, fields=fields, on_error="mask", max_errors=4)
                runs.append([samples.content(batch) for _ in range(3) for batch in loader])
                assert sorted(fault.row for fault in loader.faults) == [9, 20], "bytes behind the array"
        assert runs[0] == runs[1]


def test_rows_that_are_stored_otherwise_are_left(tmp_path: Path) -> None:
    writer = TarShardWriter(tmp_path / "a.tar", {"tokens": FieldInfo(kind="tokens", dtype="int32")})
    contents = [
        np.arange(4, dtype=np.int32),
        np.arange(4, dtype=np.int64),
        np.arange(3, dtype=np.int32),
        np.arange(4, dtype=np.int32) + 7,
    ]
    for row, content in enumerate(contents):
        writer.add(f"{row}", {"tokens": ("npy", samples.npy(content))}, {}, {})
    writer.add("4", {}, {}, {})
    writer.finish()
    index = open_index(tmp_path)
    reader = TarReader(index, [], ["tokens"], capacity=1)
    rows = np.arange(5)
    head = bytes(reader.read(rows[:1] * 0, rows[:1]).raw["tokens"][0][:128])
    out = np.full((5, 4), -1)
    into = read.Copying(field="tokens", head=head, stored=np.dtype("int32"), exact=False, out=out)
    found = reader.begin(rows * 0, rows, None, into)()
    assert found.keys == ["0", "1", "2", "3", "4"]
    assert not found.intact
    assert [value is None for value in found.raw["tokens"]] == [True, False, False, True, False]
    assert isinstance(found.raw["tokens"][4], FastloadError)
    assert out.tolist() == [[0, 1, 2, 3], [-1] * 4, [-1] * 4, [7, 8, 9, 10], [-1] * 4]
    samples.flip_byte(tmp_path / "a.tar", int(Idx(index.idx_paths[0]).offsets[3]) + 512 + 130)
    again = TarReader(index, [], ["tokens"], capacity=1).begin(rows * 0, rows, None, into)()
    assert "checksum" in str(again.raw["tokens"][3])


def test_short_rows_have_zeros_behind_them_and_their_lengths(tmp_path: Path) -> None:
    writer = TarShardWriter(tmp_path / "a.tar", {"bytes": FieldInfo(kind="bytes")})
    contents = [b"", b"\1\0", b"\1\0\2\0\3\0", b"\1\0\2\0\3\0\4\0", b"odd"]
    for row, content in enumerate(contents):
        writer.add(f"{row}", {"bytes": ("bin", content)}, {}, {})
    writer.finish()
    reader, rows = TarReader(open_index(tmp_path), [], ["bytes"], capacity=1), np.arange(5)
    out, lengths = np.full((5, 3), -1), np.full(5, -1)
    into = read.Copying("bytes", b"", np.dtype("uint16"), exact=False, out=out, lengths=lengths)
    found = reader.begin(rows * 0, rows, None, into)()
    assert [bytes(value) if value else None for value in found.raw["bytes"]] == [None] * 4 + [b"odd"]  # no whole number
    assert out[:4].tolist() == [[0, 0, 0], [1, 0, 0], [1, 2, 3], [1, 2, 3]]
    assert lengths[:4].tolist() == [0, 1, 3, 3]
    again = reader.begin(rows[:4] * 0, rows[:4], None, into._replace(out=out[:4], lengths=lengths[:4]))()
    assert (again.raw, again.bytes) == ({}, 16), "with what was cut off"


def test_filling_refuses_what_does_not_fit() -> None:
    assert read._rows is not None
    with pytest.raises(ValueError, match="fill: no copying from f4 to i8"):
        read._rows.fill(None, [], at(), 0, b"", "f4", np.zeros(0), "i8", False, None)
    with pytest.raises(ValueError, match="as many as shards"):
        read._rows.fill(None, [], at(1), 0, b"", "i4", np.zeros(0), "i8", False, None)
    with pytest.raises(ValueError, match="a row of whole numbers for each"):
        read._rows.fill(None, [], at(), 0, b"", "i4", np.zeros(3, np.int64), "i8", False, None)
    with pytest.raises(TypeError, match="a list of Shards expected"):
        read._rows.fill(None, [1], at(1), 0, b"", "i4", np.zeros(3, np.int64), "i8", False, None)  # type: ignore[list-item]
    for lengths in (np.zeros(1, np.int64), np.zeros(0, np.float64)):
        with pytest.raises(ValueError, match="lengths: int64 expected, as many as shards"):
            read._rows.fill(None, [], at(), 0, b"", "u1", np.zeros(0, np.uint8), "u1", False, lengths)  # type: ignore[arg-type]
    assert read._rows.fill(None, [], at(), 0, b"", "i4", np.zeros(0, np.int64), "i8", False, None).result() == (
        [],
        [],
        0,
    )


def test_every_pair_that_is_named_is_there() -> None:
    assert read._rows is not None
    for stored, wanted in read._COPIES.values():
        assert read._rows.fill(None, [], at(), 0, b"", stored, np.zeros(0), wanted, False, None).result() == ([], [], 0)

"""The native reading of rows against the same in Python: what it returns, what it finds damaged, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastload.errors import FastloadError
from fastload.shards import read
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


def test_both_ways_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write(tmp_path)
    assert rows_of(index, True, monkeypatch) == rows_of(index, False, monkeypatch)


@pytest.mark.parametrize("at", [512, 20_000, 60_000])
def test_both_ways_find_the_same_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    index = write(tmp_path)
    content = bytearray((tmp_path / "1.tar").read_bytes())
    content[at] ^= 1
    (tmp_path / "1.tar").write_bytes(content)
    ours = rows_of(index, True, monkeypatch)
    assert ours == rows_of(index, False, monkeypatch)
    assert ours[-1] is False
    assert "not what was packed" in str(ours[1])


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
    keys, (contents,), faults = read._rows.read([shard(**changed)], [1], 4096)
    assert contents == [None]  # the checksum does not hold either
    assert faults == [(0, -1)]
    assert keys in (["b"], [""])


@pytest.mark.parametrize("changed", [{"sizes": np.zeros(1, np.uint32).data}, {"digests": np.zeros(2, np.uint32).data}])
def test_columns_of_another_length_or_type_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="do not fit the index"):
        shard(**changed)


def test_rows_and_arguments_are_checked() -> None:
    assert read._rows is not None
    one = shard()
    with pytest.raises(IndexError, match="row 2 of a shard of 2 samples"):
        read._rows.read([one], [2], 0)  # type: ignore[list-item]
    with pytest.raises(IndexError, match="row -1"):
        read._rows.read([one], [-1], 0)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="as many rows as shards"):
        read._rows.read([one], [], 0)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="list of Shards"):
        read._rows.read([object()], [0], 0)  # type: ignore[list-item]

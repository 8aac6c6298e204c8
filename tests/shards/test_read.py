from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import samples
import warm
from samples import FORMATS, SCALARS, STORED, key

import fastload
from fastload.dataset import make_recipe, resolve_fields
from fastload.errors import CorruptError, DecodeError, FastloadError
from fastload.shards import read
from fastload.shards.open import open_index
from fastload.shards.read import Reader, ShardCache, TarReader

Packed = Callable[..., Path]
PATIENCE = 20.0


def reader_of(data: Path, window: int = 4) -> Reader:
    index = open_index(data)
    fields = resolve_fields(index, None)
    return make_recipe(index, fields, seed=0, window=window, faults=None, fingerprint={}).reader


@pytest.mark.parametrize("shard_format", FORMATS)
def test_rows_come_in_the_order_asked_for_from_any_shards(packed: Packed, shard_format: str) -> None:
    reader = reader_of(packed(shard_format, [3, 1, 4], samples.FIELDS))
    shards, rows = np.array([2, 0, 2, 1, 0, 2, 2]), np.array([3, 2, 0, 0, 0, 3, 1])
    wanted = [(np.array([0, 3, 4])[shard] + row).item() for shard, row in zip(shards, rows, strict=True)]
    found = reader.read(shards, rows)
    assert found.keys == [key(i) for i in wanted]
    assert found.intact
    for name, value in SCALARS.items():
        assert found.scalars[name].tolist() == [value(i) for i in wanted]
    for name in ("image", "audio", "text", "json", "bytes"):
        assert [bytes(raw) for raw in found.raw[name]] == [STORED[name](i)[1] for i in wanted]  # type: ignore[arg-type]


@pytest.mark.parametrize("shard_format", FORMATS)
def test_no_rows(packed: Packed, shard_format: str) -> None:
    found = reader_of(packed(shard_format, [3, 1, 4])).read(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert (found.keys, found.raw, found.scalars["label"].tolist(), found.intact) == ([], {"image": []}, [], True)


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_sample_without_a_field_is_an_error_in_its_place(tmp_path: Path, shard_format: str) -> None:
    data = samples.make(tmp_path / "d", shard_format, [4], replace={2: {"image": None}})  # type: ignore[arg-type]
    found = reader_of(data).read(np.zeros(4, np.int64), np.arange(4))
    assert not found.intact
    kinds = [isinstance(raw, FastloadError) for raw in found.raw["image"]]
    assert kinds == [False, False, True, False]
    assert "the sample has no field 'image'" in str(found.raw["image"][2])


def test_every_byte_of_a_tar_sample_counts(tmp_path: Path) -> None:
    data = samples.make(tmp_path / "d", "tar", [2], ("text", "label"))
    path = data / "train/shard-000000.tar"
    size = int(path.stat().st_size) - 1024
    for at in range(0, size, 37):  # headers, contents and padding of both samples
        samples.flip_byte(path, at)
        found = reader_of(data).read(np.zeros(2, np.int64), np.arange(2))
        damaged = [isinstance(raw, CorruptError) for raw in found.raw["text"]]
        assert damaged == [at < size // 2, at >= size // 2], at
        assert not found.intact
        samples.flip_byte(path, at)
    assert reader_of(data).read(np.zeros(2, np.int64), np.arange(2)).intact


def test_open_shards_are_bounded_by_the_limit_of_open_files(packed: Packed) -> None:
    index = open_index(packed("tar", [3, 1, 4]))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert TarReader(index, (), (), 10**9)._shards.capacity == (soft // 4 if soft != resource.RLIM_INFINITY else 10**9)
    assert TarReader(index, (), (), 3)._shards.capacity == 3


def test_more_shards_than_may_be_open_at_once_are_read(packed: Packed) -> None:
    data = packed("tar", [1] * 40)
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (48, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
import fastload
fields = {{"label": fastload.Scalar(), "image": fastload.Image(8)}}
run = fastload.DataLoader({str(data)!r}, 8, window="all", num_workers=2, fields=fields)
print(sorted(i for batch in run for i in batch["label"].tolist()) == list(range(40)))
"""
    done = warm.run(program)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


# The cache.


def test_a_shard_is_opened_once_though_threads_ask_at_the_same_time() -> None:
    opened: list[int] = []
    asked = threading.Barrier(5)

    def open_shard(shard: int) -> str:
        opened.append(shard)
        threading.Event().wait(0.05)  # the others come to wait
        return f"shard {shard}"

    cache = ShardCache(open_shard, 4)
    found: list[str] = []

    def get() -> None:
        asked.wait(PATIENCE)
        found.append(cache.get(7))

    threads = [threading.Thread(target=get) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (opened, found) == ([7], ["shard 7"] * 5)


def test_one_shard_may_be_used_while_another_is_opened() -> None:
    begun, release = threading.Event(), threading.Event()

    def open_shard(shard: int) -> int:
        if shard == 1:
            begun.set()
            assert release.wait(PATIENCE)
        return shard

    cache = ShardCache(open_shard, 4)
    slow = threading.Thread(target=cache.get, args=(1,))
    slow.start()
    assert begun.wait(PATIENCE)
    assert cache.get(2) == 2
    release.set()
    slow.join()


def test_the_least_recently_used_is_let_go() -> None:
    opened: list[int] = []
    cache = ShardCache(lambda shard: opened.append(shard) or shard, 2)
    for shard in (1, 2, 1, 3, 1, 2):
        cache.get(shard)
    assert opened == [1, 2, 3, 2]
    assert cache.get_all(np.array([2, 1, 2])) == [2, 1, 2]
    assert opened == [1, 2, 3, 2]


def test_more_shards_than_fit_are_all_given_at_once() -> None:
    cache = ShardCache(lambda shard: [shard], 1)
    assert cache.get_all(np.array([3, 1, 2, 3])) == [[3], [1], [2], [3]]


def test_a_shard_that_could_not_be_opened_is_tried_again() -> None:
    tries: list[int] = []

    def open_shard(shard: int) -> str:
        tries.append(shard)
        if len(tries) == 1:
            raise OSError("not yet")
        return "open"

    cache = ShardCache(open_shard, 1)
    with pytest.raises(OSError, match="not yet"):
        cache.get(1)
    assert cache.get(1) == "open"
    assert cache._opening == {}


CUT = """
import os, sys, time
import fastload
fields = {"image": fastload.Bytes()} if sys.argv[2] == "bytes" else {"tokens": fastload.Tokens(16)}
loader = fastload.DataLoader(sys.argv[1], batch_size=1, fields=fields, shuffle=False)
batches = iter(loader)
next(batches), next(batches)
os.truncate(sys.argv[1] + "/train/shard-000000.tar", 512)
time.sleep(0.1)
try:
    for batch in batches:
        pass
except fastload.errors.FastloadError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("kind", ["bytes", "tokens"])
def test_a_shard_that_is_cut_off_between_batches_is_an_error_that_names_it(packed: Packed, kind: str) -> None:
    data = packed("tar", [40], samples.FIELDS)
    done = warm.run(CUT, data, kind, timeout=3 * PATIENCE)
    assert done.returncode == 1, f"{done.returncode}: {done.stderr}"
    assert "SourceError" in done.stderr
    assert "shard-000000.tar" in done.stderr
    assert "has 512 bytes, and its index says" in done.stderr


def test_looking_for_cut_files_takes_a_hundredth_of_the_time(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def slow(view: memoryview) -> bool:
        looked.append(view)
        time.sleep(0.002)
        return False

    monkeypatch.setattr("fastload.shards.read.was_cut", slow)
    reader = reader_of(packed("tar", [3, 1, 4]))
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        reader.read(np.array([0, 1, 2]), np.zeros(3, np.int64))
    assert len(looked) == 3, "6 ms, and not again for 600"


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("native", [True, False])
def test_integers_that_only_64_bits_hold_stay_exact(
    tmp_path: Path, shard_format: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(read, "_rows", None)
    values = [5, 2**53 + 1, 2**63 + 1, 2**64 - 1]
    data = samples.make_numbers(tmp_path / "d", shard_format, "uint64", [values[:2], values[2:]])
    for batch_size in (1, 3, 4):
        loader = fastload.DataLoader(data, batch_size, shuffle=False, fields={"x": fastload.Scalar("uint64")})
        assert [number for batch in loader for number in batch["x"].tolist()] == values
    with pytest.raises(DecodeError, match="field 'x': 9223372036854775809 does not fit into int64"):
        list(fastload.DataLoader(data, 4, shuffle=False))


@pytest.mark.parametrize("native", [True, False])
def test_16_bit_floats_of_a_tar(tmp_path: Path, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(read, "_rows", None)
    data = samples.make_numbers(tmp_path / "d", "tar", "float16", [[0.5, -2.0], [1.25]])
    (batch,) = fastload.DataLoader(data, 3, shuffle=False)
    assert batch["x"].tolist() == [0.5, -2.0, 1.25]

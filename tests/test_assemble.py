"""What becomes of samples that cannot be read or decoded, told through the loader; and scalars and parts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
import torch
from samples import FORMATS, flip_byte, ids, jpeg, key

import fastload
from fastload.assemble import batch_jobs, scalar_dtype
from fastload.batch import Batch, BufferPool
from fastload.errors import ConfigError, CorruptError, DecodeError, FastloadError, ShardIndexError, SourceError
from fastload.loader import DataLoader
from fastload.meter import READ, Clock
from fastload.order.cursor import steps
from fastload.order.distribute import Share
from fastload.shards.idx import Idx

Packed = Callable[..., Path]
FIELDS = {"image": fastload.Image(8), "label": fastload.Scalar()}


def read_all(data: Path, batch_size: int = 4, **options: Any) -> list[Batch]:
    return list(DataLoader(data, batch_size, **{"fields": FIELDS, "shuffle": False, **options}))


def tar_place(data: Path, shard: int, row: int) -> dict[str, int]:
    """Where the bytes of one sample lie in its tar: first byte of each kind."""
    idx = Idx(str(data / f"train/shard-{shard:06d}.idx"))
    start, size = int(idx.offsets[row]), int(idx.sizes[row])
    first, length = (int(idx.column(f"image.{what}")[row]) for what in ("offset", "length"))
    return {"header": start, "data": start + first, "padding": start + first + length, "start": start, "size": size}


# Damage, found and named.


@pytest.mark.parametrize("where", ["header", "data", "padding"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_byte_of_a_tar_is_named_by_shard_row_key_and_offset(tmp_path: Path, where: str, workers: int) -> None:
    data = samples.make(tmp_path / "d", "tar", [3, 5])
    place = tar_place(data, 1, 2)
    flip_byte(data / "train/shard-000001.tar", place[where])
    with pytest.raises(CorruptError) as caught:
        read_all(data, num_workers=workers)
    error = caught.value
    assert (error.shard, error.row, error.key) == ("train/shard-000001.tar", 2, key(5))
    assert str(error) == (
        f"shard 'train/shard-000001.tar', row 2 ('000005'): field 'image': bytes {place['start']} to "
        f"{place['start'] + place['size']} are not what was packed (checksum); fetch the shard again; "
        'repack, or pass on_error="mask"'
    )


@pytest.mark.parametrize("cut", ["in data", "in a header", "on a header's boundary", "the end mark", "empty"])
@pytest.mark.parametrize("on_error", ["raise", "mask"])
def test_a_truncated_tar_is_named_and_never_a_shorter_epoch(tmp_path: Path, cut: str, on_error: str) -> None:
    data = samples.make(tmp_path / "d", "tar", [3, 5])
    place, path = tar_place(data, 1, 2), data / "train/shard-000001.tar"
    whole = path.stat().st_size
    size = {
        "in data": place["data"] + 5,
        "in a header": place["header"] + 100,
        "on a header's boundary": place["header"],
        "the end mark": whole - 512,
        "empty": 0,
    }[cut]
    os.truncate(path, size)
    with pytest.raises(SourceError, match=f"has {size} bytes, and its index says {whole}: it was cut off") as caught:
        read_all(data, on_error=on_error)
    assert caught.value.shard == "train/shard-000001.tar"


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("on_error", ["raise", "mask"])
def test_a_missing_shard_is_named(tmp_path: Path, shard_format: str, on_error: str) -> None:
    data = samples.make(tmp_path / "d", shard_format, [3, 3, 3])  # type: ignore[arg-type]
    path = sorted((data / "train").glob("*.tar" if shard_format == "tar" else "*.parquet"))[1]
    path.unlink()
    with pytest.raises(SourceError) as caught:
        read_all(data, batch_size=9, on_error=on_error)  # one batch of all shards: it is the second that fails
    assert path.name in caught.value.message
    assert caught.value.shard is not None
    assert path.name in caught.value.shard


def test_a_missing_idx_is_named(tmp_path: Path) -> None:
    data = samples.make(tmp_path / "d", "tar", [3, 3])
    (data / "train/shard-000001.idx").unlink()
    with pytest.raises(ShardIndexError, match=r"shard-000001.idx is missing; make it again") as caught:
        read_all(data, batch_size=6)
    assert caught.value.shard == "train/shard-000001.tar"


def swap(one: Path, other: Path) -> None:
    spare = one.with_suffix(".spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


def test_a_tar_swapped_with_another_of_the_same_size_is_found(tmp_path: Path) -> None:
    data = samples.make(tmp_path / "d", "tar", [3, 3], ("bytes", "label"))
    paths = [data / f"train/shard-{number:06d}" for number in (0, 1)]
    assert len({path.with_suffix(".tar").stat().st_size for path in paths}) == 1
    swap(paths[0].with_suffix(".tar"), paths[1].with_suffix(".tar"))
    with pytest.raises(CorruptError, match="are not what was packed") as caught:
        read_all(data, fields=None)
    assert (caught.value.shard, caught.value.row, caught.value.key) == ("train/shard-000000.tar", 0, key(0))
    swap(paths[0].with_suffix(".idx"), paths[1].with_suffix(".idx"))
    with pytest.raises(CorruptError, match=r"shard-000000.idx is not the file that index.json describes") as caught:
        read_all(data, fields=None)
    assert caught.value.shard == "train/shard-000000.tar"


@pytest.mark.parametrize("on_error", ["raise", "mask"])
def test_a_flipped_byte_of_parquet_is_named_by_file_and_row_group(tmp_path: Path, on_error: str) -> None:
    data = samples.make(tmp_path / "d", "parquet", [2, 4], row_group_bytes=len(jpeg(2)) + len(jpeg(3)) - 1)
    path = data / "train/part-000001.parquet"
    at = path.read_bytes().index(jpeg(4))
    flip_byte(path, at + 150)
    with pytest.raises(CorruptError, match=r"part-000001.parquet cannot be read: .*CRC.*fetch it again") as caught:
        read_all(data, on_error=on_error)
    assert caught.value.shard == "train/part-000001.parquet, row group 1"


@pytest.mark.parametrize("cut", [1, 100, 10**6])
def test_a_truncated_parquet_file_is_named(tmp_path: Path, cut: int) -> None:
    data = samples.make(tmp_path / "d", "parquet", [2, 4])
    path = data / "train/part-000001.parquet"
    os.truncate(path, max(0, path.stat().st_size - cut))
    with pytest.raises(FastloadError, match=r"part-000001.parquet") as caught:
        read_all(data)
    assert isinstance(caught.value, CorruptError | SourceError)
    assert caught.value.shard == "train/part-000001.parquet, row group 0"


def test_a_parquet_file_in_the_place_of_another_is_found(tmp_path: Path) -> None:
    data = samples.make(tmp_path / "d", "parquet", [2, 4])
    swap(data / "train/part-000000.parquet", data / "train/part-000001.parquet")
    with pytest.raises(CorruptError, match=r"part-000000.parquet is not the file that its index describes"):
        read_all(data)


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_picture_that_does_not_decode_is_named(tmp_path: Path, shard_format: str) -> None:
    data = samples.make(tmp_path / "d", shard_format, [3, 5], replace={5: {"image": jpeg(5)[:60]}})  # type: ignore[arg-type]
    with pytest.raises(DecodeError) as caught:
        read_all(data)
    assert (caught.value.row, caught.value.key) == (2, key(5))
    assert "000001" in str(caught.value.shard)
    assert str(caught.value).endswith('; repack, or pass on_error="mask"')
    assert "field 'image': " in str(caught.value)


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize(("field", "kind"), [("image", fastload.Image(8)), ("text", fastload.Text())])
def test_a_sample_that_lacks_a_field_is_named(
    tmp_path: Path, shard_format: str, field: str, kind: fastload.fields.Field
) -> None:
    fields = ("image", "text", "label")
    data = samples.make(tmp_path / "d", shard_format, [3, 5], fields, replace={5: {field: None}})  # type: ignore[arg-type]
    with pytest.raises(CorruptError, match=rf"row 2 \('000005'\): field '{field}': the sample has no field '{field}'"):
        read_all(data, fields={field: kind})
    other = {"image": "text", "text": "image"}[field]
    assert len(read_all(data, fields={other: fastload.Image(8) if other == "image" else fastload.Text()})) == 2


# Masking.

BAD = {1: b"junk", 4: jpeg(4)[:100], 9: b"", 10: jpeg(10)[:-300]}


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("world_size", [1, 2])
def test_masked_rows_are_counted_and_the_others_keep_order_and_content(
    tmp_path: Path, packed: Packed, shard_format: str, workers: int, world_size: int
) -> None:
    sizes, fields = [3, 5, 6], ("image", "tokens", "text", "label")
    kinds = {
        "image": fastload.Image(8, crop="random"),
        "tokens": fastload.Tokens(3, pad=-1),
        "text": fastload.Text(),
        "label": fastload.Scalar(),
    }
    clean = packed(shard_format, sizes, fields)
    broken = {i: {"image": raw} for i, raw in BAD.items()}
    damaged = samples.make(tmp_path / "d", shard_format, sizes, fields, replace=broken)  # type: ignore[arg-type]
    masked = []
    for rank in range(world_size):
        options = {"fields": kinds, "rank": rank, "world_size": world_size, "num_workers": workers}
        expected = read_all(clean, shuffle=True, **options)
        run = DataLoader(damaged, 4, on_error="mask", max_errors=4, **options)  # type: ignore[arg-type]
        found = list(run)
        assert len(found) == len(expected)
        for batch, wanted in zip(found, expected, strict=True):
            assert batch.valid is not None
            assert wanted.valid is not None
            bad = torch.tensor([k != "" and int(k) in BAD for k in wanted["__key__"]])
            assert batch["__key__"] == wanted["__key__"]
            assert batch.valid.tolist() == (wanted.valid & ~bad).tolist()
            for name in ("image", "tokens", "tokens_length", "label"):
                assert batch[name][~bad].equal(wanted[name][~bad])
            assert not batch["image"][bad].any()
            assert not batch["label"][bad].any()
            assert (batch["tokens"][bad] == -1).all()
            assert not batch["tokens_length"][bad].any()
            assert batch["text"] == [None if b else t for t, b in zip(wanted["text"], bad.tolist(), strict=True)]
        masked += [fault.key for fault in run.faults]
    assert sorted(masked) == [key(i) for i in BAD]


def test_faults_tell_all_that_is_known(tmp_path: Path) -> None:
    data = samples.make(tmp_path / "d", "tar", [3, 5], replace={1: {"image": b"junk"}, 5: {"image": None}})
    flip_byte(data / "train/shard-000001.tar", tar_place(data, 1, 4)["data"])
    run = DataLoader(data, 4, fields=FIELDS, shuffle=False, on_error="mask")  # type: ignore[arg-type]
    assert run.faults == []
    assert [ids(batch) for batch in run] == [[0, 2, 3], [4, 6]]
    first, second, third = run.faults
    assert (first.epoch, first.shard, first.row, first.key) == (0, "train/shard-000000.tar", 1, key(1))
    assert first.reason.startswith("field 'image': ")
    assert "junk" in first.reason
    assert (second.row, second.reason) == (2, "field 'image': the sample has no field 'image'")
    assert (third.row, third.key) == (4, key(7))
    assert "checksum" in third.reason


def test_a_sample_counts_once_for_several_fields_and_several_epochs(tmp_path: Path) -> None:
    bad: dict[int, dict[str, bytes | None]] = {i: {"image": b"junk", "text": b"\xff"} for i in (2, 6)}
    data = samples.make(tmp_path / "d", "tar", [3, 5], ("image", "text", "label"), replace=bad)
    fields = {"image": fastload.Image(8), "text": fastload.Text(), "label": fastload.Scalar()}
    run = DataLoader(data, 4, fields=fields, num_workers=2, on_error="mask", max_errors=2)  # type: ignore[arg-type]
    for _ in range(5):
        assert sum(len(ids(batch)) for batch in run) == 6
    assert sorted(fault.key or "" for fault in run.faults) == [key(2), key(6)]


@pytest.mark.parametrize("workers", [0, 2])
def test_more_bad_samples_than_are_put_up_with_is_an_error(tmp_path: Path, workers: int) -> None:
    data = samples.make(tmp_path / "d", "tar", [8], replace={i: {"image": b"junk"} for i in (1, 2, 5)})
    options: dict[str, Any] = {"on_error": "mask", "num_workers": workers, "batch_size": 2}
    assert len(read_all(data, max_errors=3, **options)) == 4
    with pytest.raises(DecodeError, match="3 samples could not be read, more than max_errors=2; the last one: field"):
        read_all(data, max_errors=2, **options)
    with pytest.raises(DecodeError, match=r"row 1 \('000001'\): 1 samples could not be read, more than max_errors=0"):
        read_all(data, max_errors=0, **{**options, "num_workers": 0})


# Scalars.


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("declared", ["int64", "int8", "uint8", "float16", "float64", None])
def test_a_scalar_has_the_declared_dtype(packed: Packed, shard_format: str, declared: str | None) -> None:
    data = packed(shard_format, [5, 1, 9, 8])
    labels = [batch["label"] for batch in read_all(data, fields={"label": fastload.Scalar(declared)})]
    assert {str(label.dtype) for label in labels} == {f"torch.{declared or 'int64'}"}
    assert torch.cat(labels).tolist() == list(range(23))


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_scalar_that_its_dtype_would_wrap_round_is_refused(packed: Packed, shard_format: str) -> None:
    data = packed(shard_format, [5, 1, 9, 8])
    with pytest.raises(DecodeError, match=r"row 2 \('000002'\): field 'label': 2 does not fit into bool") as caught:
        read_all(data, fields={"label": fastload.Scalar("bool")}, on_error="mask")
    assert "000000" in str(caught.value.shard)


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_scalar_that_its_dtype_would_make_infinite_is_refused(tmp_path: Path, shard_format: str) -> None:
    kept = [0.5, float("inf"), float("nan"), -float("inf"), 3.4028235e38]  # the last is rounded down to the largest
    data = samples.make_numbers(tmp_path / "kept", shard_format, "float64", [kept])
    (batch,) = read_all(data, 8, fields={"x": fastload.Scalar()})
    np.testing.assert_array_equal(batch["x"].numpy(), np.array(kept, np.float32))
    for stored, declared, number in (
        ("float64", "float32", 1e39), ("float64", "float16", -70_000.0), ("int64", "float16", 70_000),
    ):  # fmt: skip
        data = samples.make_numbers(tmp_path / f"{stored}-{declared}", shard_format, stored, [[1, number]])
        message = rf"row 1 \('0-1'\): field 'x': {re.escape(str(number))} does not fit into {declared}, which holds -"
        with pytest.raises(DecodeError, match=message):
            read_all(data, fields={"x": fastload.Scalar(declared)})


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_scalar_that_would_be_infinite_is_masked_as_others_are(
    tmp_path: Path, shard_format: str, workers: int
) -> None:
    data = samples.make_numbers(tmp_path / "d", shard_format, "float64", [[1.5, 1e39], [-1e39, 2.5]])
    run = DataLoader(data, 4, on_error="mask", max_errors=2, num_workers=workers, shuffle=False)
    (batch,) = run
    assert batch["x"].tolist() == [1.5, 0.0, 0.0, 2.5]
    assert batch.valid.tolist() == [True, False, False, True]
    assert [fault.key for fault in run.faults] == ["0-1", "1-0"]
    assert run.faults[0].reason.startswith("field 'x': 1e+39 does not fit into float32, which holds -3.4")
    with pytest.raises(DecodeError, match="2 samples could not be read, more than max_errors=1"):
        list(DataLoader(data, 4, on_error="mask", max_errors=1, num_workers=workers))


def test_the_dtype_of_scalars() -> None:
    assert scalar_dtype("x", None, "float64") == np.float32
    assert scalar_dtype("x", None, "bool") == np.int64
    assert scalar_dtype("x", "float16", "float64") == np.float16
    for declared in ("int64", "bool"):
        with pytest.raises(ConfigError, match=rf"Scalar\(dtype='{declared}'\), and the data holds float64"):
            scalar_dtype("x", declared, "float64")


# Parts.


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_parts_cover_every_row_once_in_any_order(packed: Packed, threads: int) -> None:
    dataset = fastload.StreamingDataset(packed("tar", [5, 1, 9, 8]), fields=FIELDS)
    share = Share(rank=0, world_size=1, batch_size=16, last_batch="pad")
    jobs = list(batch_jobs(dataset.recipe, steps(dataset.order, share, 0), BufferPool(), threads=threads))
    assert [job.parts for job in jobs] == ([1, 1] if threads < 2 else {2: [8, 4], 5: [16, 7]}[threads])
    for job in jobs:
        for part in reversed(range(job.parts)):
            job.run(part, Clock(READ))
    assert sorted(i for job in jobs for i in ids(job.result())) == list(range(23))
    assert repr(jobs[0]).startswith("batch of 16 rows from train/shard-00000")

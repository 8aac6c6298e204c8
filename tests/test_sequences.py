"""Rows of several documents through the loader: tokens, positions, segments; ranks, resume, damage, mixtures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.utils.data
from conformance import assert_equal_batches, assert_exactly_once, assert_resumes
from loading import resuming
from samples import FORMATS, content, flip_byte

import fastload
from fastload.batch import Batch
from fastload.errors import ConfigError, CorruptError, DecodeError, StateError
from fastload.loader import DataLoader
from fastload.samplers import PackSequences, Subset
from fastload.shards.open import open_index

LENGTH = 32
COUNTS = [int(n) for n in np.random.default_rng(0).integers(1, 80, 60)]  # some longer than a row
Corpus = Callable[[str], Path]


def document(i: int) -> list[int]:
    return [1000 * (i + 1) + t for t in range(COUNTS[i])]  # no token is 0, and each says whose it is


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A packed folder of 60 documents in several shards; not to be written to."""
    made: dict[str, Path] = {}

    def get(shard_format: str) -> Path:
        if shard_format not in made:
            made[shard_format] = write(tmp_path_factory.mktemp("corpus"), shard_format)
        return made[shard_format]

    return get


def write(folder: Path, shard_format: str) -> Path:
    rows = [{"id": f"d{i:02d}", "tokens": document(i), "mask": [t % 2 for t in document(i)]} for i in range(60)]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = "tokens:tokens:tokens,mask:mask:tokens,key:id"
    fastload.pack(
        folder / "m.jsonl", folder / "out", format=shard_format, shard_size="12KiB", workers=1, columns=columns
    )  # type: ignore[arg-type]
    assert len(open_index(folder / "out").sizes) > 3
    return folder / "out"


def packed(data: Path, *, length: int = LENGTH, pool: int = 30, **options: Any) -> fastload.StreamingDataset:
    fields = options.pop("fields", {"tokens": fastload.Tokens(length, pad=-1)})
    sampler = options.pop("sampler", PackSequences("tokens", length, pool=pool))
    return fastload.StreamingDataset(data, fields=fields, sampler=sampler, **options)


def check(batch: Batch, length: int = LENGTH) -> list[tuple[int, int]]:
    """Everything of a batch against its tokens; gives (document, token) of what it holds."""
    tokens, positions, segments = batch["tokens"], batch["position_ids"], batch["segment_ids"]
    rows = len(tokens)
    assert tokens.shape == positions.shape == segments.shape == (rows, length)
    assert {str(batch[name].dtype) for name in ("position_ids", "segment_ids")} == {"torch.int64"}
    bounds, found = [0], []
    for row in range(rows):
        column, number = 0, 0
        while column < length and segments[row, column] > 0:
            number += 1
            first = int(tokens[row, column])
            size = int((segments[row] == number).sum())
            assert segments[row, column : column + size].tolist() == [number] * size
            assert tokens[row, column : column + size].tolist() == list(range(first, first + size))
            assert positions[row, column : column + size].tolist() == list(range(size))
            found += [(first // 1000 - 1, t) for t in range(first % 1000, first % 1000 + size)]
            column += size
            bounds.append(row * length + column)
        assert len(batch["__key__"][row]) == number or not batch.valid[row]
        assert (tokens[row, column:] == -1).all()
        assert not positions[row, column:].any()
        assert not segments[row, column:].any()
        if column < length:
            bounds.append((row + 1) * length)
    assert batch["cu_seqlens"].dtype == torch.int32
    assert batch["cu_seqlens"].tolist() == bounds
    assert batch["max_seqlen"] == max(np.diff(bounds), default=0)
    return found


def every_token() -> list[tuple[int, int]]:
    return [(i, t) for i in range(60) for t in range(COUNTS[i])]


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("workers", [0, 3])
def test_every_token_comes_once_an_epoch(corpus: Corpus, shard_format: str, workers: int) -> None:
    run = DataLoader(packed(corpus(shard_format)), 4, num_workers=workers)
    for _ in range(2):
        batches = list(run)
        assert len(batches) == -(-run.dataset.samples // 4)
        assert_exactly_once([one for batch in batches for one in check(batch)], every_token())
        keys = [key for batch in batches for row in batch["__key__"] for key in row]
        assert sorted(keys) == sorted(f"d{i:02d}" for i in range(60) for _ in range(-(-COUNTS[i] // LENGTH)))
    assert run.dataset.order.fill == sum(COUNTS) / (run.dataset.samples * LENGTH) > 0.9  # type: ignore[attr-defined]


def test_tar_and_parquet_give_the_same_rows_and_workers_do_not_matter(corpus: Corpus, tmp_path: Path) -> None:
    fastload.convert(corpus("tar"), tmp_path / "parquet", format="parquet")  # the same shards, one for one
    datas = [packed(corpus("tar")), packed(tmp_path / "parquet")]
    assert datas[0].index.sizes.tolist() == datas[1].index.sizes.tolist()
    runs = [[content(batch) for batch in DataLoader(data, 5, num_workers=n)] for data in datas for n in (0, 1, 4)]
    assert runs == [runs[0]] * 6


def test_what_is_in_a_batch_and_as_a_tuple(corpus: Corpus) -> None:
    data = packed(
        corpus("tar"),
        fields={"tokens": fastload.Tokens(LENGTH, pad=-1), "mask": fastload.Tokens(LENGTH, dtype="uint8")},
    )
    batch = next(iter(DataLoader(data, 3)))
    names = ["tokens", "mask", "position_ids", "segment_ids", "cu_seqlens", "max_seqlen"]
    assert list(batch) == [*names, "__key__"]
    assert batch["mask"].dtype == torch.uint8
    assert batch["mask"].tolist() == torch.where(batch["segment_ids"] > 0, batch["tokens"] % 2, 0).tolist()
    assert batch.sample_keys is not None
    assert len(set(batch.sample_keys.tolist())) == 3
    values = next(iter(DataLoader(data, 3, as_tuple=(*names, "valid"))))
    assert [type(value) for value in values] == [torch.Tensor] * 5 + [int, torch.Tensor]


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 3), (3, 5), (64, 2)])
@pytest.mark.parametrize("last_batch", ["pad", "wrap", "drop"])
def test_ranks_have_equally_many_batches(corpus: Corpus, world_size: int, batch_size: int, last_batch: str) -> None:
    if last_batch == "drop" and world_size == 64:
        batch_size = 1
    if last_batch == "drop" and world_size * batch_size > packed(corpus("tar")).samples:
        with pytest.raises(ConfigError, match="would drop everything"):
            DataLoader(packed(corpus("tar"), rank=0, world_size=world_size), batch_size, last_batch="drop")
        return
    ranks = [
        list(DataLoader(packed(corpus("tar"), rank=rank, world_size=world_size), batch_size, last_batch=last_batch))  # type: ignore[arg-type]
        for rank in range(world_size)
    ]
    assert_equal_batches([[[0] for _ in batches] for batches in ranks])
    assert all(len(batch["tokens"]) == batch_size for batches in ranks for batch in batches)
    found = [one for batches in ranks for batch in batches for one in check(batch)]
    if last_batch == "pad":
        assert_exactly_once(found, every_token())
        rows = sum(int(batch.valid.sum()) for batches in ranks for batch in batches)
        assert rows == packed(corpus("tar")).samples
    elif last_batch == "drop":
        assert_exactly_once(found, set(found))
    else:
        assert set(found) == set(every_token())


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_resumed_run_is_bit_equal_at_every_batch_and_again(corpus: Corpus, shard_format: str) -> None:
    def make() -> DataLoader:
        return DataLoader(packed(corpus(shard_format)), 7, num_workers=2)

    assert_resumes(resuming(make, content), 2 * len(make()) + 1)


def test_resumed_at_another_world_size_the_union_is_exact(corpus: Corpus) -> None:
    state, found = None, []
    for world_size, batch_size, batches in ((2, 3, 2), (3, 1, 3), (1, 100, 1)):
        states = []
        for rank in range(world_size):
            run = DataLoader(packed(corpus("tar"), rank=rank, world_size=world_size), batch_size)
            if state is not None:
                run.load_state_dict(state)
            for _, batch in zip(range(batches), run, strict=False):
                found += check(batch)
            states.append(run.state_dict())
        assert all(one == states[0] for one in states)
        state = states[0]
        assert len(json.dumps(state)) < 1000
    assert_exactly_once(found, every_token())


def test_states_of_another_packing_are_refused(corpus: Corpus) -> None:
    state = DataLoader(packed(corpus("tar")), 4).state_dict()
    for other in (
        packed(corpus("tar"), length=64),
        packed(corpus("tar"), pool=10),
        fastload.StreamingDataset(corpus("tar")),
    ):
        with pytest.raises(StateError, match="saved under the sampler 'PackSequences:"):
            DataLoader(other, 4).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_under_a_stock_loader(corpus: Corpus, workers: int) -> None:
    data = packed(corpus("tar"))
    found = []
    for batch in torch.utils.data.DataLoader(data, batch_size=4, num_workers=workers):
        assert set(batch) == {"tokens", "position_ids", "segment_ids", "__key__"}
        assert all(isinstance(keys, str) for keys in batch["__key__"])
        found += [(int(t) // 1000 - 1, int(t) % 1000) for t in batch["tokens"][batch["segment_ids"] > 0]]
    assert_exactly_once(found, every_token())


def damage(data: Path, i: int) -> None:
    """Flip a byte of the tokens of document i, wherever they are."""
    needle = np.array(document(i)[-3:], np.int64).tobytes()
    for path in data.rglob("*"):
        if path.suffix in (".tar", ".parquet") and needle in path.read_bytes():
            flip_byte(path, path.read_bytes().index(needle))


def test_a_damaged_document_is_named_or_its_row_masked(tmp_path: Path) -> None:
    data = write(tmp_path, "tar")
    whole = {int(batch.sample_keys[0]): content(batch) for batch in DataLoader(packed(data), 1)}
    damage(data, 7)
    with pytest.raises(
        CorruptError, match=r"shard 'train/.*', row \d+ \('d07'\): field 'tokens': bytes .*checksum.*mask"
    ):
        list(DataLoader(packed(data), 4))
    run = DataLoader(packed(data, on_error="mask"), 1, num_workers=2)
    masked = 0
    for batch in run:
        if batch.valid[0]:
            assert content(batch) == whole[int(batch.sample_keys[0])]
            continue
        masked += 1
        assert check(batch) == []
        assert batch["cu_seqlens"].tolist() == [0, LENGTH]
    assert masked == -(-COUNTS[7] // LENGTH)
    assert [(fault.key, fault.shard[:6]) for fault in run.faults] == [("d07", "train/")]
    mixed = [batch for batch in DataLoader(packed(data, on_error="mask"), 6) if not batch.valid.all()]
    for batch in mixed:
        check(batch)


def test_fields_of_other_lengths_are_refused(tmp_path: Path) -> None:
    rows = [{"tokens": [1, 2, 3], "mask": [1, 1, 1]}, {"tokens": [4, 5], "mask": [1]}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fastload.pack(tmp_path / "m.jsonl", tmp_path / "out", workers=1, columns="tokens:tokens:tokens,mask:mask:tokens")
    fields = {"tokens": fastload.Tokens(8), "mask": fastload.Tokens(8)}
    data = packed(tmp_path / "out", length=8, fields=fields)
    with pytest.raises(DecodeError, match="field 'mask': 1 tokens, where the index counts 2 in the packed field"):
        list(DataLoader(data, 2))


def test_mixed_corpora_are_mixed_by_rows(corpus: Corpus) -> None:
    def mixture(rank: int = 0, world_size: int = 1) -> fastload.Mix:
        sources = {"a": packed(corpus("tar")), "b": packed(corpus("parquet"), seed=1, window=1)}
        return fastload.Mix(sources, weights=[3, 1], stop="all", rank=rank, world_size=world_size)

    for world_size in (1, 2):
        found: list[list[tuple[int, int]]] = [[], []]
        for rank in range(world_size):
            for batch in DataLoader(mixture(rank, world_size), 8, num_workers=2, last_batch="drop"):
                check(batch)
                assert batch["source"].tolist().count(1) == 2
                for source in (0, 1):
                    here = (batch["segment_ids"] > 0) & (batch["source"] == source)[:, None]
                    found[source] += [(int(t) // 1000 - 1, int(t) % 1000) for t in batch["tokens"][here]]
        assert_exactly_once(found[1][: sum(COUNTS)], set(found[1][: sum(COUNTS)]))
        assert len(set(found[0])) == sum(COUNTS)

    def make() -> DataLoader:
        return DataLoader(mixture(), 8)

    assert_resumes(resuming(make, content), len(make()) + 2, stride=3)


def test_over_a_subset(corpus: Corpus) -> None:
    short = Subset(lambda c: c["tokens.count"] <= 16, ("tokens.count",), then=PackSequences("tokens", LENGTH))
    found = [one for batch in DataLoader(packed(corpus("tar"), sampler=short), 4) for one in check(batch)]
    assert_exactly_once(found, [one for one in every_token() if COUNTS[one[0]] <= 16])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fields": {"mask": fastload.Tokens(LENGTH)}},
            "fields lack 'tokens'; PackSequences packs rows of 32 tokens: pass f",
        ),
        (
            {"fields": None},
            r"fields\['tokens'\] is Tokens\(length=None.*pass fields=\{'tokens': fastload.Tokens\(32\)\}",
        ),
        ({"fields": {"tokens": fastload.Tokens(16)}}, r"fields\['tokens'\] is Tokens\(length=16"),
        ({"fields": {"tokens": fastload.Tokens(LENGTH), "mask": fastload.Tensor()}}, r"fields\['mask'\] is Tensor"),
        ({"sampler": PackSequences("text", LENGTH)}, r"the index has no column 'text.count'; it has .*'tokens.count'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(corpus: Corpus, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        packed(corpus("tar"), **options)


def test_mixtures_that_do_not_fit_are_refused(corpus: Corpus) -> None:
    plain = fastload.StreamingDataset(corpus("tar"), fields={"tokens": fastload.Tokens(LENGTH, pad=-1)})
    with pytest.raises(
        ConfigError, match="Mix: 'a' with PackSequences and 'b' without; pack all, or pass fields='separate'"
    ):
        fastload.Mix({"a": packed(corpus("tar")), "b": plain})


def test_documents_of_bytes_and_of_numbers_are_not_packed_together(tmp_path: Path) -> None:
    """Rows of uint8 come as bytes, which the decoder of another source would take for something else."""
    sources = {}
    for dtype in ("int32", "uint8"):
        column = pa.array([[1, 2, 3], [4, 5]], pa.list_(pa.type_for_alias(dtype)))
        pq.write_table(pa.table({"tokens": column, "tokens.count": [3, 2]}), tmp_path / f"{dtype}.parquet")
        sources[dtype] = packed(tmp_path / f"{dtype}.parquet", length=8, fields={"tokens": fastload.Tokens(8)})
        assert sources[dtype].index.fields["tokens"].dtype == dtype
    with pytest.raises(ConfigError, match="'tokens' has bytes as tokens True in 'uint8' and False in 'int32'; declare"):
        fastload.Mix(sources)


def test_every_row_of_a_mixture_draws_for_itself(corpus: Corpus) -> None:
    """Of documents longer than a row, there are more rows than documents."""
    one = packed(corpus("tar"))
    assert one.samples > 60
    inner = fastload.Mix({"a": one, "b": packed(corpus("tar"), seed=1)}, stop="all")
    nested = fastload.Mix({"in": inner, "c": packed(corpus("parquet"))}, weights=[2, 1], stop="all")
    for data in (one, inner, nested):
        keys = torch.cat([batch.sample_keys[batch.valid] for batch in DataLoader(data, 16)])
        assert len(keys.unique()) == len(keys) == data.samples

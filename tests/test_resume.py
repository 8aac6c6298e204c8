"""What a resumed run reads: only the shards that the rest of its epoch is in, under every sampler."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import FORMATS

import fastload
from fastload.loader import DataLoader
from fastload.samplers import ClassBalanced, LengthBuckets, PackSequences, Sampler, Stratified, Subset, Weighted
from fastload.shards.index import Index
from fastload.shards.open import open_index

DOCUMENTS, LENGTH = 120, 16
SAMPLERS: dict[str, Sampler | None] = {
    "none": None,
    "subset": Subset(lambda c: c["label"] != 1, ("label",)),
    "weighted": Weighted("weight"),
    "balanced": ClassBalanced("label"),
    "stratified": Stratified("label"),
    "buckets": LengthBuckets("tokens", max_tokens=40, pool=12),
    "nested": Subset(range(100), then=Weighted("weight")),
    "packed": PackSequences("tokens", LENGTH, pool=12),
}
Corpora = Callable[[str], list[Path]]


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A packed folder of many shards; not to be written to."""
    made: dict[str, Path] = {}

    def pack(shard_format: str) -> Path:
        if shard_format not in made:
            root = tmp_path_factory.mktemp("documents")
            rows = [
                {"id": f"{i:03d}", "tokens": list(range(i, i + 1 + i % 9)), "label": i % 3, "weight": 1 + i % 5}
                for i in range(DOCUMENTS)
            ]
            (root / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
            size, columns = "10KiB" if shard_format == "tar" else "400B", "tokens:tokens:tokens,label,weight,key:id"
            fastload.pack(
                root / "m.jsonl", root / "out", format=shard_format, shard_size=size, workers=1, columns=columns
            )  # type: ignore[arg-type]
            assert len(open_index(root / "out").sizes) >= 12
            made[shard_format] = root / "out"
        return made[shard_format]

    return pack


@pytest.fixture
def corpora(packed_once: Callable[[str], Path], tmp_path: Path) -> Corpora:
    """Two copies of it, to be written to."""
    return lambda shard_format: [shutil.copytree(packed_once(shard_format), tmp_path / name) for name in "ab"]


def keys_of(batch: Mapping[str, Any]) -> Iterator[str]:
    """Of a batch, of one of packed rows, and of one with a part for each source."""
    for key in batch["__key__"]:
        yield from [key] if isinstance(key, str) else key


def shards_of(index: Index, folder: Path) -> dict[str, str]:
    """Key -> the file that the sample is in."""
    rows = fastload.IndexedDataset(folder)
    shard = np.repeat(np.arange(len(index.sizes)), index.sizes)
    return {rows[i]["__key__"]: index.paths[index.file_of_shard[shard[i]]] for i in range(len(rows))}


def leave_only(folder: Path, keys: set[str]) -> int:
    """Remove every shard that has none of these samples; how many were removed."""
    index = open_index(folder)
    place = shards_of(index, folder)
    others = set(index.paths) - {place[key] for key in keys}
    for path in map(Path, others):
        path.unlink()
        path.with_suffix(".idx").unlink(missing_ok=True)
    return len(others)


def assert_the_rest_is_all_that_is_read(
    make: Callable[[], DataLoader], folders: list[Path], per_source: Callable[[Any], list[Iterator[str]]]
) -> None:
    """A run that is resumed near its epoch's end, where the shards of what came before are gone."""
    found = [([list(keys) for keys in per_source(batch)], batch.state) for batch in make()]
    after = len(found) * 9 // 10
    rest = [keys for keys, _ in found[after:]]
    resumed = make()
    resumed.load_state_dict(found[after - 1][1])
    removed = [
        leave_only(folder, set(chain.from_iterable(keys[number] for keys in rest)))
        for number, folder in enumerate(folders)
    ]
    assert all(count >= 6 for count in removed)
    assert [[list(keys) for keys in per_source(batch)] for batch in resumed] == rest


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("name", [*SAMPLERS, "schedule"])
def test_no_shard_of_what_came_before_is_opened(corpora: Corpora, shard_format: str, name: str) -> None:
    folder = corpora(shard_format)[0]
    fields = {"tokens": fastload.Tokens(LENGTH)}
    batch_size: Any = {0: 2, 60: 4} if name == "schedule" else 4

    def make() -> DataLoader:
        stream = fastload.StreamingDataset(folder, fields=fields, sampler=SAMPLERS.get(name), window=1)
        return DataLoader(stream, batch_size, num_workers=1)

    assert_the_rest_is_all_that_is_read(make, [folder], lambda batch: [keys_of(batch)])


@pytest.mark.parametrize("name", ["none", "packed"])
def test_no_shard_that_a_mixture_had_before_is_opened(corpora: Corpora, name: str) -> None:
    folders = corpora("tar")
    fields = {"tokens": fastload.Tokens(LENGTH)}

    def make() -> DataLoader:
        sources = {
            folder.name: fastload.StreamingDataset(folder, fields=fields, sampler=SAMPLERS[name], window=1, seed=seed)
            for seed, folder in enumerate(folders)
        }
        return DataLoader(fastload.Mix(sources, [2, 1], fields="separate"), 4, num_workers=1)

    assert_the_rest_is_all_that_is_read(make, folders, lambda batch: [keys_of(part) for part in batch.values()])

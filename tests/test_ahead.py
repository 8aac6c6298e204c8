"""What is fetched ahead, in which order, and how far."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from webserver import Server

import fastload
from fastload.ahead import FAR_DOWNLOADS, NEAR_STEPS, _Walk
from fastload.engine import Readahead
from fastload.order.cursor import steps
from fastload.order.distribute import Share
from fastload.remote.cache import Cached
from fastload.stopping import pause
from fastload.stream import Streamed

Packed = Callable[..., Path]
SIZES = [4] * 12


def order_of_use(loader: fastload.DataLoader, folder: Path) -> list[str]:
    """Shards in the order in which an epoch needs them first."""
    found: dict[str, None] = {}
    names = [name for name in sorted(path.stem for path in folder.glob("train/*.tar")) for _ in range(SIZES[0])]
    for batch in loader:
        found.update(dict.fromkeys(names[label] for label in batch["label"].tolist()))
    return list(found)


def walk_of(dataset: Streamed) -> tuple[_Walk, int]:
    return _Walk(dataset.recipe, steps(dataset.order, _share(), 0)), _share().batches_left(dataset.samples, 0)


def _share() -> Share:
    return Share.auto(rank=0, world_size=1, batch_size=2, last_batch="auto")


def test_shards_come_in_the_order_of_use(packed: Packed, tmp_path: Path) -> None:
    folder = packed("tar", SIZES)
    expected = order_of_use(fastload.DataLoader(folder, 2, window=2, seed=5), folder)
    with Server(folder) as server:
        remote = fastload.Remote(downloads=1, cache_dir=tmp_path)
        order_of_use(fastload.DataLoader(server.url, 2, window=2, seed=5, remote=remote), folder)
        asked = [re.sub(r".*/|\.tar", "", path) for path in server.gets() if path.endswith(".tar")]
    assert asked == expected


def test_the_rest_is_fetched_while_the_consumer_works(packed: Packed, tmp_path: Path) -> None:
    with Server(packed("tar", SIZES)) as server:
        batches = iter(fastload.DataLoader(server.url, 2, cache_dir=tmp_path, window=1))
        next(batches)
        deadline = time.monotonic() + 30
        while len([path for path in server.gets() if path.endswith(".tar")]) < len(SIZES):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        before = server.gets()
        list(batches)
        assert server.gets() == before


def test_what_was_fetched_ahead_is_not_removed_before_its_use(packed: Packed, tmp_path: Path) -> None:
    folder = packed("tar", SIZES)
    limit = 8 * max(path.stat().st_size for path in folder.glob("train/*.tar"))
    with Server(folder) as server:
        loader = fastload.DataLoader(server.url, 2, cache_dir=tmp_path, cache_size=limit, window=2, num_workers=1)
        assert sum(len(batch["__key__"]) for batch in loader) == sum(SIZES)
        assert set(server.gets().values()) == {1}


def test_the_walk_goes_as_far_as_there_is_room(packed: Packed, tmp_path: Path) -> None:
    folder = packed("tar", SIZES)
    largest = max(path.stat().st_size for path in folder.glob("train/*.tar"))
    with Server(folder) as server:
        small: Streamed = fastload.StreamingDataset(
            server.url, window=2, cache_dir=tmp_path, cache_size=int(5.2 * largest)
        )
        large: Streamed = fastload.StreamingDataset(server.url, window=2, cache_dir=tmp_path)
    walk, _ = walk_of(large)
    wanted = walk.ahead_of(0)
    assert wanted is not None
    assert len(wanted) == 2 * len(SIZES)
    assert walk.ahead_of(1) is None
    walk, count = walk_of(small)
    at_hand: list[Cached] = []
    for number, step in enumerate(steps(small.order, _share(), 0)):
        at_hand = walk.ahead_of(number) or at_hand
        needed = {each.blob.url for shard in step.shards.tolist() for each in small.index.objects(shard)}
        assert needed <= {each.blob.url for each in at_hand}
        assert len([each for each in at_hand if each.blob.url.endswith(".tar")]) <= 4
    assert number == count - 1


def test_the_walk_goes_no_further_than_downloads_need(packed: Packed, tmp_path: Path) -> None:
    """Two jobs share a cache: none holds more of it than it will use soon."""
    with Server(packed("tar", [NEAR_STEPS] * 9)) as server:
        remote = fastload.Remote(downloads=1, cache_dir=tmp_path)
        dataset: Streamed = fastload.StreamingDataset(server.url, shuffle=False, remote=remote)
    share = Share.auto(rank=0, world_size=1, batch_size=1, last_batch="auto")
    walk, farthest = _Walk(dataset.recipe, steps(dataset.order, share, 0)), []
    for number in range(share.batches_left(dataset.samples, 0)):
        farthest += [int(each.blob.url[-5]) - number // NEAR_STEPS for each in walk.ahead_of(number) or ()]
    assert max(farthest) == 1 + FAR_DOWNLOADS
    assert min(farthest) == -1  # a batch may be in work still


def test_every_rank_and_mixture_and_sampler_is_served(packed: Packed, tmp_path: Path) -> None:
    folder, other = packed("tar", SIZES), packed("parquet", [3, 3])
    with Server(folder) as a, Server(other) as b:
        for rank in range(2):
            loader = fastload.DataLoader(a.url, 4, rank=rank, world_size=2, cache_dir=tmp_path)
            assert sum(int(batch.valid.sum()) for batch in loader) == sum(SIZES) // 2
        assert set(a.gets().values()) == {1, 2}  # index.json twice

        def mix(first: object, second: object) -> fastload.Mix:
            sources = {
                "a": fastload.StreamingDataset(first, cache_dir=tmp_path),  # type: ignore[arg-type]
                "b": fastload.StreamingDataset(second, cache_dir=tmp_path),  # type: ignore[arg-type]
            }
            return fastload.Mix(sources, weights=[2, 1])

        local = [batch["__key__"] for batch in fastload.DataLoader(mix(folder, other), 6)]
        mixed = [batch["__key__"] for batch in fastload.DataLoader(mix(a.url, b.url), 6, num_workers=2)]
        assert mixed == local
        half = [mix(folder, b.url), mix(a.url, other)]
        assert [[batch["__key__"] for batch in fastload.DataLoader(each, 6)] for each in half] == [local, local]
        sampler = fastload.samplers.ClassBalanced("label")
        drawn = [
            [batch["__key__"] for batch in fastload.DataLoader(data, 4, sampler=sampler, cache_dir=tmp_path)]
            for data in (folder, a.url)
        ]
        assert drawn[0] == drawn[1]


def test_packed_sequences_are_served(tmp_path: Path) -> None:
    rows = [{"key": f"{i}", "tokens": list(range(i + 1, 2 * i + 3))} for i in range(40)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "out"
    fastload.pack(tmp_path / "m.jsonl", folder, shard_size="8KiB", workers=1, columns="tokens:tokens:tokens")
    sampler = fastload.samplers.PackSequences("tokens", 50)

    def rows_of(data: object) -> list[object]:
        fields = {"tokens": fastload.Tokens(50)}
        dataset = fastload.StreamingDataset(data, fields=fields, sampler=sampler, cache_dir=tmp_path)  # type: ignore[arg-type]
        return [batch["tokens"].tolist() for batch in fastload.DataLoader(dataset, 2, num_workers=2)]

    with Server(folder) as server:
        assert rows_of(server.url) == rows_of(folder)
        assert set(server.gets().values()) == {1}


def test_readahead_holds_what_is_wanted_and_ends() -> None:
    fetched: list[int] = []

    def fetch(key: int) -> str:
        fetched.append(key)
        if key == 99:
            pause(60)
        return f"{key}"

    with Readahead(fetch, 1) as readahead:
        readahead.want([3, 1, 2])
        _until(lambda: len(fetched) == 3)
        readahead.want([2, 5])
        _until(lambda: len(fetched) == 4)
        assert fetched == [3, 1, 2, 5]
        readahead.want([5, 99])
        _until(lambda: 99 in fetched)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastload-fetch")]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)

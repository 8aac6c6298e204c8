"""Shards behind URLs: what a server gives of them, and what measurements need of them.

A loader fetches whole objects, several at a time, ahead of their use, and no profile can wait for what that brings in
an epoch. So requests are sent for some time, one at a time, as many as the loader sends, and four times as many; what
comes is dropped. By `fastload.remote.pace` it says what a batch takes at the least:

    fetch   stored bytes of a batch x share of them that the cache lacks / bytes per second, so many at a time

Everything else is measured on the first steps, whose shards are fetched for it: again and again, from the cache.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fastload.ahead import ROOM
from fastload.engine import Engine
from fastload.inspect import many, size_text
from fastload.meter import Clock
from fastload.order.cursor import Ordering, steps
from fastload.order.distribute import Share
from fastload.order.mix import Mixture
from fastload.profile.asking import pace_of, speed_of
from fastload.profile.rig import AtHand, Rig
from fastload.remote import transfer
from fastload.remote.cache import Cached
from fastload.remote.pace import Pace, kept_share
from fastload.shards.access import room_sizes
from fastload.shards.index import Index

SHARDS_LOOKED_AT = 1 << 14  # the first ones of each source: 10 us each; the others are taken to be alike
MOST_AT_HAND = 1 << 16  # samples of the steps that are measured

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What an epoch has to fetch, and how fast it comes.

    Attributes:
        pace: of the server.
        downloads: at a time, as the loader is told.
        spare: objects that the cache has room for ahead of the shards that are mixed, below 0 where it has none for
            all of these; None: any number.
        mixed: objects of the shards that are mixed at a time.
        sample_bytes: stored bytes of a sample, as if each shard were fetched once an epoch; of a mixture in the mean,
            those of local sources being none.
        fetched_by: nodes that each fetch a shard in an epoch, for rows of their own: what the lanes leave to each. As
            of one rank a node, unless LOCAL_WORLD_SIZE says how many there are.
        missing: of all bytes, what the cache lacked before the profile, 0 to 1.
        missing_later: what it will lack in each further epoch; of a mixture, in one of its sources'.
        data_bytes, file_bytes: of all files behind URLs, and of one in the mean.
        room_bytes: of the cache.
        window: shards mixed at a time; None for a mixture.
        first_objects, first_seconds: what the first batch needed from the server, and how long that took.
    """

    pace: Pace
    downloads: int
    spare: int | None
    mixed: int
    sample_bytes: float
    missing: float
    missing_later: float
    data_bytes: float
    file_bytes: float
    room_bytes: float
    window: int | None
    fetched_by: int = 1
    first_objects: int = 0
    first_seconds: float = 0.0

    def at_a_time(self, downloads: int | None = None) -> int:
        """Of so many downloads, how many there is room for, ahead of the shards that are mixed or as these come to be;
        None: of the loader's."""
        wanted = self.downloads if downloads is None else downloads
        return wanted if self.spare is None else max(1, min(wanted, max(self.spare, self.mixed)))

    def fetch_ms(self, rows: float, bytes_per_second: float | None = None, missing: float | None = None) -> float:
        """What a batch of so many rows takes from the server; None: as the loader fetches, and in the next epoch."""
        speed = self.pace.bytes_per_second(self.at_a_time()) if bytes_per_second is None else bytes_per_second
        size = rows * self.sample_bytes * self.fetched_by * (self.missing if missing is None else missing)
        return 1e3 * size / max(speed, 1e-9)


def measure(rig: Rig, seconds: float) -> Network | None:
    """Of a loader, before anything was fetched for it. None where nothing has to be: all shards are local, or in the
    cache; and where nothing came."""
    index = rig.recipe.index
    if not index.caches or transfer.forked():
        return None
    needs = _needs(rig)
    objects, lacking = ([each for need in needs for each in getattr(need, name)] for name in ("objects", "lacking"))
    if not _bytes(lacking):
        return None
    downloads = max(cache.remote.downloads for cache in index.caches)
    pace = pace_of(lacking, _bytes(objects) / len(objects), downloads, seconds)
    if pace is None:
        return None
    sample_bytes = sum(need.bytes / need.samples for need in needs)
    data_bytes = sum(need.bytes for need in needs)
    window, room = getattr(rig.loader.dataset, "window", None), min(cache.room() for cache in index.caches)
    nodes = _nodes(rig.share)
    parts = math.gcd(nodes, rig.share.lanes)
    spare, mixed = _room(index, window, pace.object_bytes)
    return Network(
        pace=pace,
        downloads=downloads,
        spare=spare,
        mixed=mixed,
        sample_bytes=sample_bytes,
        fetched_by=nodes // parts,
        missing=sum(_bytes(need.lacking) * need.times / need.samples for need in needs) / sample_bytes,
        missing_later=1 - kept_share(room, data_bytes, shuffled=window != 0, parts=parts),
        data_bytes=data_bytes,
        file_bytes=_bytes(objects) / max(1, sum(each.blob.size is not None for each in objects)),
        room_bytes=room,
        window=window,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """Of a data set, or of one in a mixture, what is behind URLs.

    Attributes:
        objects: of the shards that were looked at.
        lacking: those that the cache had not.
        times: as many samples as there are, over those of these shards.
        samples: that the loader gives while it goes through the data set once.
    """

    objects: Sequence[Cached]
    lacking: Sequence[Cached]
    times: float
    samples: float

    @property
    def bytes(self) -> float:
        """Of all shards."""
        return self.times * _bytes(self.objects)


def _needs(rig: Rig) -> list[_Need]:
    index = rig.recipe.index
    sources = list(_sources(rig.order, range(len(index.sizes))))
    found = []
    for share, shards, samples in sources:
        some = shards[: max(1, SHARDS_LOOKED_AT // len(sources))]
        objects = list(dict.fromkeys(each for shard in some for each in index.objects(shard)))
        lacking = [each for each in objects if not each.cache.has(each.blob)]
        rows, looked_at = (int(index.sizes[part.start : part.stop].sum()) for part in (shards, some))
        found.append(_Need(objects=objects, lacking=lacking, times=rows / max(1, looked_at), samples=samples / share))
    return found


def _sources(order: Ordering, shards: range) -> Iterator[tuple[float, range, int]]:
    """Of each data set that is mixed, or of the only one: its share of all samples, shards, and samples of an epoch."""
    if not isinstance(order, Mixture):
        yield 1.0, shards, order.samples
        return
    shares = (order.pattern.counts / order.pattern.counts.sum()).tolist()
    ends = (order.first_shards + shards.start).tolist()
    for number, source in enumerate(order.sources):
        for share, part, samples in _sources(source, range(ends[number], ends[number + 1])):
            yield share * shares[number], part, samples


def _bytes(objects: Iterable[Cached]) -> int:
    """As far as an index says them."""
    return sum(each.blob.size or 0 for each in objects)


def _nodes(share: Share) -> int:
    """Of a run, whose ranks on a node share a cache."""
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")  # of a node, as torchrun says
    return max(1, share.world_size // (int(ranks) if ranks.isdigit() and int(ranks) else 1))


def _room(index: object, window: int | None, object_bytes: float) -> tuple[int | None, int]:
    """Objects that a cache with a limit has room for, beside the shards that are mixed at a time; and how many objects
    these are."""
    if not isinstance(index, Index) or index.cache is None or window is None:
        return None, 0
    number = max(1, min(window, SHARDS_LOOKED_AT))
    spread = range(0, len(index.sizes), max(1, len(index.sizes) // number))[:number]
    mixed = len({each for shard in spread for each in index.objects(shard)})
    if index.cache.limit is None:
        return None, mixed
    held = sum(room_sizes(index, window)[: max(1, window)])
    return math.floor((ROOM * index.cache.limit - held) / max(1.0, object_bytes)), mixed


def fetch_first(rig: Rig, seconds: float) -> AtHand | None:
    """Have the shards of the first steps in the cache, of as many as there is time for and of one at least, and have
    the rig keep to these steps; None, and nothing is done, where all shards are local.

    Raises:
        SourceError, CorruptError: they cannot be had.
    """
    index = rig.recipe.index
    if not index.caches:
        return None
    downloads = max(cache.remote.downloads for cache in index.caches)
    room = min((ROOM * cache.limit for cache in index.caches if cache.limit is not None), default=float("inf"))
    shards: set[int] = set()
    objects: set[Cached] = set()
    first = consumed = 0
    took, started = 0.0, time.perf_counter()
    for step in steps(rig.order, rig.share, 0):
        new = set(rig.recipe.shards(step).tolist()) - shards
        wanted = {each for shard in new for each in index.objects(shard)} - objects
        room -= sum(each.blob.size or 0 for each in wanted)
        if consumed and (consumed >= MOST_AT_HAND or room < 0 or time.perf_counter() - started > seconds):
            break
        if wanted and not consumed:
            _tell([each for each in wanted if not each.cache.has(each.blob)], seconds)
        if wanted:
            with Engine(iter([_Fetch(list(wanted))]), threads=min(downloads, len(wanted)), ahead=1) as engine:
                next(engine)
        if not consumed:
            first, took = len(wanted), time.perf_counter() - started
        shards, objects, consumed = shards | new, objects | wanted, step.consumed
    rig.at_hand = AtHand(consumed=consumed, shards=frozenset(shards), objects=first, seconds=took)
    return rig.at_hand


def _tell(lacking: Sequence[Cached], seconds: float) -> None:
    """What may take long is said before."""
    if lacking:
        what, size = many(len(lacking), "object"), size_text(_bytes(lacking))
        _log.info(
            "fetching %s of a server, %s, for the first batch, before anything is measured; then those of more "
            "batches, for about %.1f s",
            what,
            size,
            seconds,
        )


class _Fetch:
    """Has objects in their cache, each by a part; a `fastload.engine.Job`."""

    def __init__(self, objects: Sequence[Cached]) -> None:
        self._objects, self.parts = objects, len(objects)

    def run(self, part: int, clock: Clock) -> None:
        each = self._objects[part]
        each.cache.open(each.blob)

    def result(self) -> None:
        """Nothing: they are where the loader finds them."""


def served(rig: Rig, network: Network, downloads: int, seconds: float) -> float:
    """Bytes/s that the server gives this moment, so many objects at a time."""
    return speed_of([each for need in _needs(rig) for each in need.objects], network.pace, downloads, seconds)

"""Shards behind URLs: what a server gives of them, and what measurements need of them.

A loader fetches whole objects, several at a time, ahead of their use, and no profile can wait for what that brings in
an epoch. So requests are sent for some time, one at a time, as many as the loader sends, and four times as many; what
comes is dropped. By `fastload.remote.pace` it says what a batch takes at the least:

    fetch   stored bytes of a batch x share of them that the cache lacks / bytes per second, so many at a time

Everything else is measured on the first steps, whose shards are fetched for it: again and again, from the cache.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from fastload.ahead import ROOM
from fastload.engine import Engine
from fastload.meter import Clock
from fastload.order.cursor import steps
from fastload.profile.rig import AtHand, Rig
from fastload.remote import transfer
from fastload.remote.cache import Cached
from fastload.remote.fetch import send
from fastload.remote.pace import Pace, kept_share
from fastload.remote.transfer import Missing, NoRange, Refused, Transient
from fastload.shards.access import room_sizes
from fastload.shards.index import Index
from fastload.stopping import stop_here

SHARDS_LOOKED_AT = 1 << 14  # the first ones: 10 us each; the others are taken to be alike
MOST_AT_HAND = 1 << 16  # samples of the steps that are measured
MORE, MOST_CONNECTIONS = 4, 64  # times as many requests at a time as the loader sends, and no more than that
_SMALL_BYTES = 1024  # of a request that is all latency
_LATENCIES = 20  # requests for it, at most
_LEAST_BODY = 0.05  # of an object's time: less is noise
_LONGEST = 8  # times what was meant, where next to nothing comes


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What an epoch has to fetch, and how fast it comes.

    Attributes:
        pace: of the server.
        downloads: at a time, as the loader is told.
        spare: objects that the cache has room for ahead of the shards that are mixed; None: any number.
        sample_bytes: stored bytes of a sample, as if each shard were fetched once an epoch.
        missing: of all bytes, what the cache lacked before the profile, 0 to 1.
        missing_later: what it will lack in each further epoch.
        data_bytes, file_bytes: of all files behind URLs, and of one in the mean.
        room_bytes: of the cache.
        window: shards mixed at a time; None where they are not those of one data set.
        first_objects, first_seconds: what the first batch needed from the server, and how long that took.
    """

    pace: Pace
    downloads: int
    spare: int | None
    sample_bytes: float
    missing: float
    missing_later: float
    data_bytes: float
    file_bytes: float
    room_bytes: float
    window: int | None
    first_objects: int = 0
    first_seconds: float = 0.0

    def at_a_time(self, downloads: int | None = None) -> int:
        """Of so many downloads, how many there is room for; None: of the loader's."""
        wanted = self.downloads if downloads is None else downloads
        return wanted if self.spare is None else max(1, min(wanted, self.spare))

    def fetch_ms(self, rows: float, bytes_per_second: float | None = None, missing: float | None = None) -> float:
        """What a batch of so many rows takes from the server; None: as the loader fetches, and in the next epoch."""
        speed = self.pace.bytes_per_second(self.at_a_time()) if bytes_per_second is None else bytes_per_second
        return 1e3 * rows * self.sample_bytes * (self.missing if missing is None else missing) / max(speed, 1e-9)


def measure(rig: Rig, seconds: float) -> Network | None:
    """Of a loader, before anything was fetched for it. None where nothing has to be: all shards are local, or in the
    cache; and where nothing came."""
    index = rig.recipe.index
    if not index.caches or transfer.forked():
        return None
    looked_at = min(len(index.sizes), SHARDS_LOOKED_AT)
    objects = _objects(rig)
    lacking = [each for each in objects if not each.cache.has(each.blob)]
    whole, missing = (sum(each.blob.size or 0 for each in some) for some in (objects, lacking))
    files = sum(each.blob.size is not None for each in objects)
    if not missing:
        return None
    downloads = max(cache.remote.downloads for cache in index.caches)
    pace = _pace(lacking, whole / len(objects), downloads, seconds)
    if pace is None:
        return None
    data_bytes = whole * int(index.sizes.sum()) / max(1, int(index.sizes[:looked_at].sum()))
    window, room = getattr(rig.loader.dataset, "window", None), min(cache.room() for cache in index.caches)
    return Network(
        pace=pace,
        downloads=downloads,
        spare=_spare(index, window, pace.object_bytes),
        sample_bytes=data_bytes / rig.order.samples,
        missing=missing / whole,
        missing_later=1 - kept_share(room, data_bytes, shuffled=window != 0),
        data_bytes=data_bytes,
        file_bytes=whole / max(1, files),
        room_bytes=room,
        window=window,
    )


def _objects(rig: Rig) -> list[Cached]:
    """What is behind URLs, of as many shards as are looked at."""
    index = rig.recipe.index
    shards = range(min(len(index.sizes), SHARDS_LOOKED_AT))
    return list(dict.fromkeys(each for shard in shards for each in index.objects(shard)))


def _spare(index: object, window: int | None, object_bytes: float) -> int | None:
    """Objects that a cache with a limit has room for, beside the shards that are mixed at a time."""
    if not isinstance(index, Index) or index.cache is None or index.cache.limit is None or window is None:
        return None
    mixed = sum(room_sizes(index, window)[: max(1, window)])
    return max(0, int((ROOM * index.cache.limit - mixed) / max(1.0, object_bytes)))


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
        if wanted:
            with Engine(iter([_Fetch(list(wanted))]), threads=min(downloads, len(wanted)), ahead=1) as engine:
                next(engine)
        if not consumed:
            first, took = len(wanted), time.perf_counter() - started
        shards, objects, consumed = shards | new, objects | wanted, step.consumed
    rig.at_hand = AtHand(consumed=consumed, shards=frozenset(shards), objects=first, seconds=took)
    return rig.at_hand


class _Fetch:
    """Has objects in their cache, each by a part; a `fastload.engine.Job`."""

    def __init__(self, objects: Sequence[Cached]) -> None:
        self._objects, self.parts = objects, len(objects)

    def run(self, part: int, clock: Clock) -> None:
        each = self._objects[part]
        each.cache.open(each.blob)

    def result(self) -> None:
        """Nothing: they are where the loader finds them."""


class _Came(NamedTuple):
    """What came of requests: bytes, and seconds over all connections."""

    requests: int
    bytes: int
    seconds: float


class _Requests:
    """Asks for objects, one after the other in each part, and drops what comes; a `fastload.engine.Job`.

    Parts go on until each has something, for those that stop make room for the others.
    """

    def __init__(self, objects: Sequence[Cached], parts: int, seconds: float) -> None:
        self._objects, self.parts, self._seconds = objects, parts, seconds
        self._number, self._came = count(), list[_Came]()
        self._given: set[int] = set()  # parts that something came for

    def run(self, part: int, clock: Clock) -> None:
        with suppress(Transient, Missing, Refused, NoRange):
            _ask_little(self._objects[part % len(self._objects)])  # makes a connection, which those behind it use
        requests = size = 0
        began = last = time.perf_counter()
        with suppress(Transient, Missing, Refused, NoRange):
            while not self._is_over(last - began):
                each = self._objects[next(self._number) % len(self._objects)]
                requests += 1
                _, chunks = send(each.blob.url, 0, each.cache.remote)
                try:
                    for chunk in chunks:
                        size, last = size + len(chunk), time.perf_counter()
                        self._given.add(part)
                        if self._is_over(last - began):
                            break
                finally:
                    getattr(chunks, "close", lambda: None)()
                last = time.perf_counter()
        self._came.append(_Came(requests, size, time.perf_counter() - began))

    def _is_over(self, seconds: float) -> bool:
        enough = len(self._given) == self.parts or seconds >= _LONGEST * self._seconds
        return (seconds >= self._seconds and enough) or stop_here().is_set()

    def result(self) -> _Came:
        return _Came(*(sum(each) for each in zip(*self._came, strict=True)))


def _ask_little(each: Cached) -> None:
    """A request that is all latency; of a server that gives no ranges, the beginning of its answer is."""
    with suppress(NoRange):
        transfer.part(each.blob.url, 0, min(each.blob.size or _SMALL_BYTES, _SMALL_BYTES), each.cache.remote)


def asked(objects: Sequence[Cached], at_a_time: int, seconds: float) -> _Came:
    """Ask for objects for so long."""
    with Engine(iter([_Requests(objects, at_a_time, seconds)]), threads=at_a_time, ahead=1) as engine:
        return next(engine)


def _latency(objects: Sequence[Cached], seconds: float) -> float | None:
    """Seconds of a request, the first one apart, which makes the connection."""
    took: list[float] = []
    started = time.perf_counter()
    files = [each for each in objects if each.blob.size]
    with suppress(Transient, Missing, Refused):
        while len(took) < 2 or (len(took) < _LATENCIES and time.perf_counter() - started < seconds):
            began = time.perf_counter()
            _ask_little(files[len(took) % len(files)])
            took.append(time.perf_counter() - began)
    return statistics.median(took[1:]) if len(took) > 1 else None


def _mixed(objects: Sequence[Cached]) -> list[Cached]:
    return random.Random(0).sample(objects, len(objects))


def _speed(came: _Came, at_a_time: int, latency: float, connection: float, object_bytes: float) -> float:
    """Bytes/s of objects in the mean, latency included, by what came of some. What these would have taken if no
    connection were in the way of another is their latencies, and their bytes by the bandwidth of one."""
    alone = came.requests * latency + came.bytes / connection
    return at_a_time * object_bytes / (latency + object_bytes / connection) * alone / max(came.seconds, 1e-9)


def served(rig: Rig, network: Network, downloads: int, seconds: float) -> float:
    """Bytes/s that the server gives this moment, so many objects at a time."""
    pace = network.pace
    came = asked(_mixed(_objects(rig)), downloads, seconds)
    return _speed(came, downloads, pace.latency_seconds, pace.connection_bytes_per_second, pace.object_bytes)


def _pace(objects: Sequence[Cached], object_bytes: float, downloads: int, seconds: float) -> Pace | None:
    """Of a server; None where nothing came."""
    objects = _mixed(objects)
    counts = sorted({1, downloads, max(downloads, min(MORE * downloads, MOST_CONNECTIONS))})
    each = seconds / (1 + len(counts))
    latency = _latency(objects, each)
    single = asked([one for one in objects if one.blob.size], 1, each)  # of an index the bandwidth cannot be seen
    if latency is None or not single.bytes:
        return None
    body = max(single.seconds - single.requests * latency, _LEAST_BODY * single.seconds)
    connection = single.bytes / body
    rates = []
    for number in counts:
        came = single if number == 1 else asked(objects, number, each)
        rates.append((number, _speed(came, number, latency, connection, object_bytes)))
    return Pace(
        object_bytes=object_bytes,
        latency_seconds=latency,
        connection_bytes_per_second=connection,
        rates=tuple(rates),
    )

"""A server asked for objects, so many at a time, which are dropped as they come: how fast it gives them."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import NamedTuple

from fastload.engine import Engine
from fastload.meter import Clock
from fastload.remote import transfer
from fastload.remote.answers import Missing, NoRange, Refused, Transient
from fastload.remote.cache import Cached
from fastload.remote.fetch import FIRST_PAUSE_SECONDS, send
from fastload.remote.pace import Pace
from fastload.stopping import stop_here

MORE, MOST_CONNECTIONS = 4, 64  # times as many requests at a time as the loader sends, and no more than that
_SMALL_BYTES = 1024  # of a request that is all latency
_LATENCIES = 20  # requests for it, at most
_LEAST_BODY = 0.05  # of an object's time: less is noise
_LONGEST = 8  # times what was meant, where next to nothing comes


class _Came(NamedTuple):
    """What came of requests: bytes, and seconds over all connections."""

    requests: int
    bytes: int
    seconds: float


class _Requests:
    """Asks for objects, one after the other in each part, and drops what comes; a `fastload.engine.Job`.

    Parts go on until each has something, for those that stop make room for the others. What a server is too busy for is
    asked for again after a pause, as the loader does; such a request counts for nothing, and its time does.
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
        with suppress(Missing, Refused, NoRange):
            while not self._is_over(last - began):
                each = self._objects[next(self._number) % len(self._objects)]
                try:
                    _, chunks = send(each.blob.url, 0, each.cache.remote)
                    requests += 1
                    try:
                        for chunk in chunks:
                            size, last = size + len(chunk), time.perf_counter()
                            self._given.add(part)
                            if self._is_over(last - began):
                                break
                    finally:
                        getattr(chunks, "close", lambda: None)()
                except Transient:
                    stop_here().wait(FIRST_PAUSE_SECONDS)
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


def _asked(objects: Sequence[Cached], at_a_time: int, seconds: float) -> _Came:
    """Ask for objects for so long."""
    with Engine(iter([_Requests(objects, at_a_time, seconds)]), threads=at_a_time, ahead=1) as engine:
        return next(engine)


def speed_of(objects: Sequence[Cached], pace: Pace, at_a_time: int, seconds: float) -> float:
    """Bytes/s that a server gives this moment, so many objects at a time."""
    came = _asked(_mixed(objects), at_a_time, seconds)
    return _speed(came, at_a_time, pace.latency_seconds, pace.connection_bytes_per_second, pace.object_bytes)


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


def pace_of(objects: Sequence[Cached], object_bytes: float, downloads: int, seconds: float) -> Pace | None:
    """Of a server; None where nothing came."""
    objects = _mixed(objects)
    counts = sorted({1, downloads, max(downloads, min(MORE * downloads, MOST_CONNECTIONS))})
    each = seconds / (1 + len(counts))
    latency = _latency(objects, each)
    if latency is None:
        return None
    single = _asked([one for one in objects if one.blob.size], 1, each)  # of an index the bandwidth cannot be seen
    if not single.bytes:
        return None
    body = max(single.seconds - single.requests * latency, _LEAST_BODY * single.seconds)
    connection = single.bytes / body
    rates = []
    for number in counts:
        came = single if number == 1 else _asked(objects, number, each)
        rates.append((number, _speed(came, number, latency, connection, object_bytes)))
    return Pace(
        object_bytes=object_bytes,
        latency_seconds=latency,
        connection_bytes_per_second=connection,
        rates=tuple(rates),
    )

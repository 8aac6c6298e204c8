"""What would have shards come faster from where they are behind URLs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from fastload.ahead import ROOM
from fastload.inspect import size_text
from fastload.profile.advice import Advice, advise, bound
from fastload.profile.model import Model
from fastload.profile.network import Network

_NEARLY = 0.97  # of the most: fewer at a time do, then
_LATENCY_SHARE = 0.1  # of an object's time, from where on larger ones are not worth it
_LARGER = 2  # times, at least, what is advised


def cause(network: Network) -> tuple[str, str]:
    """What requests wait for, "latency" or "bandwidth", and in words."""
    pace, number = network.pace, network.at_a_time()
    if pace.reason(number) == "latency":
        return "latency", f"each request waits {1e3 * pace.latency_seconds:.0f} ms, {number} at a time (latency)"
    speed = size_text(round(pace.bytes_per_second(number)))
    return "bandwidth", f"the server gives {speed}/s, {number} shards at a time (bandwidth)"


def more_from_the_server(model: Model, network: Network) -> list[Advice]:
    """What would help a loader that the server limits, and later epochs of any."""
    found = list(_cache(model, network))
    if model.fetch_limits:
        found += [*_room_ahead(model, network), *_downloads(model, network)]
        found += [*_larger_shards(model, network), *_fewer_bytes(model, network)]
    return found


def _after(model: Model, network: Network, downloads: int, object_bytes: float | None = None) -> Model:
    speed = network.pace.bytes_per_second(downloads, object_bytes)
    return replace(model, fetch_ms=network.fetch_ms(model.rows, speed))


def _downloads(model: Model, network: Network) -> Iterator[Advice]:
    """The fewest at a time that bring nearly the most, of those that were tried."""
    now, pace = network.downloads, network.pace
    if network.at_a_time() < now or pace.at_its_end(now):
        return
    numbers = [n for n in (2 * now, pace.most_downloads) if now < n <= pace.most_downloads]
    rates = {n: _after(model, network, network.at_a_time(n)).rate() for n in numbers}
    best = max(rates.values(), default=0.0)
    for number, rate in rates.items():
        if rate >= _NEARLY * best:
            speeds = [size_text(round(pace.bytes_per_second(network.at_a_time(n)))) for n in (now, number)]
            change = f"downloads={number} of fastload.Remote, from {now}"
            why = f"{now} objects at a time give {speeds[0]}/s, {number} at a time {speeds[1]}/s"
            advice = advise(change, why, model, _after(model, network, network.at_a_time(number)), "read")
            yield replace(advice, setting={"downloads": number})
            return


def _room_ahead(model: Model, network: Network) -> Iterator[Advice]:
    """A cache in which there is no room for as many as could be fetched at a time, ahead of their use."""
    if network.spare is None or network.at_a_time() == network.downloads:
        return
    after, object_bytes = _after(model, network, network.downloads), network.pace.object_bytes
    lacking = (network.downloads - network.spare) * object_bytes
    room, ahead = size_text(round(network.room_bytes)), max(0, network.spare)
    why = f"in {room} there is room for {ahead} objects ahead of the {network.window} shards that are mixed"
    size = size_text(round(network.room_bytes + lacking / ROOM))
    yield bound(f"cache_size of at least {size}, from {room}", why, model, after, "read")
    window = (network.window or 0) - math.ceil(lacking / max(1.0, network.file_bytes))
    if window >= 1:
        change = f"window={window}, from {network.window}"
        yield bound(change, f"{why}; it mixes fewer, in another order", model, after, "read")


def _larger_shards(model: Model, network: Network) -> Iterator[Advice]:
    """As large as it takes for the latency to be a small part of an object's time, and yet enough of them to fetch
    several at a time."""
    pace, number = network.pace, network.at_a_time()
    if pace.reason(number) != "latency":
        return
    wanted = (1 / _LATENCY_SHARE - 1) * pace.latency_seconds * pace.connection_bytes_per_second
    size = 1 << int(math.log2(max(1.0, min(wanted, network.data_bytes / network.downloads))))
    if size < _LARGER * network.file_bytes:
        return
    after = _after(model, network, number, pace.object_bytes * size / network.file_bytes)
    now = size_text(round(network.file_bytes))
    change = f"shards of {size_text(size)}, from {now} (fastload convert --shard-size)"
    yield bound(change, "each request brings more for the same wait", model, after, "read")


def _fewer_bytes(model: Model, network: Network) -> Iterator[Advice]:
    """Where all connections together are at their end."""
    pace, number = network.pace, network.at_a_time()
    if pace.at_its_end(number):
        change = "a faster connection to the server, or fewer bytes a sample (fastload pack: prepared once)"
        speed = size_text(round(pace.most_bytes_per_second))
        why = f"more at a time bring nothing: {speed}/s is all that comes"
        yield bound(change, why, model, replace(model, fetch_ms=0.0), "read")


def _cache(model: Model, network: Network) -> Iterator[Advice]:
    """A cache that loses shards from epoch to epoch."""
    if not network.missing_later:
        return
    data, room = size_text(round(network.data_bytes)), size_text(round(network.room_bytes))
    later = replace(model, fetch_ms=network.fetch_ms(model.rows, missing=network.missing_later))
    kept = 1 - network.missing_later
    since = "once its sources were gone through" if network.window is None else "from the second epoch on"
    why = f"{since}: of {data}, a cache of {room} has {kept:.0%} from the epoch before"
    change = f"a cache of {data} (cache_size, or cache_dir on a larger disk)"
    yield advise(change, why, later, replace(model, fetch_ms=0.0), "read")

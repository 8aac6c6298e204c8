"""How fast a server gives objects, and what a cache has of them from epoch to epoch: arithmetic, nothing is fetched.

    one at a time     bytes / (latency + bytes / bandwidth), the bytes of an object and the bandwidth of a connection
    n at a time       n times that, as far as all connections together give it

Where the latency is most of an object's time, more at a time or larger objects help; where the bandwidth of each
connection is, more at a time; where that of all together is, only fewer bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

_SATURATED = 0.8  # of what as many more connections would give if none were in the way of another
_NEARLY = 0.8  # of the most that came


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What was measured of a server.

    Attributes:
        object_bytes: of an object in the mean: a file of shards, or the index beside one.
        latency_seconds: of a request for next to nothing.
        connection_bytes_per_second: of one connection, once bytes come.
        rates: (objects at a time, bytes/s of all together with every wait), ascending.
    """

    object_bytes: float
    latency_seconds: float
    connection_bytes_per_second: float
    rates: tuple[tuple[int, float], ...]

    @property
    def most_downloads(self) -> int:
        """How many at a time were tried."""
        return self.rates[-1][0]

    @property
    def most_bytes_per_second(self) -> float:
        """Of all numbers at a time."""
        return max(rate for _, rate in self.rates)

    def object_seconds(self, object_bytes: float | None = None) -> float:
        """What an object takes over one connection; None: of the mean size."""
        size = self.object_bytes if object_bytes is None else object_bytes
        return max(1e-9, self.latency_seconds + size / self.connection_bytes_per_second)

    def bytes_per_second(self, downloads: int, object_bytes: float | None = None) -> float:
        """Of so many at a time; between those that were tried in proportion to the fewer ones. More than were tried
        give no more than those; of objects of another size the most is only known where connections are at their end.
        """
        number, rate = next((each for each in reversed(self.rates) if each[0] <= downloads), self.rates[0])
        rate = min(rate * min(downloads, self.most_downloads) / number, self.most_bytes_per_second)
        if object_bytes is None:
            return rate
        seconds = self.object_seconds() / self.object_seconds(object_bytes)
        other = rate * object_bytes / self.object_bytes * seconds
        return min(other, self.most_bytes_per_second) if self.is_saturated else other

    @property
    def is_saturated(self) -> bool:
        """More connections than some number bring little: all together are at their end."""
        if len(self.rates) < 2:
            return False
        (fewer, less), (number, rate) = self.rates[-2:]
        return rate < _SATURATED * less * number / fewer

    def at_its_end(self, downloads: int) -> bool:
        """Whether so many at a time have all that comes over all connections."""
        return self.is_saturated and self.bytes_per_second(downloads) >= _NEARLY * self.most_bytes_per_second

    def reason(self, downloads: int) -> Literal["latency", "bandwidth"]:
        """What an object that is one of so many at a time waits for."""
        late = self.latency_seconds >= self.object_seconds() / 2
        return "latency" if late and not self.at_its_end(downloads) else "bandwidth"


def kept_share(room_bytes: float, data_bytes: float, *, shuffled: bool = True, parts: int = 1) -> float:
    """Of the bytes of an epoch, what a cache has from the epochs before, 0 to 1.

    Args:
        room_bytes, data_bytes: of the cache, and of all data.
        shuffled: in the order of packing each shard goes just before it is needed again.
        parts: of the data, of which an epoch needs one: where it is shuffled, of other shards each time.

    The least recently used goes first. At v of an epoch (0 to 1) a cache with room for c parts has v of what this epoch
    has used, which it does not need again, and c - v of the other shards, of which there are parts - v. The next one is
    any of these: so of an epoch it has the integral of (c - v) / (parts - v), as far as v < c. In one part a cache of
    half of the data has 15%, one of 90% has 67%; of 8 parts, a cache of one has 7% of the next.
    """
    room = room_bytes * parts / max(data_bytes, 1e-9)
    if not shuffled:
        return float(room >= 1)
    if room >= parts:
        return 1.0
    used = min(1.0, room)
    return max(0.0, used + (parts - room) * math.log(1 - used / parts))

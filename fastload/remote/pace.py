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


def kept_share(room_bytes: float, data_bytes: float, *, shuffled: bool = True) -> float:
    """Of the bytes of an epoch, what a cache has from the epoch before, 0 to 1.

    The least recently used goes first. A shard that stood at u of one epoch and stands at v of the next (0 to 1, drawn
    anew each time) is still there if what was used since has room beside it: what came after u or comes before v, which
    is 1 - u (1 - v) of the data. With q = 1 - room / data that is so where u (1 - v) >= q: for 1 - q + q ln q of all.
    A cache of half of the data has 15%, one of 90% has 67%. In the order of packing each shard goes just before it is
    needed again.
    """
    q = 1 - room_bytes / max(data_bytes, 1e-9)
    if q <= 0:
        return 1.0
    return max(0.0, 1 - q + q * math.log(q)) if shuffled else 0.0

"""Statistics of a data set: sizes, lengths, pixels; sums of integers, so that parts added in any order give the same.

    Measure           how large something is: count, sum, least, most, histogram
    PixelSums         pixels of pictures: mean and standard deviation of each channel
    FieldStatistics   both, of one field
    field_statistics  what index.json has of one split's field
    channels_of       mean and standard deviation to normalise with, from packed data

index.json has them under "statistics", "fields", by split and field. Pixels cost a whole decoding of every picture:
measured on 200 ImageNet files of 110 kB, 1.5 ms each, where making them crop-seekable takes 4.3 ms; hence they are an
option. Decoded at 1/8 of the size (libjpeg's scaled DCT) they would take 0.9 ms, and the standard deviations come out
6 to 7% too small, because each pixel is then the mean of 64.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastload.decode.base import Raw
from fastload.decode.headers import read_header
from fastload.decode.jpeg import decode_jpeg
from fastload.decode.pillow import decode_with_pillow
from fastload.errors import ConfigError
from fastload.remote.cache import Cache
from fastload.remote.settings import Remote
from fastload.remote.urls import is_url, parent_url, path_of, shown
from fastload.shards.behind import packed_folder
from fastload.shards.foreign import is_shard
from fastload.shards.index import INDEX_NAME, Index, IndexFile

_LEVELS = np.arange(256, dtype=np.int64)
_TOP = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How large something is, over some samples: whole numbers from 0.

    Attributes:
        count: of the numbers.
        total: their sum.
        least, most: 0 if there are none.
        histogram: entry b counts the numbers of b bits, those in [2^(b-1), 2^b); entry 0 counts zeros.
    """

    count: int = 0
    total: int = 0
    least: int = 0
    most: int = 0
    histogram: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Self:
        """Of whole numbers in [0, 2^53), [n]."""
        array = np.asarray(values, np.int64)
        if not array.size:
            return cls()
        bits = np.frexp(array.astype(np.float64))[1]
        return cls(
            count=array.size,
            total=sum(array.tolist()) if int(array.max()) >> 40 else int(array.sum()),
            least=int(array.min()),
            most=int(array.max()),
            histogram=tuple(np.bincount(bits).tolist()),
        )

    @classmethod
    def total_of(cls, parts: Iterable[Measure]) -> Self:
        some = [part for part in parts if part.count]
        if not some:
            return cls()
        longest = max(len(part.histogram) for part in some)
        rows = [part.histogram + (0,) * (longest - len(part.histogram)) for part in some]
        return cls(
            count=sum(part.count for part in some),
            total=sum(part.total for part in some),
            least=min(part.least for part in some),
            most=max(part.most for part in some),
            histogram=tuple(map(sum, zip(*rows, strict=True))),
        )

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "sum": self.total,
            "min": self.least,
            "max": self.most,
            "histogram": list(self.histogram),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            count=data["count"],
            total=data["sum"],
            least=data["min"],
            most=data["max"],
            histogram=tuple(data["histogram"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSums:
    """Sums over all pixels of some pictures, as RGB of 8 bits: what `Image()` gives.

    Attributes:
        pictures, pixels: how many.
        totals, squares: sum of the values and of their squares, of red, green and blue.
    """

    pictures: int = 0
    pixels: int = 0
    totals: tuple[int, int, int] = (0, 0, 0)
    squares: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def of(cls, raw: Raw) -> Self:
        """Of one encoded picture; grey ones count as three equal channels, transparency is dropped.

        Raises: DecodeError if it does not decode.
        """
        header = read_header(raw)
        decoded = decode_jpeg(raw, header, "RGB") if header.kind == "jpeg" else decode_with_pillow(raw, header, "RGB")
        counts = np.array(Image.fromarray(decoded).histogram(), np.int64).reshape(3, 256)
        return cls(
            pictures=1,
            pixels=decoded.shape[0] * decoded.shape[1],
            totals=_three(counts @ _LEVELS),
            squares=_three(counts @ _LEVELS**2),
        )

    @classmethod
    def total_of(cls, parts: Iterable[PixelSums]) -> Self:
        some = list(parts)
        return cls(
            pictures=sum(part.pictures for part in some),
            pixels=sum(part.pixels for part in some),
            totals=_three(sum(part.totals[c] for part in some) for c in range(3)),
            squares=_three(sum(part.squares[c] for part in some) for c in range(3)),
        )

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, pixels being in [0, 1]."""
        return tuple(total / (_TOP * self.pixels) for total in self.totals)

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, over all pixels of all pictures, pixels being in [0, 1]."""
        n = self.pixels  # the variance's numerator is a whole number: nothing is lost before the root
        return tuple(
            math.sqrt((n * square - total * total) / (n * n * _TOP * _TOP))
            for total, square in zip(self.totals, self.squares, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        sums = {"pictures": self.pictures, "pixels": self.pixels, "sum": list(self.totals)}
        return sums | {"squares": list(self.squares), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            pictures=data["pictures"],
            pixels=data["pixels"],
            totals=_three(data["sum"]),
            squares=_three(data["squares"]),
        )


def _three(values: Iterable[int]) -> tuple[int, int, int]:
    red, green, blue = map(int, values)
    return red, green, blue


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldStatistics:
    """What is known of one field over some samples.

    Attributes:
        measures: by what is measured: "bytes" of the contents, and the index's facts: "width", "height", "frames",
            "sample_rate", "count" (of tokens).
        pixels: of pictures, if they were asked for.
    """

    measures: Mapping[str, Measure] = field(default_factory=dict)
    pixels: PixelSums | None = None

    @classmethod
    def total_of(cls, parts: Iterable[FieldStatistics]) -> Self:
        some = list(parts)
        names = dict.fromkeys(name for part in some for name in part.measures)
        pixels = [part.pixels for part in some if part.pixels is not None]
        return cls(
            measures={n: Measure.total_of(p.measures[n] for p in some if n in p.measures) for n in names},
            pixels=PixelSums.total_of(pixels) if pixels else None,
        )

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {name: measure.to_json() for name, measure in self.measures.items()}
        return data if self.pixels is None else data | {"channels": self.pixels.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        channels = data.get("channels")
        return cls(
            measures={name: Measure.from_json(about) for name, about in data.items() if name != "channels"},
            pixels=None if channels is None else PixelSums.from_json(channels),
        )


Statistics = Mapping[str, FieldStatistics]


def measured(sizes: Mapping[str, npt.ArrayLike], facts: Mapping[str, npt.ArrayLike]) -> dict[str, FieldStatistics]:
    """By field, what some samples' sizes and facts give.

    Args:
        sizes: field -> bytes of each content, [n].
        facts: "<field>.<what>" -> [n], as the index has them.
    """
    found = {name: {"bytes": Measure.of(values)} for name, values in sizes.items()}
    for fact, values in facts.items():
        name, _, what = fact.rpartition(".")
        found.setdefault(name, {})[what] = Measure.of(values)
    return {name: FieldStatistics(measures=measures) for name, measures in found.items()}


def joined(parts: Iterable[Statistics]) -> dict[str, FieldStatistics]:
    """The statistics of several parts as one, by field."""
    some = list(parts)
    names = dict.fromkeys(name for part in some for name in part)
    return {name: FieldStatistics.total_of(part[name] for part in some if name in part) for name in names}


def field_statistics(statistics: Mapping[str, Any], split: str, name: str) -> FieldStatistics | None:
    """What the statistics of an index.json say of one split's field; None where it has none.

    Args:
        statistics: `IndexFile.statistics`.
        split, name: of the split and the field.
    """
    found = statistics.get("fields", {}).get(split, {}).get(name)
    return None if found is None else FieldStatistics.from_json(found)


class Indexed(Protocol):
    """A data set that knows its shards, such as `StreamingDataset`."""

    @property
    def index(self) -> Index: ...


def channels_of(
    data: str | os.PathLike[str] | IndexFile | Indexed, split: str, field: str, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of a split's pictures, pixels being in [0, 1].

    Args:
        data: a packed folder, a split in it, its index.json, what that says, or a data set of it.
        split, field: whose pictures.
        channels: 3, or 1 where all pictures are grey.

    Raises:
        ConfigError: the data has no index.json, no such split or field, or no statistics of its pixels; or pictures are
            coloured and one channel was asked for.
    """
    index, name = (data, "the index") if isinstance(data, IndexFile) else index_file_of(data)
    for what, wanted, known in (("split", split, index.splits), ("field", field, index.fields)):
        if wanted not in known:
            raise ConfigError(f"{name} has no {what} {wanted!r}; it has {', '.join(map(repr, known))}")
    if channels not in (1, 3):
        raise ConfigError(f"channels={channels}: pass 3, or 1 for grey pictures")
    found = field_statistics(index.statistics, split, field)
    if found is None or found.pixels is None:
        raise ConfigError(
            f"{name} has no pixel statistics of field {field!r} in split {split!r}: pack with statistics=True"
            " (--statistics), or pass mean and std"
        )
    mean, std = found.pixels.mean, found.pixels.std
    if channels == 1 and len({*zip(mean, std, strict=True)}) > 1:
        raise ConfigError("channels=1: the pictures are coloured; pass channels=3")
    return mean[:channels], std[:channels]


def index_file_of(data: str | os.PathLike[str] | Indexed) -> tuple[IndexFile, str]:
    """The index.json of some data, and what errors call it.

    Raises:
        ConfigError: there is none.
    """
    if not isinstance(data, str | os.PathLike) and not hasattr(getattr(data, "index", None), "paths"):
        raise ConfigError(f"a {type(data).__name__} has no index: pass the packed folder, or the data set")
    named = os.fspath(data if isinstance(data, str | os.PathLike) else (*data.index.paths, ".")[0])
    if is_url(named):
        cache = Cache(Remote()) if isinstance(data, str | os.PathLike) else data.index.cache or Cache(Remote())
        url = named if not is_shard(path_of(named)) else parent_url(named)
        for at in (url, parent_url(url)):
            found, above = packed_folder(at, cache)
            if found is not None:
                return found, shown(above)
        raise ConfigError(f"{shown(named)} has no {INDEX_NAME}, which holds the statistics; pass a packed folder")
    place = Path(named)
    for folder in (place, place.parent, place.parent.parent):  # the whole folder, a split or index.json in it, a shard
        path = folder / INDEX_NAME
        if path.is_file():
            return IndexFile.load(path), str(path)
    raise ConfigError(f"{place} has no {INDEX_NAME}, which holds the statistics; pass a folder that fastload packed")

"""Where the samples of a stream are from, as errors and lists say it, in about 25 bytes each: a file is named once."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

_COMMA = ", "


class Places:
    """The place of each sample, a file and where in it: "corpus/a.jsonl, line 7". Any text may be one."""

    def __init__(self, places: Iterable[str] = ()) -> None:
        self._files: dict[str, int] = {}
        self._names: list[str] = []  # by their number
        self._file_of = array("i")
        self._within = bytearray()
        self._ends = array("q", [0])  # in `_within`
        for place in places:
            self.append(place)

    def append(self, place: str) -> None:
        """Add that of the next sample."""
        name, comma, within = place.rpartition(_COMMA)
        number = self._files.setdefault(name + comma, len(self._files))
        if number == len(self._names):
            self._names.append(name + comma)
        self._file_of.append(number)
        self._within += within.encode("utf-8", "surrogatepass")  # names of files may be no UTF-8
        self._ends.append(len(self._within))

    def __len__(self) -> int:
        return len(self._file_of)

    def __getitem__(self, row: int) -> str:
        within = self._within[self._ends[row] : self._ends[row + 1]]
        return self._names[self._file_of[row]] + within.decode("utf-8", "surrogatepass")

    def take(self, rows: Iterable[int]) -> Places:
        """Those of some samples, in the order of `rows`."""
        return Places(self[row] for row in rows)

"""Samples whose contents are equal or nearly so: which earlier one each of them repeats.

Near duplicates are found greedily: samples come in an order, and one that is near an earlier one that was kept is not
kept. So nothing is left out that is not near something that stays, which chains of pairs would not promise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fastload.order.hashing import combine_array
from fastload.pack.likeness import SIGNATURE

Int64s = npt.NDArray[np.int64]
U64s = npt.NDArray[np.uint64]
ALIKE_COLOUR = 32  # of 255, the most that any of 4 x 4 x 3 averages differs; 10% brighter: 24 at most
_FOUND = 0.95  # of pairs that are just as similar as is asked, at least this share become candidates
_CHUNK_BITS = 16
_CHUNKS = 64 // _CHUNK_BITS
_PAIRS_OF_BITS, _FOURS = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_EIGHTS, _EVERY_BYTE = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)
_PAIRS = 1 << 22  # compared at a time


class Judge(Protocol):
    """Says which samples are near each other, by one kind of content."""

    def near(self, row: int, others: Int64s) -> npt.NDArray[np.bool_]:
        """Which of some samples are near one, bool [k]."""

    def says(self, row: int, other: int) -> str:
        """How near two samples are, for people."""


class Finder(Judge, Protocol):
    """A judge that remembers samples and finds those that may be near one."""

    def add(self, row: int) -> None:
        """Remember a sample."""

    def candidates(self, row: int) -> Iterator[int]:
        """Samples that were added and may be near; may come more than once, and may not be near."""


def repeats(digests: Sequence[bytes]) -> dict[int, int]:
    """The first sample with the same digest, for each that is not the first; by number in the order given."""
    first: dict[bytes, int] = {}
    return {at: found for at, digest in enumerate(digests) if (found := first.setdefault(digest, at)) != at}


def near_repeats(rows: Sequence[int], finder: Finder, others: Sequence[Judge]) -> dict[int, tuple[int, str]]:
    """For each sample that is near an earlier one that is kept: the first such one, and how near.

    Args:
        rows: samples, the first to be kept first.
        finder: finds candidates.
        others: what else must find two samples near.
    """
    place = {row: at for at, row in enumerate(rows)}
    found: dict[int, tuple[int, str]] = {}
    judges = (finder, *others)
    for row in rows:
        near = np.array(sorted(set(finder.candidates(row)), key=place.__getitem__), np.int64)
        for judge in judges:
            if len(near):
                near = near[judge.near(row, near)]
        if len(near):
            first = int(near[0])
            found[row] = first, ", ".join(filter(None, (judge.says(row, first) for judge in judges)))
        else:
            finder.add(row)
    return found


class NearPictures:
    """Pictures by their perceptual hashes and thumbnails.

    Hashes that differ in at most `bits` places differ in at most bits // 4 in one of four chunks of 16 (Norouzi,
    Punjani and Fleet, "Fast search in Hamming space with multi-index hashing", 2012): no pair is missed. Most pictures
    are near no other; all are compared once to tell, array by array, so that only the rest are looked up one by one.

    Args:
        hashes: uint64 [n].
        thumbnails: uint8 [n, 48].
        bits: how many may differ, up to 11.
    """

    def __init__(self, hashes: U64s, thumbnails: npt.NDArray[np.uint8], bits: int) -> None:
        self._hashes = hashes
        self._thumbnails = thumbnails.astype(np.int16)
        self._bits = bits
        self._chunks = _chunks(hashes)  # [n, 4]
        self._masks = [
            sum(1 << bit for bit in chosen)
            for count in range(bits // _CHUNKS + 1)
            for chosen in combinations(range(_CHUNK_BITS), count)
        ]
        self._alone = _alone(hashes, bits, self._masks)
        self._added: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(_CHUNKS)]

    def add(self, row: int) -> None:
        if self._alone[row]:
            return
        for chunk, rows in zip(self._chunks[row].tolist(), self._added, strict=True):
            rows[chunk].append(row)

    def candidates(self, row: int) -> Iterator[int]:
        if self._alone[row]:
            return
        for chunk, rows in zip(self._chunks[row].tolist(), self._added, strict=True):
            for mask in self._masks:
                yield from rows.get(chunk ^ mask, ())

    def near(self, row: int, others: Int64s) -> npt.NDArray[np.bool_]:
        differing = _ones(self._hashes[others] ^ self._hashes[row])
        colours = np.abs(self._thumbnails[others] - self._thumbnails[row]).max(1)
        alike: npt.NDArray[np.bool_] = (differing <= self._bits) & (colours <= ALIKE_COLOUR)
        return alike

    def says(self, row: int, other: int) -> str:
        return f"perceptual hashes differ in {int(self._hashes[row] ^ self._hashes[other]).bit_count()} of 64 bits"


def _chunks(hashes: U64s) -> npt.NDArray[np.int64]:
    """The four chunks of each hash, int64 [n, 4]."""
    chunks: npt.NDArray[np.int64] = hashes.astype("<u8").view("<u2").reshape(-1, _CHUNKS).astype(np.int64)
    return chunks


def _alone(hashes: U64s, bits: int, masks: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which hashes no other is within `bits` of, bool [n]."""
    distinct, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    alone = counts == 1
    for chunk in _chunks(distinct).T:
        order = np.argsort(chunk, kind="stable")
        starts = np.searchsorted(chunk[order], np.arange((1 << _CHUNK_BITS) + 1))  # of each value in that order
        for mask in masks:
            wanted = chunk ^ mask
            first, several = starts[wanted], starts[wanted + 1] - starts[wanted]
            for begin, end in _blocks(several):
                here = several[begin:end]
                one = np.repeat(np.arange(begin, end), here)  # [pairs]
                place = np.arange(len(one)) - np.repeat(np.cumsum(here) - here, here)  # among those of the same one
                other = order[np.repeat(first[begin:end], here) + place]
                near = (_ones(distinct[one] ^ distinct[other]) <= bits) & (one != other)
                alone[one[near]] = False
    found: npt.NDArray[np.bool_] = alone[inverse]
    return found


def _ones(words: U64s) -> npt.NDArray[np.int64]:
    """How many bits are set in each of some words, int64 [k] (Warren, "Hacker's Delight", 5-1); NumPy 1 has no such."""
    words = words - ((words >> np.uint64(1)) & _PAIRS_OF_BITS)
    words = (words & _FOURS) + ((words >> np.uint64(2)) & _FOURS)
    words = (words + (words >> np.uint64(4))) & _EIGHTS
    return ((words * _EVERY_BYTE) >> np.uint64(56)).astype(np.int64)


def _blocks(counts: Int64s) -> Iterator[tuple[int, int]]:
    """[start, stop) of consecutive counts that add up to about `_PAIRS`, or are one."""
    ends, start = np.cumsum(counts), 0
    while start < len(counts):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + _PAIRS, "right")), start + 1)
        yield start, stop
        start = stop


class NearTexts:
    """Texts by their MinHash signatures.

    Candidates agree in all places of one band ("Mining of Massive Datasets", 3.4); bands are as long as finds 95% of
    the pairs that are just similar enough, and more of the others.

    Args:
        signatures: uint32 [n, 128].
        similarity: share of places in which two must agree.
    """

    def __init__(self, signatures: npt.NDArray[np.uint32], similarity: float) -> None:
        self._signatures = signatures
        self._similarity = similarity
        rows = band_rows(similarity)
        self._bands = [_band(signatures[:, at : at + rows]) for at in range(0, SIGNATURE - rows + 1, rows)]
        self._added: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in self._bands]

    def add(self, row: int) -> None:
        for band, rows in zip(self._bands, self._added, strict=True):
            if band[row] >= 0:
                rows[int(band[row])].append(row)

    def candidates(self, row: int) -> Iterator[int]:
        for band, rows in zip(self._bands, self._added, strict=True):
            yield from rows.get(int(band[row]), ())

    def near(self, row: int, others: Int64s) -> npt.NDArray[np.bool_]:
        agreeing = (self._signatures[others] == self._signatures[row]).mean(1)
        alike: npt.NDArray[np.bool_] = agreeing >= self._similarity
        return alike

    def says(self, row: int, other: int) -> str:
        return f"texts are {(self._signatures[row] == self._signatures[other]).mean():.0%} similar"


class Equal:
    """Contents that have to be the same: digests, uint8 [n, 16]."""

    def __init__(self, digests: npt.NDArray[np.uint8]) -> None:
        self._digests = digests

    def near(self, row: int, others: Int64s) -> npt.NDArray[np.bool_]:
        same: npt.NDArray[np.bool_] = (self._digests[others] == self._digests[row]).all(1)
        return same

    def says(self, row: int, other: int) -> str:
        return ""


def band_rows(similarity: float) -> int:
    """How long bands are: the longest that let a pair of this similarity be missed by all of them at most 5 times in
    100."""

    def found(rows: int) -> float:
        return 1 - (1 - similarity**rows) ** (SIGNATURE // rows)

    return max(rows for rows in range(1, SIGNATURE + 1) if rows == 1 or found(rows) >= _FOUND)


def _band(places: npt.NDArray[np.uint32]) -> Int64s:
    """A number for what each sample has in a band, int64 [n]; -1 where no other has the same."""
    key = np.zeros(len(places), np.uint64)
    for column in places.T:
        key = combine_array(key, column)
    _, numbers, counts = np.unique(key, return_inverse=True, return_counts=True)
    alone: Int64s = np.where(counts[numbers] > 1, numbers, -1)
    return alone

"""Documents of various lengths packed into rows of one length, from the lengths in the index.

Which lengths share a row is worked out once, by best fit decreasing, over pools of documents that lie together. Which
document of a length goes where is dealt anew in every epoch, and the rows are shuffled as samples are. So an epoch has
the same rows in number and in fill every time, each document is in it once, and everything that holds of samples holds
of rows: shares, states, mixing, resume in O(1).

Source of the packing: histograms of lengths instead of documents, as in Krell et al., "Efficient sequence packing
without cross-contamination", 2021; best fit decreasing, as in Ding et al., "Fewer truncations improve language
modeling", ICML 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from fastload.errors import ConfigError
from fastload.order.arguments import integer
from fastload.order.hashing import combine, combine_array
from fastload.order.permute import permute
from fastload.order.sampler import Base, BoundSampler, Columns, digest
from fastload.order.shuffle import Ints, Order

_DEAL = 6  # what the keys of dealing are for
_SMALL_RUN = 64
_UNSHUFFLED_SHARDS = 4  # of a pool at most, if the order has no window that says how many may be at hand


@dataclass(frozen=True, slots=True)
class PackSequences:
    """Rows of `length` tokens, each of one or more whole documents, every document once an epoch.

    With it, `fields` declares that token field, and any others that have as many tokens in each document (masks, say),
    as Tokens(length). A batch then has, beside `<name>` [B, length]:

        position_ids   int64 [B, length]      place in the document, from 0; 0 on padding
        segment_ids    int64 [B, length]      1, 2, ... for the row's documents, 0 on padding
        cu_seqlens     int32 [segments + 1]   bounds of the documents in the batch as one row of B * length tokens, as
                                              FlashAttention's functions of variable length take them; the padding at
                                              the end of a row is a segment of its own
        max_seqlen     int                    longest of these segments
        __key__        B lists of the keys of the documents in the row

    The stock DataLoader gets the first three. A row that holds a damaged document is masked as a whole under
    on_error="mask". Documents without a token have no place and are left out. The share of tokens that are not padding
    is `dataset.order.fill`.

    Args:
        field: the token field, whose lengths the index has ("tokens.count").
        length: tokens of a row.
        longer: what becomes of a document longer than a row. "split": it is cut into rows' worth and a rest, each a
            document of its own from then on; "error": refused.
        pool: about how many documents are packed together; pools are made of whole shards, of no more than the order's
            window. 65,536 of lengths as on the web fill 99.99% of rows of 2,048 tokens, and 15% of the pairs that share
            a row do so again in the next epoch, for few others have their lengths; 8,192 fill 99.97%, 35% of pairs.
            Packing takes 1 to 2 us a document, when the data set is opened; then epochs begin and resume at once.

    Raises:
        ConfigError: a length or pool below 1; from `bind`: a document that is too long, where these are refused.
    """

    field: str
    length: int
    longer: Literal["split", "error"] = "split"
    pool: int = 65536

    def __post_init__(self) -> None:
        integer("length", self.length, least=1)
        integer("pool", self.pool, least=1)
        if self.longer not in ("split", "error"):
            raise ConfigError(f"PackSequences(longer={self.longer!r}): pass 'split' or 'error'")

    @property
    def columns(self) -> tuple[str, ...]:
        return (f"{self.field}.count",)

    def bind(self, base: Base, columns: Columns) -> BoundSampler:
        lengths = np.asarray(columns[self.columns[0]])
        if (lengths.size and lengths.dtype.kind not in "iu") or (lengths < 0).any():
            raise ConfigError(f"PackSequences: {self.columns[0]!r} holds {lengths.dtype} values that are no lengths")
        longest = int(lengths.max(initial=0))
        if self.longer == "error" and longest > self.length:
            raise ConfigError(
                f"PackSequences: sample {int(lengths.argmax())} has {longest} tokens, and rows {self.length}; pass "
                "longer='split', or leave long ones out with Subset"
            )
        return BoundPacking(base, lengths.astype(np.int64), self.field, self.length, self.pool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """What some rows consist of: pieces of documents, row after row, each row's from its first column on.

    Attributes:
        bounds: first piece of each row, int64 [rows + 1].
        numbers: each row's number among all rows of the data, int64 [rows].
        shards, rows: where each piece's document is, int64 [pieces].
        skip: its first token in the document.
        sizes: its tokens.
        lengths: tokens of the whole document.
    """

    bounds: Ints
    numbers: Ints
    shards: Ints
    rows: Ints
    skip: Ints
    sizes: Ints
    lengths: Ints


def join_pieces(parts: Sequence[Pieces], places: Sequence[Ints], rows: int) -> Pieces:
    """The pieces of `rows` rows from those of some of them each; `places[i]` says which rows parts[i] has, int64."""
    counts = np.zeros(rows, np.int64)
    for part, where in zip(parts, places, strict=True):
        counts[where] = np.diff(part.bounds)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    columns = {name: np.empty(bounds[-1], np.int64) for name in ("shards", "rows", "skip", "sizes", "lengths")}
    numbers = np.empty(rows, np.int64)
    for part, where in zip(parts, places, strict=True):
        numbers[where] = part.numbers
        at = np.repeat(bounds[where] - part.bounds[:-1], np.diff(part.bounds)) + np.arange(part.bounds[-1])
        for name, column in columns.items():
            column[at] = getattr(part, name)
    return Pieces(bounds=bounds, numbers=numbers, **columns)


class BoundPacking:
    """Maps (epoch, position) to (pool, row of the pool), and these to pieces.

    Holds about 32 bytes a document, for all epochs.

    Attributes:
        samples: rows in an epoch.
        fill: share of their tokens that is not padding.
        length: tokens of a row.
        field: name of the field whose lengths these are.
    """

    def __init__(self, base: Base, lengths: Ints, field: str, length: int, pool: int) -> None:
        self._base, self._lengths, self.field, self.length = base, lengths, field, length
        self.fingerprint = digest("PackSequences", lengths, np.array([length, pool]))
        pool_of_shard = _pools_of_shards(base, pool)  # [S]
        documents, skip = _cut(lengths, length)  # [P] pieces
        sizes = np.minimum(lengths[documents] - skip, length)
        pools = np.repeat(pool_of_shard, base.sizes)[documents]
        # Pieces in the order of (pool, size). A *run* is of those that are equal in both, and may change places.
        order = np.lexsort((sizes, pools))
        self._documents, self._skip = documents[order], skip[order]
        sizes, pools = sizes[order], pools[order]
        first = np.flatnonzero((np.diff(sizes, prepend=-1) != 0) | (np.diff(pools, prepend=-1) != 0))  # of each run
        self._runs = np.append(first, len(sizes))  # [runs + 1]
        self._run_sizes = sizes[first]
        # [P] pieces row after row, [R + 1] first of each row, [pools] rows
        self._slots, self._bounds, counts = _fill_rows(
            self._runs, sizes[first], pools[first], self._documents, int(pool_of_shard.max(initial=-1)) + 1, length
        )
        self._first_row = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])  # [pools + 1]
        shards_of_pool = int(np.bincount(pool_of_shard).max()) if len(pool_of_shard) else 1
        window = max(1, base.window // shards_of_pool) if base.window else 0
        self._order = Order(counts, seed=base.seed, window=window, lanes=base.lanes)
        self.samples = self._order.samples
        self.fill = float(sizes.sum()) / (self.samples * length) if self.samples else 1.0

    def locate(self, epochs: npt.ArrayLike, positions: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Pool and row in the pool of each position, int64 [k] each; they stand where shard and row do."""
        return self._order.locate(epochs, positions)

    def pieces(self, epochs: Ints, pools: Ints, rows: Ints) -> Pieces:
        """What rows consist of; epochs, pools and rows are int64 [k]."""
        numbers = self._first_row[pools] + rows
        counts = self._bounds[numbers + 1] - self._bounds[numbers]
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])  # [k + 1]
        slots = self._slots[np.repeat(self._bounds[numbers] - bounds[:-1], counts) + np.arange(bounds[-1])]
        runs = np.searchsorted(self._runs, slots, "right") - 1
        if self._base.window:
            slots = self._dealt(np.repeat(epochs, counts), runs, slots)
        documents = self._documents[slots]
        shards, rows_in_shard = self._base.place(documents)
        return Pieces(
            bounds=bounds,
            numbers=numbers,
            shards=shards,
            rows=rows_in_shard,
            skip=self._skip[slots],
            sizes=self._run_sizes[runs],
            lengths=self._lengths[documents],
        )

    def _dealt(self, epochs: Ints, runs: Ints, slots: Ints) -> Ints:
        """The piece in each slot: those of one run change places, by a bijection that epoch and run name."""
        first = self._runs[runs]
        counts, places = self._runs[runs + 1] - first, slots - first
        keys = combine_array(combine_array(combine(self._base.seed, _DEAL), epochs), runs)
        dealt = np.empty_like(slots)
        large = np.flatnonzero(counts > _SMALL_RUN)
        dealt[large] = permute(places[large], counts[large], keys[large])
        small = np.flatnonzero(counts <= _SMALL_RUN)  # where `permute` would walk long: by the rank of a hash
        others = np.arange(int(counts[small].max(initial=0)))
        hashes = combine_array(keys[small, None], others)  # [k, places of a run], all different in a row
        below = hashes < np.take_along_axis(hashes, places[small, None], 1)
        dealt[small] = np.count_nonzero(below & (others < counts[small, None]), axis=1)
        return first + dealt


def _pools_of_shards(base: Base, documents: int) -> Ints:
    """Which pool each shard is in, int64 [S]: runs of about so many documents, of no more shards than the window."""
    most = base.window or _UNSHUFFLED_SHARDS
    shards = np.arange(len(base.sizes))
    groups = np.stack([base.offsets[:-1] // documents, shards // most])
    return np.cumsum(np.diff(groups, prepend=groups[:, :1]).any(0))


def _cut(lengths: Ints, length: int) -> tuple[Ints, Ints]:
    """The pieces of all documents: which document, and its first token there; int64 [pieces] each."""
    counts = -(-lengths // length)
    documents = np.repeat(np.arange(len(lengths)), counts)
    return documents, (np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)) * length


def _fill_rows(
    runs: Ints, sizes: Ints, pools: Ints, documents: Ints, pool_count: int, length: int
) -> tuple[Ints, Ints, Ints]:
    """Best fit decreasing in each pool.

    Args:
        runs: first piece of each run, and the end, int64 [runs + 1].
        sizes, pools: of each run, int64 [runs]; ascending in (pool, size).
        documents: of each piece: rows come in the order of their first.

    Returns:
        The pieces, row after row, int64 [pieces]; the first of each row, int64 [rows + 1]; rows of each pool.
    """
    slots, counts, rows = [], [], np.zeros(pool_count, np.int64)
    edges = np.searchsorted(pools, np.arange(pool_count + 1)).tolist()
    for pool, (start, stop) in enumerate(pairwise(edges)):
        if start == stop:
            continue
        starts, histogram = runs[start:stop], np.diff(runs[start : stop + 1])
        row_of, pieces = _best_fit(sizes[start:stop].tolist(), histogram.tolist(), starts.tolist(), length)
        first = np.full(int(row_of.max()) + 1, np.iinfo(np.int64).max)  # document of each row
        np.minimum.at(first, row_of, documents[pieces])
        rank = np.empty_like(first)
        rank[np.argsort(first, kind="stable")] = np.arange(len(first))
        slots.append(pieces[np.argsort(rank[row_of], kind="stable")])
        counts.append(np.bincount(rank[row_of]))
        rows[pool] = len(first)
    bounds = np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts]))
    return np.concatenate([np.zeros(0, np.int64), *slots]), bounds, rows


def _best_fit(sizes: list[int], counts: list[int], starts: list[int], length: int) -> tuple[Ints, Ints]:
    """The row of each piece, and the pieces, longest first: each goes where it leaves the least room.

    Sizes ascend; those of one size are placed together, and rows with the same room are one group of candidates.
    """
    by_room: dict[int, list[int]] = {}  # room -> rows
    rooms = 0  # bit r is set where by_room has rows with room r
    rows = 0
    placed: list[tuple[list[int], int, int]] = []  # (rows, pieces in each, first piece)
    for size, left, piece in zip(reversed(sizes), reversed(counts), reversed(starts), strict=True):
        while left:
            fitting = rooms >> size
            room = size + (fitting & -fitting).bit_length() - 1 if fitting else length
            each = min(room // size, left)
            wanted = left // each
            if fitting:
                waiting = by_room[room]
                chosen = waiting[-wanted:]
                del waiting[-wanted:]
                if not waiting:
                    rooms &= ~(1 << room)
            else:
                chosen = list(range(rows, rows + wanted))
                rows += wanted
            placed.append((chosen, each, piece))
            left -= each * len(chosen)
            piece += each * len(chosen)
            rest = room - each * size
            if rest:
                by_room.setdefault(rest, []).extend(chosen)
                rooms |= 1 << rest
    row_of = np.concatenate([np.repeat(np.array(chosen, np.int64), each) for chosen, each, _ in placed])
    pieces = np.concatenate([np.arange(first, first + each * len(chosen)) for chosen, each, first in placed])
    return row_of, pieces
